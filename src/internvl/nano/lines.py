"""Printed text: single characters, lines and blocks, in many fonts, as scans and screens show them.

draw_line(random.Random(7), Kit(fonts=find_fonts(LEARNT))).turns      # (("Read the text.", "Total: 27"),)
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from internvl.nano.asking import Asked, Asker, Wordings, some_language
from internvl.nano.sample import Kit, Sample, Turn
from internvl.nano.shapes import RGB, add_noise

EXACT = "Read the text."
"""How the task of receipts' lines asks."""
READ = (
    "What does it say?", "Read the text.", "What is written here?", "What text is in the image?", "Read the line.",
    "Transcribe the text.", "What does the text say?", "Please read the text in the image.", "What is written?",
    "What does this line say?", "Read this.", "What text do you see?", "What does the image say?",
    "Read the printed line.", "What is the text in the picture?",
)  # fmt: skip
READ_ZH = ("读出文字。", "图中写的是什么?", "写的是什么?", "请读出图中的文字。", "这行文字是什么?")
LINE: Wordings = ((*(EXACT,) * 7, *READ), READ_ZH)
BLOCK: Wordings = (
    (EXACT, EXACT, EXACT, "Read all lines.", "What does it say?", "Transcribe the text.", "Read the lines.",
     "Please read the text in the image.", "Write down the text, line by line.", "What is written here?",
     "Transcribe the image."),
    ("读出文字。", "请读出图中的文字。", "逐行读出文字。"),
)  # fmt: skip
CHARACTER: Wordings = (
    ("What character is this?", "Which character is this?", "Read the character.", EXACT, "What is written here?",
     "Which letter, digit or sign is this?", "What does it say?"),
    ("这是什么字符?", "读出字符。", "写的是什么?"),
)  # fmt: skip
SORT: Wordings = (
    ("Is it a letter, a digit or a sign?", "Letter, digit or sign?", "Is this a letter, a digit or a sign?"),
    ("这是字母、数字还是符号?",),
)
WHICH_LINE: Wordings = (
    ("What does the {which} line say?", "Read the {which} line.", "What is written in the {which} line?",
     "What is the {which} line?"),
    ("{which}写的是什么?", "读出{which}。"),
)  # fmt: skip
LINES: Wordings = (
    ("How many lines of text are there?", "How many lines are there?", "Count the lines of text."),
    ("有几行文字?", "一共有几行?"),
)
WHICH = (
    ("first", "第一行"), ("second", "第二行"), ("third", "第三行"), ("fourth", "第四行"), ("fifth", "第五行"),
    ("sixth", "第六行"), ("seventh", "第七行"), ("eighth", "第八行"),
)  # fmt: skip

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
SIGNS = ".,:-/()&%#@*+'!?$"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abdefghijkmnpqrtuy" + DIGITS + "%&#@*+?!$/()-="
"""Those that can be told from each other without a neighbour: no small c, o, s, v, w, x, z or l."""
MIXED = {"O": "0", "0": "O", "1": "I", "I": "1", "5": "S", "S": "5", "8": "B", "B": "8", "2": "Z", "Z": "2", "6": "G",
         "G": "6", "c": "e", "e": "c", "n": "h", "h": "n", "3": "8", "7": "1", "4": "9", "9": "4", "a": "o", "u": "v",
         ".": ",", ",": ".", "E": "F", "F": "E", "D": "O", "M": "N", "N": "M", "/": "1", "t": "f", "i": "l",
         "l": "i"}  # fmt: skip
"""What a character is often taken for."""


# ---- samples ---------------------------------------------------------------------------------------------------------


def draw_character(rng: random.Random, kit: Kit) -> Sample:
    """One character, its class; often as narrow as in a long line that is pressed into a square."""
    sign = rng.choice(CHARACTERS)
    path, size = pick_font(rng, kit), rng.randint(16, 72)
    face = font(path, size)
    left, top, right, bottom = face.getbbox(sign)
    width, height = max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top))
    tall = max(height, round(size * 0.75))  # small signs keep to their size
    canvas = (round(width * rng.uniform(1.1, 2.5) + size * rng.choice((0.1, 0.3, 1.5, 4))),
              round(tall * rng.uniform(1.1, 1.8) + 2))  # fmt: skip
    place = (rng.randint(0, canvas[0] - width) - left, rng.randint(0, canvas[1] - height) - top)
    ink, paper = pick_inks(rng)
    picture = Image.new("RGB", canvas, paper)
    ImageDraw.Draw(picture).text(place, sign, fill=ink, font=face)
    asker = some_language(rng)
    asked = asker.ask(rng, CHARACTER, sign, MIXED.get(sign) or rng.choice(CHARACTERS.replace(sign, "")), brief=False)
    turns = [asked.turn]
    if rng.random() < 0.2:
        sort = ("letter", "字母") if sign.isalpha() else ("digit", "数字") if sign.isdigit() else ("sign", "符号")
        turns.append(asker.ask(rng, SORT, sort, brief=False).turn)
    return Sample(
        "character", (age(rng, picture, paper),), tuple(turns), label=f"char {sign}", caption=sign, wrong=asked.wrong
    )


def draw_line(rng: random.Random, kit: Kit) -> Sample:
    """One printed line: mostly of at most 12 characters, some of up to 30."""
    text = write(rng, kit.words, rng.choices((6, 12, 20, 30), (2, 6, 2.5, 0.5))[0])
    asked = some_language(rng).ask(rng, LINE, text, misread(rng, text), brief=False)
    caption = text if len(text.split()) <= 3 else None
    return Sample("line", (paint_line(rng, kit, text),), (asked.turn,), caption=caption, wrong=asked.wrong)


def draw_block(rng: random.Random, kit: Kit) -> Sample:
    """3 to 8 lines of text in one picture, to be read line by line."""
    asker = some_language(rng)
    count = rng.randint(3, 8)
    lines = [write(rng, kit.words, rng.choice((10, 14, 18))) for _ in range(count)]
    picture, lines = paint_block(rng, kit, lines)
    number = rng.randrange(count)
    whole = "\n".join(lines)
    other = lines.copy()
    other[number] = misread(rng, lines[number])
    asked = [asker.ask(rng, BLOCK, whole, "\n".join(other), brief=False)]
    if rng.random() < 0.4:
        asked.append(_one_line(rng, asker, lines, number))
    if rng.random() < 0.2:
        asked.append(asker.ask(rng, LINES, str(count), str(count + rng.choice((-1, 1)))))
    if rng.random() < 0.25:
        rng.shuffle(asked)
    turns: tuple[Turn, ...] = tuple(a.turn for a in asked)
    return Sample("block", (picture,), turns, wrong=asked[0].wrong)


def _one_line(rng: random.Random, asker: Asker, lines: Sequence[str], number: int) -> Asked:
    last = number == len(lines) - 1 and rng.random() < 0.5
    wrong = lines[(number + 1) % len(lines)]
    if wrong == lines[number]:
        wrong = misread(rng, wrong)
    which = ("last", "最后一行") if last else WHICH[number]
    return asker.ask(rng, WHICH_LINE, lines[number], wrong, brief=False, which=which)


def misread(rng: random.Random, text: str) -> str:
    """The same text with one mistake.

    >>> misread(random.Random(1), "B")
    '8'
    """
    places = [i for i, sign in enumerate(text) if sign in MIXED]
    if places and (rng.random() < 0.7 or len(text) < 3):
        at = rng.choice(places)
        return text[:at] + MIXED[text[at]] + text[at + 1 :]
    inside = [i for i, sign in enumerate(text) if sign != " "]
    at = rng.choice(inside)
    shorter = " ".join((text[:at] + text[at + 1 :]).split())
    if shorter and rng.random() < 0.5:
        return shorter
    same = DIGITS if text[at].isdigit() else LETTERS
    return text[:at] + rng.choice(same.replace(text[at], "")) + text[at + 1 :]


# ---- pictures --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def font(path: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Loaded once; None is the one inside Pillow."""
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


def pick_font(rng: random.Random, kit: Kit) -> Path | None:
    """Of two draws one is a plain one, if the kit says which are."""
    if not kit.fonts or rng.random() < 0.04:
        return None
    return rng.choice(kit.plain if kit.plain and rng.random() < 0.4 else kit.fonts)


def paint_line(rng: random.Random, kit: Kit, text: str) -> Image.Image:
    """On paper with little room around it, as a part cut out of a page, or a short one somewhere on a wider page."""
    path, size = pick_font(rng, kit), rng.randint(18, 40)
    face = font(path, size)
    left, top, right, bottom = face.getbbox(text)
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    ink, paper = pick_inks(rng)
    style = rng.random()
    if style < 0.15 and len(text) <= 8:  # somewhere on a wider page
        canvas = (round(width + size * rng.uniform(0.5, 4)), round(height + size * rng.uniform(0.4, 3)))
        x = rng.choice((min(10, canvas[0] - width), (canvas[0] - width) // 2, rng.randint(0, canvas[0] - width)))
        y = rng.choice(((canvas[1] - height) // 2, rng.randint(0, canvas[1] - height)))
    else:
        margin = size if style < 0.4 and len(text) <= 12 else size // 4
        x, y = rng.randint(2, margin), rng.randint(2, max(3, margin // 2))
        canvas = (width + x + rng.randint(2, margin), height + y + rng.randint(2, max(3, margin // 2)))
    picture = Image.new("RGB", canvas, paper)
    pen = ImageDraw.Draw(picture)
    pen.text((x - left, y - top), text, fill=ink, font=face)
    if style > 0.75:  # neighbours that look in from above and below
        for at in (y - top - size * rng.uniform(1.15, 1.4), y - top + size * rng.uniform(1.15, 1.4)):
            pen.text((x - left - rng.randint(0, size), at), write(rng, kit.words, 20), fill=ink, font=face)
    if style > 0.95:
        pen.line([(0, canvas[1] - 1), (canvas[0], canvas[1] - 1)], fill=ink)
    return age(rng, picture, paper)


def paint_block(rng: random.Random, kit: Kit, lines: Sequence[str]) -> tuple[Image.Image, list[str]]:
    """Lines under each other in one font, and what they say; lines too long for the picture lose their end."""
    width, height = rng.choice(((224, 224), (224, 224), (256, 224), (224, 180), (240, 260)))
    pitch = min(height / (len(lines) + 0.5), rng.uniform(26, 44))
    face = font(pick_font(rng, kit), round(pitch * rng.uniform(0.6, 0.72)))
    margin = rng.randint(4, 14)
    fitting = [fit(line, face, width - 2 * margin) for line in lines]
    ink, paper = pick_inks(rng)
    picture = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(picture)
    aside = rng.choice((0.0, 0.0, 0.5, 1.0))
    y = rng.uniform(2, max(2.0, height - pitch * (len(lines) + 0.2)))
    for line in fitting:
        room = width - 2 * margin - face.getlength(line)
        pen.text((margin + aside * max(0.0, room), y), line, fill=ink, font=face)
        y += pitch
    return age(rng, picture, paper, gentle=True), fitting


def fit(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, or as much of its start as is not wider."""
    while len(text) > 1 and face.getlength(text) > width:
        text = text[:-1].rstrip()
    return text


def pick_inks(rng: random.Random) -> tuple[RGB, RGB]:
    """Ink and paper: black on white, gray on white as of a worn printer, or any dark and light, either way round."""
    draw = rng.random()
    if draw < 0.4:
        return (0, 0, 0), (255, 255, 255)
    if draw < 0.6:
        ink, paper = rng.randint(40, 150), rng.randint(225, 255)
        return (ink, ink, ink), (paper, paper, paper)
    dark = (rng.randint(0, 110), rng.randint(0, 110), rng.randint(0, 110))
    light = (rng.randint(185, 255), rng.randint(185, 255), rng.randint(185, 255))
    return (light, dark) if rng.random() < 0.25 else (dark, light)


def age(rng: random.Random, picture: Image.Image, paper: RGB, *, gentle: bool = False) -> Image.Image:
    """Turned a little, blurred, shrunk or noisy: each for some pictures only."""
    if rng.random() < 0.25:
        turn = 1.0 if gentle or picture.width > 6 * picture.height else 2.5
        picture = picture.rotate(rng.uniform(-turn, turn), Image.Resampling.BILINEAR, fillcolor=paper)
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7 if gentle else 1.0)))
    if not gentle and rng.random() < 0.2:
        factor = rng.uniform(0.45, 0.8)
        picture = picture.resize((max(8, round(picture.width * factor)), max(8, round(picture.height * factor))))
    if rng.random() < 0.25:
        picture = add_noise(rng, picture, rng.uniform(3, 16))
    return picture


# ---- texts -----------------------------------------------------------------------------------------------------------


def write(rng: random.Random, words: Sequence[str], limit: int) -> str:
    """A text of at most `limit` characters: words, numbers, prices, dates, codes, or letters in no order."""
    for _ in range(20):
        text = rng.choices(WRITERS, (8, 4, 2, 2, 2, 1, 1, 1))[0](rng, words).strip()
        if 0 < len(text) <= limit:
            return text
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, limit)))


def _one(rng: random.Random, words: Sequence[str]) -> str:
    return rng.choice((str.lower, str.upper, str.title, str))(rng.choice(words))


def _several(rng: random.Random, words: Sequence[str]) -> str:
    change = rng.choice((str.lower, str.upper, str.upper, str.title, str.capitalize))
    return change(" ".join(rng.choice(words) for _ in range(rng.choice((2, 2, 3)))))


def _number(rng: random.Random, words: Sequence[str]) -> str:
    return str(rng.randrange(10 ** rng.randint(1, 8)))


def _price(rng: random.Random, words: Sequence[str]) -> str:
    sign = rng.choice(("", "", "", "$", "RM ", "EUR ", "$ ", rng.choice(words).title() + ": ", "TOTAL "))
    return f"{sign}{rng.randrange(10 ** rng.randint(1, 4))}.{rng.randrange(100):02d}"


def _date(rng: random.Random, words: Sequence[str]) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2030)
    return rng.choice(
        (f"{day:02d}/{month:02d}/{year}", f"{year}-{month:02d}-{day:02d}", f"{day} {MONTHS[month - 1]} {year}",
         f"{rng.randrange(24):02d}:{rng.randrange(60):02d}", f"{day:02d}-{month:02d}-{year % 100:02d}")
    )  # fmt: skip


def _code(rng: random.Random, words: Sequence[str]) -> str:
    code = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789") for _ in range(rng.randint(3, 9)))
    return code[:2] + rng.choice(("-", "", "", " ", "/")) + code[2:]


def _labelled(rng: random.Random, words: Sequence[str]) -> str:
    label = rng.choice((str.upper, str.title))(rng.choice(words))
    return f"{label}{rng.choice((': ', ' : ', ' ', '. ', ' #'))}{rng.randrange(10 ** rng.randint(1, 5))}"


def _letters(rng: random.Random, words: Sequence[str]) -> str:
    signs = LETTERS if rng.random() < 0.6 else LETTERS + DIGITS * 3 + SIGNS
    return "".join(rng.choice(signs) for _ in range(rng.randint(1, 10)))


WRITERS: tuple[Callable[[random.Random, Sequence[str]], str], ...] = (
    _one, _several, _number, _price, _date, _code, _labelled, _letters,
)  # fmt: skip
