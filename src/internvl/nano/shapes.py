"""Pictures that nano learns from and is measured on, drawn from a seed, with questions whose answers are known.

    sample = draw_scene(random.Random(7))       # coloured shapes: how many, which colour, is there one
    sample = draw_line(random.Random(7), Style(max_length=12), words=("total", "cash"))      # a printed line
    sample.picture, sample.turns                # (("How many circles are there?", "3"), ...)

Everything here is a function of the `random.Random` it is given: the same seed draws the same pixels.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

RGB = tuple[int, int, int]
Turn = tuple[str, str]


@dataclass(frozen=True)
class Sample:
    """One picture (or none) and the turns of a conversation about it."""

    task: str
    picture: Image.Image | None
    turns: tuple[Turn, ...]
    name: str | None = None
    """What the picture shows, where one name says it all: the target of training's naming head."""
    letters: tuple[tuple[str, float, float], ...] = ()
    """Printed characters with their left and right edge as fractions of the width: targets of the reading head."""


# --- shapes -------------------------------------------------------------------------------------------------------

COLOURS: dict[str, RGB] = {
    "red": (220, 30, 35), "green": (30, 150, 60), "blue": (35, 80, 215), "yellow": (245, 205, 25),
    "orange": (245, 130, 20), "purple": (130, 50, 170), "pink": (245, 120, 180), "brown": (125, 75, 35),
    "black": (15, 15, 15), "gray": (135, 135, 135),
}  # fmt: skip

SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple((math.cos(a * math.pi / 20), math.sin(a * math.pi / 20)) for a in range(40)),
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0, -1), (0.95, 0.75), (-0.95, 0.75)),
    "star": tuple(
        ((1.0, 0.42)[i % 2] * math.sin(i * math.pi / 5), -(1.0, 0.42)[i % 2] * math.cos(i * math.pi / 5))
        for i in range(10)
    ),
    "cross": ((-0.3, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3),
              (0.3, 0.9), (-0.3, 0.9), (-0.3, 0.3), (-0.9, 0.3), (-0.9, -0.3), (-0.3, -0.3)),
}  # fmt: skip

PLURAL = {"cross": "crosses"}
MAX_SHAPES = 9


@dataclass(frozen=True)
class Shape:
    kind: str
    colour: str
    x: float
    y: float
    radius: float


def plural(kind: str) -> str:
    return PLURAL.get(kind, kind + "s")


def draw_scene(rng: random.Random, *, count: int | None = None) -> Sample:
    """0 to 9 shapes that do not touch, on a plain ground; two or three questions about them.

    >>> draw_scene(random.Random(1), count=4).turns[0]
    ('How many shapes are there?', '4')
    """
    count = rng.randint(1, MAX_SHAPES) if count is None else count
    shapes = place_shapes(rng, count)
    return Sample("count", paint_scene(rng, shapes), ask_scene(rng, shapes), name=count_name(count))


def count_name(count: int) -> str:
    """What a picture of `count` shapes is called by the naming head."""
    return f"{count} shapes"


def place_shapes(rng: random.Random, count: int) -> tuple[Shape, ...]:
    """Shapes in the unit square, one a cell of a grid so that no two touch."""
    side = 2 if count <= 4 and rng.random() < 0.3 else 3 if rng.random() < 0.6 else 4
    cells = rng.sample([(i, j) for i in range(side) for j in range(side)], count)
    uniform = rng.random() < 0.35
    kinds = rng.sample(list(SHAPES), 1 if uniform else rng.choice((1, 2, 3)))
    colours = rng.sample(list(COLOURS), 1 if uniform else rng.choice((1, 2, 3)))
    same_size = rng.random() < 0.5
    size = rng.uniform(0.2, 0.42)
    shapes = []
    for i, j in cells:
        radius = (size if same_size else rng.uniform(0.2, 0.42)) / side
        slack = max(0.0, 0.46 / side - radius)
        x = (i + 0.5) / side + rng.uniform(-slack, slack)
        y = (j + 0.5) / side + rng.uniform(-slack, slack)
        shapes.append(Shape(rng.choice(kinds), rng.choice(colours), x, y, radius))
    return tuple(shapes)


def paint_scene(rng: random.Random, shapes: Sequence[Shape]) -> Image.Image:
    """The shapes on a ground that none of them hides in."""
    size = rng.choice((224, 224, 256, 320))
    wide = rng.choice((1.0, 1.0, 1.0, 1.25, 0.8))
    width, height = round(size * max(1.0, wide)), round(size * max(1.0, 1 / wide))
    ground = _ground(rng, [COLOURS[s.colour] for s in shapes])
    picture = Image.new("RGB", (width, height), ground)
    pen = ImageDraw.Draw(picture)
    outlined, turned = rng.random() < 0.2, rng.random() < 0.3
    for shape in shapes:
        angle = rng.uniform(-0.4, 0.4) if turned else 0.0
        cos, sin, r = math.cos(angle), math.sin(angle), shape.radius * min(width, height)
        points = [
            (shape.x * width + r * (cos * px - sin * py), shape.y * height + r * (sin * px + cos * py))
            for px, py in SHAPES[shape.kind]
        ]
        colour = tuple(min(255, max(0, c + rng.randint(-12, 12))) for c in COLOURS[shape.colour])
        if outlined:
            pen.line([*points, points[0], points[1]], fill=colour, width=max(3, round(r * 0.25)), joint="curve")
        else:
            pen.polygon(points, fill=colour)
    return picture


def _ground(rng: random.Random, colours: Sequence[RGB]) -> RGB:
    for _ in range(8):
        shade = rng.choice((255, 255, 255, 245, 230, 20))
        ground = tuple(min(255, max(0, shade + rng.randint(-10, 10))) if shade < 255 else 255 for _ in range(3))
        if all(sum(abs(a - b) for a, b in zip(ground, colour, strict=True)) > 150 for colour in colours):
            return ground  # type: ignore[return-value]
    return (255, 255, 255)


def ask_scene(rng: random.Random, shapes: Sequence[Shape]) -> tuple[Turn, ...]:
    """The total, then the count of one kind, of one colour, or whether there is one."""
    kinds = {s.kind for s in shapes}
    total = ("shapes", len(shapes))
    if len(kinds) == 1 and rng.random() < 0.7:
        total = (plural(next(iter(kinds))), len(shapes))
    turns = [(rng.choice(COUNT).format(total[0]), str(total[1]))]
    kind, colour = rng.choice(list(SHAPES)), rng.choice(list(COLOURS))
    if shapes and rng.random() < 0.8:
        kind = rng.choice(shapes).kind
    if shapes and rng.random() < 0.8:
        colour = rng.choice(shapes).colour
    of_kind = [s for s in shapes if s.kind == kind]
    further: list[Turn] = [
        (rng.choice(COUNT).format(plural(kind)), str(len(of_kind))),
        (rng.choice(COUNT).format(f"{colour} shapes"), str(sum(s.colour == colour for s in shapes))),
        (f"Is there a {colour} {kind}?", "Yes" if any(s.colour == colour for s in of_kind) else "No"),
    ]
    if of_kind and len({s.colour for s in of_kind}) == 1:
        article = f"are the {plural(kind)}" if len(of_kind) > 1 else f"is the {kind}"
        further.append((f"What colour {article}?", of_kind[0].colour))
    turns += rng.sample(further, 2)
    if rng.random() < 0.4:
        rng.shuffle(turns)
    return tuple(turns)


COUNT = (
    "How many {} are there?", "How many {} are there?", "How many {} are in the picture?", "Count the {}.",
    "How many {} do you see?", "How many {} can you see in the image?", "What is the number of {}?",
)  # fmt: skip

# --- printed lines ------------------------------------------------------------------------------------------------

READ = (
    "What does it say?", "Read the text.", "What is written here?", "What text is in the image?", "Read the line.",
    "Transcribe the text.", "What does the text say?", "Please read the text in the image.", "What is written?",
    "What does this line say?", "Read this.", "What text do you see?", "What does the image say?",
    "Read the printed line.", "What is the text in the picture?",
)  # fmt: skip

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SIGNS = ".,:-/()&%#@*+'!?$"


@dataclass(frozen=True)
class Style:
    """How lines are drawn: which fonts (none: the one inside Pillow) and how long a line may be."""

    fonts: tuple[Path, ...] = ()
    max_length: int = 20
    clean: bool = False
    """No noise, blur or turning: what a person gets who draws a line with a library."""


@functools.lru_cache(maxsize=4096)
def _font(path: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


def draw_line(rng: random.Random, style: Style, *, words: Sequence[str], text: str | None = None) -> Sample:
    """One printed line of at most `style.max_length` characters."""
    text = write(rng, words, style.max_length) if text is None else text
    path = rng.choice(style.fonts) if style.fonts and rng.random() < 0.92 else None
    size = rng.randint(18, 48)
    font = _font(path, size)
    left, top, right, bottom = font.getbbox(text)
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    if rng.random() < 0.8:
        margin = size if rng.random() < 0.5 else size // 4
        x, y = rng.randint(2, margin), rng.randint(2, max(3, margin // 2))
        canvas = (width + x + rng.randint(2, margin), height + y + rng.randint(2, max(3, margin // 2)))
    else:  # somewhere on a wider page
        canvas = (round(width + size * rng.uniform(0.5, 4)), round(height + size * rng.uniform(0.4, 3)))
        x = rng.choice((10, (canvas[0] - width) // 2, rng.randint(0, canvas[0] - width)))
        x, y = min(x, canvas[0] - width), rng.choice(((canvas[1] - height) // 2, rng.randint(0, canvas[1] - height)))
    ink, paper = _inks(rng)
    picture = Image.new("RGB", canvas, paper)
    ImageDraw.Draw(picture).text((x - left, y - top), text, fill=ink, font=font)
    edges = [x + font.getlength(text[:i]) for i in range(len(text) + 1)]
    letters = tuple(
        (c, a / canvas[0], b / canvas[0]) for c, a, b in zip(text, edges, edges[1:], strict=False) if c != " "
    )
    if not style.clean:
        picture = _age(rng, picture, paper)
    return Sample("read", picture, ((rng.choice(READ), text),), letters=letters)


def _inks(rng: random.Random) -> tuple[RGB, RGB]:
    if rng.random() < 0.5:
        return (0, 0, 0), (255, 255, 255)
    dark = tuple(rng.randint(0, 110) for _ in range(3))
    light = tuple(rng.randint(185, 255) for _ in range(3))
    return (light, dark) if rng.random() < 0.25 else (dark, light)  # type: ignore[return-value]


def _age(rng: random.Random, picture: Image.Image, paper: RGB) -> Image.Image:
    if rng.random() < 0.25:
        picture = picture.rotate(rng.uniform(-2.5, 2.5), Image.Resampling.BILINEAR, fillcolor=paper)
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.2:
        factor = rng.uniform(0.4, 0.8)
        picture = picture.resize((max(8, round(picture.width * factor)), max(8, round(picture.height * factor))))
    if rng.random() < 0.25:
        picture = add_noise(rng, picture, rng.uniform(3, 18))
    return picture


def add_noise(rng: random.Random, picture: Image.Image, strength: float) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape[:2], np.float32)
    return Image.fromarray((pixels + strength * noise[..., None]).clip(0, 255).astype(np.uint8))


def write(rng: random.Random, words: Sequence[str], limit: int) -> str:
    """A text of at most `limit` characters: words, numbers, prices, dates, codes, or letters in no order."""
    for _ in range(20):
        text = rng.choices(WRITERS, (8, 4, 2, 1, 1, 1, 1, 1))[0](rng, words).strip()
        if 0 < len(text) <= limit:
            return text
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, limit)))


def _one(rng: random.Random, words: Sequence[str]) -> str:
    word = rng.choice(words)
    return rng.choice((str.lower, str.upper, str.title, str))(word)


def _several(rng: random.Random, words: Sequence[str]) -> str:
    change = rng.choice((str.lower, str.upper, str.title, str.capitalize))
    return change(" ".join(rng.choice(words) for _ in range(rng.choice((2, 2, 3)))))


def _number(rng: random.Random, words: Sequence[str]) -> str:
    return str(rng.randrange(10 ** rng.randint(1, 8)))


def _price(rng: random.Random, words: Sequence[str]) -> str:
    sign = rng.choice(("", "", "$", "RM ", "EUR ", "$ ", rng.choice(words).title() + ": ", "TOTAL "))
    return f"{sign}{rng.randrange(10 ** rng.randint(1, 4))}.{rng.randrange(100):02d}"


def _date(rng: random.Random, words: Sequence[str]) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2030)
    return rng.choice(
        (f"{day:02d}/{month:02d}/{year}", f"{year}-{month:02d}-{day:02d}", f"{day} {MONTHS[month - 1]} {year}",
         f"{rng.randrange(24):02d}:{rng.randrange(60):02d}", f"{day:02d}-{month:02d}-{year % 100:02d}")
    )  # fmt: skip


def _code(rng: random.Random, words: Sequence[str]) -> str:
    signs = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
    code = "".join(rng.choice(signs) for _ in range(rng.randint(3, 9)))
    return code[:2] + rng.choice(("-", "", "", " ", "/")) + code[2:]


def _labelled(rng: random.Random, words: Sequence[str]) -> str:
    label = rng.choice(words)
    return f"{rng.choice((label.upper(), label.title()))}{rng.choice((': ', ' : ', ' ', '. ', ' #'))}" + str(
        rng.randrange(10 ** rng.randint(1, 5))
    )


def _letters(rng: random.Random, words: Sequence[str]) -> str:
    signs = LETTERS if rng.random() < 0.6 else LETTERS + "0123456789" * 3 + SIGNS
    return "".join(rng.choice(signs) for _ in range(rng.randint(1, 10)))


WRITERS: tuple[Callable[[random.Random, Sequence[str]], str], ...] = (
    _one, _several, _number, _price, _date, _code, _labelled, _letters,
)  # fmt: skip

# --- talk without a picture ---------------------------------------------------------------------------------------

HELLO = "Hello! I am nano, the small embedded model of InternVL. Show me a picture and ask about it."
WHO = "I am nano, the small embedded model of InternVL."
ABLE = "I can name flags, emoji and objects, count simple shapes and read a short printed line."
BLIND = "I see no picture. Please show me one."

TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hello!", "Hi", "Hi!", "Hi there", "hello", "hi", "Good morning", "Hey", "Hello there!"), HELLO),
    (("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "who are you"), WHO),
    (("What can you do?", "Help", "How can you help me?", "What do you know?", "help", "What are you good at?"), ABLE),
    (("Thanks", "Thank you!", "Thank you", "thanks", "Great, thanks!"), "You are welcome!"),
    (("Bye", "Goodbye", "Bye!", "See you"), "Goodbye!"),
    (("What is in the picture?", "What does it say?", "How many shapes are there?", "What is this?",
      "Which country's flag is this?", "Describe the image."), BLIND),
)  # fmt: skip


def echo(rng: random.Random, words: Sequence[str], limit: int) -> Sample:
    """A text to say again: copying letter by letter is half of reading, and needs no picture to be learnt."""
    text = write(rng, words, limit)
    return Sample("echo", None, ((rng.choice(("Repeat: {}", "Say: {}", "Write: {}", "Repeat {}")).format(text), text),))


def talk(rng: random.Random) -> Sample:
    """One or two turns of greeting, without a picture."""
    turns = []
    for questions, answer in rng.sample(TALK, rng.choice((1, 2))):
        turns.append((rng.choice(questions), answer))
    return Sample("talk", None, tuple(turns))
