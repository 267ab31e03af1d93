"""Answers of one or a few words about a picture: VQA accuracy, exact match and their relatives.

Soft accuracy and its normalisation are those of VQA (arXiv:1505.00468) in the form of its evaluation server, which
TextVQA, VizWiz and OK-VQA also use.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from internvl.errors import DataError

Compat = Literal["original"] | None

HUMANS = 10
"""Every question of VQA, OK-VQA, TextVQA and VizWiz was answered by ten people."""

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}
ARTICLES = ("a", "an", "the")
MARKS = ';/[]"{}()=+\\_-><@`,?!'
"""In this order; neither the apostrophe nor the colon, which tells times."""

# The table of the public VQA evaluation tool, its slips ("somebody'd" loses its apostrophe) included; entries with
# capitals, which no lower-cased text finds, are left out.
_SHORT_AND_FULL = """
aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've
couldnt've=couldn't've didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've
hasnt=hasn't havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's
isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll maam=ma'am mightnt=mightn't mightnt've=mightn't've
mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've neednt=needn't notve=not've oclock=o'clock
oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at 'ow'sat='ow's'at shant=shan't shed've=she'd've
she'dve=she'd've shouldve=should've shouldnt=shouldn't shouldnt've=shouldn't've shouldn'tve=shouldn't've
somebody'd=somebodyd somebodyd've=somebody'd've somebody'dve=somebody'd've somebodyll=somebody'll
somebodys=somebody's someoned=someone'd someoned've=someone'd've someone'dve=someone'd've someonell=someone'll
someones=someone's somethingd=something'd somethingd've=something'd've something'dve=something'd've
somethingll=something'll thats=that's thered=there'd thered've=there'd've there'dve=there'd've therere=there're
theres=there's theyd=they'd theyd've=they'd've they'dve=they'd've theyll=they'll theyre=they're theyve=they've
twas='twas wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've werent=weren't whatll=what'll whatre=what're
whats=what's whatve=what've whens=when's whered=where'd wheres=where's whereve=where've whod=who'd
whod've=who'd've who'dve=who'd've wholl=who'll whos=who's whove=who've whyll=why'll whyre=why're whys=why's
wont=won't wouldve=would've wouldnt=wouldn't wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all
yall'll=y'all'll y'allll=y'all'll yall'd've=y'all'd've y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd
youd've=you'd've you'dve=you'd've youll=you'll youre=you're youve=you've
"""
CONTRACTIONS = {pair.split("=")[0]: pair.split("=")[1] for pair in _SHORT_AND_FULL.split()}

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_STOPS_REMOVED = 32
"""The public evaluation tool passes re.UNICODE, which is 32, as the number of full stops to remove."""


def normalise(text: str, *, compat: Compat = None) -> str:
    """A text as VQA's evaluation server compares it: lower case, no articles or punctuation, digits for number words.

    A mark is deleted everywhere if it stands beside a space anywhere, and is a space otherwise; a full stop goes unless
    a digit follows it; contractions get their apostrophe back.

    compat="original": only the first 32 full stops go, as in the public evaluation tool and every copy of it.

    >>> normalise("The two  dogs."), normalise("New-York"), normalise("dont"), normalise("3.14.")
    ('2 dogs', 'new york', "don't", '3.14')
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_without_marks(_one_line(text), compat))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_marks(text: str, compat: Compat) -> str:
    kept = text
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if beside_space or in_number else " ")
    return _FULL_STOP.sub("", kept, count=_STOPS_REMOVED if compat == "original" else 0)


def _words(text: str) -> str:
    numbered = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def soft_accuracy(answer: str, humans: Sequence[str], *, compat: Compat = None) -> float:
    """VQA accuracy: min(1, people who said the same / 3), averaged over leaving each of the ten people out.

    arXiv:1505.00468, section 4. Said by 1, 2, 3 or more of ten it is worth 0.3, 0.6, 0.9 or 1. Both sides are
    normalised. Raises DataError unless there are ten answers.

    >>> soft_accuracy("Two dogs.", ["2 dogs"] * 2 + ["dogs"] * 8)
    0.6
    """
    if len(humans) != HUMANS:
        raise DataError(f"a question has {len(humans)} human answers; expected {HUMANS}")
    said = normalise(answer, compat=compat)
    same = [normalise(human, compat=compat) == said for human in humans]
    count = sum(same)
    # Those who said it see one fewer of their own kind among the other nine.
    return (count * min(3, max(count - 1, 0)) + (HUMANS - count) * min(3, count)) / (3 * HUMANS)


def exact_match(answer: str, golds: str | Sequence[str]) -> float:
    """1 where the answer is one of the golds but for case and surrounding white space: OCR-VQA, AI2D.

    >>> exact_match(" Fantasy", ["fantasy", "fiction"]), exact_match("the fantasy", ["fantasy"])
    (1.0, 0.0)
    """
    said = answer.strip().lower()
    return float(any(gold.strip().lower() == said for gold in _listed(golds)))


def stvqa_match(answer: str, golds: str | Sequence[str], *, compat: Compat = None) -> float:
    """1 where the normalised answer is one of the normalised golds: the accuracy of ST-VQA (arXiv:1905.13648).

    >>> stvqa_match("The Coca-Cola", ["coca cola"])
    1.0
    """
    said = normalise(answer, compat=compat)
    return float(any(normalise(gold, compat=compat) == said for gold in _listed(golds)))


def gqa_match(answer: str, gold: str, *, compat: Compat = None) -> float:
    """1 where the answer is the gold one but for case, white space around it and full stops after it.

    GQA's own script (arXiv:1902.09506) compares letter for letter. compat="original" keeps white space, as the first
    code base's conversion for that script does.

    >>> gqa_match("Yes. ", "yes"), gqa_match("Yes. ", "yes", compat="original")
    (1.0, 0.0)
    """
    said = answer.rstrip(".") if compat == "original" else answer.strip().rstrip(".").strip()
    return float(said.lower() == gold)


def contains_answer(answer: str, golds: str | Sequence[str]) -> float:
    """1 where one of the golds stands in the answer as whole words, both without punctuation, articles and capitals.

    The rule of Tiny-LVLM (arXiv:2308.03729). A gold of which nothing is left is in every answer that has a word.

    >>> contains_answer("It is a red bus.", ["Red bus"]), contains_answer("It is a bust", ["bus"])
    (1.0, 0.0)
    """
    return float(reciprocal_rank(answer, golds) > 0)


def reciprocal_rank(answer: str, golds: str | Sequence[str]) -> float:
    """1 / the place of the first gold that stands in the answer, as in `contains_answer`; 0 where none does.

    >>> reciprocal_rank("a blue bus", ["red", "blue"])
    0.5
    """
    said = _plain(answer)
    for place, gold in enumerate(_listed(golds), start=1):
        if re.search(rf"\b{re.escape(_plain(gold))}\b", said):
            return 1 / place
    return 0.0


def _plain(text: str) -> str:
    """Tiny-LVLM's own normalisation: commas and question marks are marks like any other; 's stays."""
    return _words(_without_marks(_one_line(text), "original"))


_STARTS = ("is ", "are ", "a ", "an ", "the ")


def post_process(answer: str) -> str:
    """The phrase that a sentence is about, by cutting: how the first code base once shortened chatty answers.

    The first sentence up to a comma; what follows the first "is ", then "are ", "a ", "an ", "the ", also inside a
    word, up to the next one; and what comes before " of".

    >>> post_process("There are two of them!"), post_process("It is the top of it.")
    ('two', 'top')
    """
    answer = re.split(r"[.,!]", answer.strip(), maxsplit=1)[0].lower()
    for start in _STARTS:
        if start in answer:
            answer = answer.split(start)[1]
    return answer.split(" of")[0].strip()


_CLASSES = (0, 10, 100, 1000)
_CLASSES_AS_FIRST_PUBLISHED = (0, 100, 1000)


def rsvqa_match(answer: str, gold: str, kind: str, *, compat: Compat = None) -> float:
    """1 where an answer about an aerial picture is right; `kind` is the type of the question in RSVQA.

    Lobry et al., arXiv:2003.07333. A `count` or an `area` is right in the right class of 0, 1-10, 11-100, 101-1000 and
    more; m2 after it does not matter. Everything else is compared but for case, white space and a full stop.

    compat="original": 1-100 is one class, an area answered with its unit is wrong, and the rest is compared but for
    case alone.

    >>> rsvqa_match("12", "90", "count"), rsvqa_match("7", "90", "count"), rsvqa_match("13m2", "20m2", "area")
    (1.0, 0.0, 1.0)
    >>> rsvqa_match("7", "90", "count", compat="original"), rsvqa_match("13m2", "20m2", "area", compat="original")
    (1.0, 0.0)
    """
    original = compat == "original"
    if kind not in ("count", "area"):
        said = answer if original else answer.strip().rstrip(".").strip()
        return float(bool(said) and said.lower() == gold.lower())
    said = answer if original or kind == "count" else answer.strip().rstrip(".").removesuffix("m2")
    try:
        found, wanted = int(said), int(gold.rstrip("m2") if kind == "area" else gold)
    except ValueError:
        return 0.0
    if min(found, wanted) < 0:
        return 0.0
    classes = _CLASSES_AS_FIRST_PUBLISHED if original else _CLASSES
    return float(bisect_left(classes, found) == bisect_left(classes, wanted))


def _listed(golds: str | Sequence[str]) -> Sequence[str]:
    """Golds as a list; in most files one answer stands alone."""
    return [golds] if isinstance(golds, str) else golds
