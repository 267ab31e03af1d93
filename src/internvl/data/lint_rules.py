"""What `internvl lint` looks for: one table of rules, and the checks that need nothing but a record's text.

error      training refuses the row, or learns nothing from it
warning    training takes the row, but what it learns is probably not what was meant
note       worth knowing
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from internvl.data.prompts import IMAGE, SHOWN_TO, TEMPLATES, VIDEO, Role

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

GRAM = 10
REPEATED = 0.4
"""An answer of which a larger share of all runs of ten words has stood before repeats itself."""
LONG_ANSWER = 2048
"""Learnt tokens from which on an answer is called long."""
SMALL_SIDE = 28
"""Pixels: a shorter side has fewer than two patches of the family's towers."""


@dataclass(frozen=True)
class Rule:
    """What a finding means and what to do about it."""

    severity: Severity
    says: str
    remedy: str


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row, and by which rule."""

    rule: str
    text: str


RULES: Mapping[str, Rule] = {
    "source-empty": Rule("error", "a source without rows", "correct its path, or take it out of the meta file"),
    "source-tiles": Rule(
        "error",
        "a source with a tile budget of its own, for a model that sees every picture as one tile",
        "take max_dynamic_patch out of the meta file",
    ),
    "schema": Rule("error", "rows that are no record of their kind", "correct or remove them; of another kind: --kind"),
    "media-missing": Rule("error", "pictures or videos that are not there", "correct the path in the row, or root"),
    "media-unreadable": Rule(
        "error", "pictures or videos that cannot be read", "make the file again, or remove the row"
    ),
    "media-refused": Rule(
        "error",
        "pictures or videos over a limit, or of a place that is not read",
        "shrink the file, or bring it to this machine",
    ),
    "placeholders": Rule(
        "error",
        "placeholders and media that do not fit together",
        "write <image> (or <video>) once for each in what the human says, or nowhere",
    ),
    "conversation": Rule("error", "conversations that cannot be rendered", "correct the turns"),
    "nothing-learnt": Rule("error", "rows without a token to learn", "give every row an answer of the assistant"),
    "overlong": Rule(
        "warning",
        "samples longer than --max-length",
        "training drops them, or gives them fewer tiles: raise data.max_length, or lower data.max_tiles",
    ),
    "empty-answer": Rule("warning", "empty answers", "remove them: a model learns to say nothing"),
    "empty-question": Rule("warning", "questions without a word and without a picture", "remove them"),
    "turn-order": Rule(
        "warning",
        "turns that do not alternate from a human to an answer",
        "put the turns in order; what the human says last is not learnt from",
    ),
    "system-empty": Rule("warning", "empty system turns", "leave the turn out: the template has its own message"),
    "slot-in-text": Rule(
        "warning",
        "text that spells the token of a picture slot",
        "write <image>; <IMG_CONTEXT> stays text here, and breaks training elsewhere",
    ),
    "template-in-text": Rule(
        "warning",
        "text that spells tokens of a conversation template",
        "store what was said alone: the template is written around it in training",
    ),
    "placeholder-in-answer": Rule(
        "warning", "placeholders in what is not said by a human", "they stay text; remove them"
    ),
    "region-tags": Rule("warning", "<ref>, <box> or <quad> that are not opened and closed in turn", "close each tag"),
    "region-pixels": Rule(
        "warning", "boxes beyond 1000, as in pixels", "write thousandths of the picture: round(x / width * 1000)"
    ),
    "region-fractions": Rule("warning", "boxes in fractions from 0 to 1", "multiply them by 1000 and round"),
    "region-form": Rule("warning", "boxes that are no boxes", "write [[x1, y1, x2, y2]] with x1 < x2 and y1 < y2"),
    "answer-repeats": Rule("warning", "answers that repeat themselves", "remove them: repetition is learnt quickly"),
    "same-answers": Rule("warning", "pairs whose chosen and rejected answer are the same", "remove them"),
    "empty-caption": Rule("warning", "empty captions", "remove them"),
    "duplicate-row": Rule("warning", "rows that stand there twice", "remove all but one, or say `repeat_time`"),
    "contradiction": Rule(
        "warning",
        "the same question about the same picture with another answer",
        "keep one; for captions this may be meant",
    ),
    "label-mixed": Rule("warning", "labels that are numbers in some rows and names in others", "use one of them"),
    "region-decimals": Rule("note", "boxes that are not whole numbers", "round them"),
    "small-picture": Rule(
        "note", f"pictures with a side below {SMALL_SIDE} pixels", "check that they are not icons by mistake"
    ),
    "answer-long": Rule("note", f"answers of more than {LONG_ANSWER} tokens", "check that they end where they should"),
    "caption-long": Rule("note", "captions that are cut at --max-length", "shorten them, or raise data.text_length"),
    "system-mixed": Rule(
        "note", "system turns in some rows of a source, none in others", "rows without one get the template's message"
    ),
    "duplicate-picture": Rule("note", "one picture under several names", "see that no copy is in your held-out rows"),
    "rare-label": Rule("note", "classes with a single row", "nothing is left of them to test with"),
}


_SLOTS = ("<IMG_CONTEXT>", "<img>", "</img>")
_STRUCTURE = tuple(
    sorted({token for template in TEMPLATES.values() for token in template.tokens if len(token) > 4} - set(_SLOTS))
)
"""Tokens that no text holds by chance; `<s>` is also a tag of web pages."""


# ---- conversations ---------------------------------------------------------------------------------------------------


def conversation_faults(turns: Sequence[tuple[Role, str]], media: int) -> Iterator[Fault]:
    """What is suspicious in what was said; `media` pictures or videos belong to it.

    >>> [fault.rule for fault in conversation_faults([("user", "2 + 2?"), ("assistant", " ")], 0)]
    ['empty-answer']
    """
    yield from _order(turns)
    for place, (role, text) in enumerate(turns, start=1):
        where = f"turn {place}"
        learnt = role in ("assistant", "pretrain")
        if not text.strip() and learnt:
            yield Fault("empty-answer", f"{where} is empty")
        elif not text.strip() and role == "system":
            yield Fault("system-empty", f"{where} is empty")
        elif role == "user" and not media and not text.replace(IMAGE, "").replace(VIDEO, "").strip():
            yield Fault("empty-question", f"{where} is empty")
        yield from text_faults(text, where, answer=learnt)
        held = [mark for mark in (IMAGE, VIDEO) if mark in text]
        if held and role not in SHOWN_TO:
            yield Fault("placeholder-in-answer", f"{where} ({role}) holds {held[0]}")


def _order(turns: Sequence[tuple[Role, str]]) -> Iterator[Fault]:
    spoken = [role for role, _ in turns if role != "system"]  # a tool may speak whenever it was asked
    if not spoken or "assistant" not in spoken:
        return  # the record or the lack of a learnt token is the error
    if spoken[0] != "user":
        yield Fault("turn-order", "an answer comes first, without a question")
    twice = next((place for place in range(1, len(spoken)) if spoken[place] == spoken[place - 1] != "tool"), None)
    if twice is not None:
        yield Fault("turn-order", f"the {spoken[twice]} speaks twice in a row")
    if spoken[-1] != "assistant":
        yield Fault("turn-order", f"the last turn is the {spoken[-1]}'s")


def text_faults(text: str, where: str, *, answer: bool) -> Iterator[Fault]:
    """What is suspicious in one text. In what is asked, `<box>[[x1, y1, x2, y2]]</box>` may explain the form."""
    if slots := [token for token in _SLOTS if token in text]:
        yield Fault("slot-in-text", f"{where} holds {slots[0]}")
    if tokens := [token for token in _STRUCTURE if token in text]:
        yield Fault("template-in-text", f"{where} holds {tokens[0]}")
    yield from region_faults(text, where, answer=answer)
    if answer and (share := repeated_share(text)) > REPEATED:
        yield Fault("answer-repeats", f"{where}: {share:.0%} of it has been said before")


def repeated_share(text: str) -> float:
    """Which share of all runs of ten words has stood before in the text; of characters where words have no spaces.

    >>> repeated_share("so it is and so it was and so it will be"), repeated_share("so it is. " * 40) > 0.9
    (0.0, True)
    """
    words = text.split()
    if len(text) > 20 * max(1, len(words)):
        words = list(text)
    runs = [tuple(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else 0.0


# ---- regions ---------------------------------------------------------------------------------------------------------

_TAG = re.compile(r"<(/?)(ref|box|quad)>")
_REGION = re.compile(r"<(box|quad)>([^<]*)</\1>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NO_NUMBERS = re.compile(r"[^\s\[\](),]")


def region_faults(text: str, where: str, *, answer: bool = True) -> Iterator[Fault]:
    """Regions that are not written as the family writes them, see `internvl.data.boxes`; each kind once a text.

    >>> [fault.rule for fault in region_faults("<box>[[0.1, 0.2, 0.3, 0.4]]</box> <ref>a", "turn 2")]
    ['region-tags', 'region-fractions']
    """
    if "<" not in text:
        return
    if (wrong := _unbalanced(text)) is not None:
        yield Fault("region-tags", f"{where}: {wrong}")
    found: dict[str, str] = {}
    for match in _REGION.finditer(text):
        rule = _region_rule(match[2], 8 if match[1] == "quad" else 4, answer)
        if rule is not None:
            found.setdefault(rule, match[2])
    yield from (Fault(rule, f"{where}: {_brief(written)}") for rule, written in found.items())


def _unbalanced(text: str) -> str | None:
    """Which tag is out of turn; None if all are closed before the next."""
    opened: str | None = None
    for match in _TAG.finditer(text):
        if match[1]:
            if opened != match[2]:
                return f"{match[0]} closes {'nothing' if opened is None else f'<{opened}>'}"
            opened = None
        elif opened is not None:
            return f"{match[0]} inside <{opened}>"
        else:
            opened = match[2]
    return None if opened is None else f"<{opened}> is never closed"


def _region_rule(written: str, each: int, answer: bool) -> str | None:
    """The rule that the numbers of a tag break."""
    numbers = [float(number) for number in _NUMBER.findall(written)]
    words = _NO_NUMBERS.search(_NUMBER.sub("", written)) is not None
    if words and not answer:
        return None  # a question may explain the form
    if words or not numbers or len(numbers) % each or min(numbers) < 0:
        return "region-form"
    if max(numbers) > 1000:
        return "region-pixels"
    if max(numbers) <= 1:
        return "region-fractions"
    boxes = [numbers[start : start + 4] for start in range(0, len(numbers), 4)] if each == 4 else []
    if any(left >= right or top >= bottom for left, top, right, bottom in boxes):
        return "region-form"
    return "region-decimals" if any(number != int(number) for number in numbers) else None


def _brief(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
