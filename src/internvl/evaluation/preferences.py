"""Preference data as MPO makes it (arXiv:2411.10442): what is asked, what an answer says, and whether that is right.

    question --Form.asked--> prompt --a model, several times--> responses --Form.parse, judge--> right, wrong, no form

The rules are those of the published pipeline but for three of its slips: ANLS counted an answer the better the more
letters are wrong; how to compare was read off the name of a file, and is named here; an empty answer is an answer in no
form, not a wrong one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from internvl.data.prompts import IMAGE
from internvl.data.records import Conversation, Media, record
from internvl.data.rows import open_rows
from internvl.errors import DataError, find
from internvl.evaluation.tasks.instructions import COT, LETTER, SHORT
from internvl.metrics.documents import anls
from internvl.metrics.latex import NotAFormula, number
from internvl.metrics.vqa import normalise

RIGHT = 0.9
"""A score above this is right."""

INSTRUCTIONS = (
    SHORT,
    LETTER,
    "Please answer Yes or No.",
    "Please answer the question and put the final answer within \\boxed{}.",
)
"""What is taken off the end of a question, since it asks for no reasoning."""


# ---- questions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A row of `{"image", "question", "answer"}`, or of `{"image", "question", "chosen"}`."""

    origin: str
    image: str | tuple[str, ...] | None
    """As it stands in the row: one, several in a list, or none."""
    text: str
    answer: str
    """The truth, or the chosen answer."""

    @property
    def images(self) -> tuple[str, ...]:
        return (self.image,) if isinstance(self.image, str) else self.image or ()

    @property
    def key(self) -> str:
        """The same for rows that ask the same about the same pictures and expect the same."""
        told = json.dumps([self.images, self.text, self.answer], ensure_ascii=False)
        return hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()[:24]


def read_questions(address: str, truth: Literal["answer", "chosen"]) -> Iterator[Question | DataError]:
    """The questions of an annotation file, each once; a row that cannot be asked is the error that says so.

    >>> list(read_questions("questions.jsonl", "answer"))[0].answer  # doctest: +SKIP
    '24'
    """
    rows = open_rows(address)
    known: set[str] = set()
    for number_ in range(len(rows)):
        try:
            question = _question(rows[number_], truth, rows.origin(number_))
        except DataError as error:
            yield error
            continue
        if question.key not in known:
            known.add(question.key)
            yield question


def _question(row: Mapping[str, Any], truth: str, origin: str) -> Question:
    given = row.get(truth)
    if isinstance(given, bool) or not isinstance(given, str | int | float) or not str(given).strip():
        raise DataError(f"{origin}: `{truth}` is {given!r:.40}; expected text, or a number")
    turns = [{"from": "human", "value": row.get("question")}]
    found = record({**{key: row[key] for key in ("image", "video") if key in row}, "conversations": turns},
                   "conversation", origin=origin)  # fmt: skip
    assert isinstance(found, Conversation)
    if found.video is not None:
        raise DataError(f"{origin} is about a video; preference data is made for pictures and for text")
    images = tuple(_named(image, origin) for image in found.images)
    text = found.turns[0][1]
    if text.count(IMAGE) > 1 and text.count(IMAGE) != len(images):
        raise DataError(f"{origin} has {text.count(IMAGE)} {IMAGE} but {len(images)} picture(s); expected as many")
    if not images and IMAGE in text:
        raise DataError(f"{origin} has an {IMAGE} but no picture; take it out")
    image = images if found.listed else images[0] if images else None
    return Question(origin, image, text, str(given))


def _named(image: Media, origin: str) -> str:
    if isinstance(image, str):
        return image
    raise DataError(f"{origin} holds its picture; pairs name pictures, so write it into a file of its own")


def without_pictures(text: str) -> str:
    """A question without its placeholders.

    >>> without_pictures("<image>\\nWhat is <image>?")
    'What is ?'
    """
    return text.replace(f"{IMAGE}\n", "").replace(IMAGE, "").strip()


def stripped(text: str) -> str:
    """A question without the instructions at its end.

    >>> stripped("<image>\\nHow many?\\nAnswer the question using a single word or phrase.")
    '<image>\\nHow many?'
    """
    text = text.rstrip()
    while ending := next((one for one in INSTRUCTIONS if text.endswith(one)), None):
        text = text.removesuffix(ending).rstrip()
    return text


# ---- forms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parsed:
    """What a response says."""

    rationale: str
    answer: str


@dataclass(frozen=True)
class Form:
    """How a question is put so that a model thinks first, and where its answer then stands."""

    instruction: str
    parse: Callable[[str], Parsed | None]
    """None: the response is not in this form."""
    reasons: bool = True
    """Whether instructions to answer in few words are taken away."""

    def asked(self, question: Question) -> str:
        """The prompt of a question: a single picture first, several where they stand."""
        text = stripped(question.text) if self.reasons else question.text
        if text.count(IMAGE) > 1:
            return self.instruction.replace("{question}", text)
        front = f"{IMAGE}\n" if len(question.images) == 1 else ""
        return front + self.instruction.replace("{question}", without_pictures(text))


TRIGGERS = ("Final answer:", "Final Answer:", "答案:")


def final_answer(response: str) -> Parsed | None:
    """What stands after the last "Final answer:", on one line, after a rationale; None where it is not so.

    The trigger is the first of `TRIGGERS` that occurs, at most twice; there are at least two line breaks.

    >>> final_answer("It has legs.\\n\\nFinal answer: a cat")
    Parsed(rationale='It has legs.', answer='a cat')
    """
    trigger = next((one for one in TRIGGERS if one in response), None)
    if trigger is None or response.count(trigger) > 2 or response.count("\n") < 2:
        return None
    rationale, _, answer = (part.strip() for part in response.rpartition(trigger))
    return Parsed(rationale, answer) if rationale and answer and "\n" not in answer else None


SHORTEST_BOXED = 20
"""Characters; a response that is not longer has no reasoning."""


def boxed_answer(response: str) -> Parsed | None:
    """The content of the last `\\boxed{…}` whose brackets match, or else the whole text; None for a short response.

    >>> boxed_answer("Half of one is this, so \\\\boxed{\\\\frac{1}{2}}.").answer
    '\\\\frac{1}{2}'
    """
    if len(response) <= SHORTEST_BOXED:
        return None
    start = response.rfind("\\boxed{")
    if start < 0:
        return Parsed("", response)
    depth = 0
    for end in range(start + len("\\boxed"), len(response)):
        depth += {"{": 1, "}": -1}.get(response[end], 0)
        if depth == 0:
            return Parsed(response[:start], response[start + len("\\boxed{") : end])
    return Parsed("", response)


def plain_answer(response: str) -> Parsed | None:
    """The whole response; None for an empty one."""
    return Parsed("", response.strip()) if response.strip() else None


FORMS: Mapping[str, Form] = {
    "plain": Form("{question}", plain_answer, reasons=False),
    "final": Form(COT, final_answer),
    "final-zh": Form(
        "你的任务是回答以下问题。在回答之前，请逐步推理说明您的思路。当你准备好给出答案时，请使用以下格式："
        '"答案: ..."\n\n问题:\n\n{question}',
        final_answer,
    ),
    "boxed": Form(
        "{question}\nAnswer the preceding question. The last line of your response should follow this format: 'Answer: "
        "\\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion based on the reasoning "
        "provided. If you are uncertain or the problem is too complex, make a reasoned guess based on the information "
        "provided. Avoid repeating steps indefinitely—provide your best guess even if unsure. Think step by step "
        "logically, considering all relevant information before answering.",
        boxed_answer,
    ),
    "boxed-zh": Form(
        "{question}\n请回答上述问题。你的回答最后一行应遵循以下格式：“答案：\\boxed{$FINAL_ANSWER}”（不包含引号），其中"
        "“FINAL_ANSWER”是你根据推理得出的最终结论。如果你不确定答案或问题过于复杂，请基于已有信息做出有理有据的猜测。避免无限"
        "重复推理步骤——即使不完全确定，也请给出你认为最合理的答案。请一步一步进行逻辑思考，充分考虑所有相关信息后再作答。",
        boxed_answer,
    ),
}


# ---- right or wrong --------------------------------------------------------------------------------------------------


def _vqa(answer: str, truth: str) -> float:
    """VQA's soft score where all ten people gave the truth: all or nothing, and nothing for an answer of no word."""
    said = normalise(answer)
    return float(bool(said) and said == normalise(truth))


def _relaxed(answer: str, truth: str) -> float:
    """Within 5 %; a per cent sign is taken off, and a year must be the very year."""
    said, wanted = _float(answer.removesuffix("%")), _float(truth.removesuffix("%"))
    if said is None or not wanted or (len(truth) == 4 and truth.startswith("20")):
        return 0.0
    return float(abs(said - wanted) / abs(wanted) <= 0.05)


_OPTION = re.compile(r"\(([A-Za-z])\)|([A-Za-z])\.(?!\w)")


def _choice(answer: str, truth: str) -> float:
    """The same letter, after `X.` and `(X)` are reduced to X."""
    return float(_letter(answer).casefold() == _letter(truth).casefold())


def _letter(text: str) -> str:
    text = text.strip()
    option = _OPTION.match(text)
    return (option[1] or option[2]) if option else text


_UNITS = re.compile(r"degrees?|\\angle|°|%|cm")


def _maths(answer: str, truth: str) -> float:
    """Equal to a thousandth as numbers, units taken off, or as formulas."""
    said, wanted = (_UNITS.sub("", text).strip() for text in (answer, truth))
    values = (_value(said), _value(wanted))
    if values[0] is None or values[1] is None:
        return 0.0
    return float(abs(values[0] - values[1]) <= 1e-3 * abs(values[1]))


def _value(text: str) -> float | None:
    plain = _float(text)
    if plain is not None:
        return plain
    try:
        return number(text)
    except NotAFormula:
        return None


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


MODES: Mapping[str, Callable[[str, str], float]] = {
    "vqa": _vqa,
    "relaxed": _relaxed,
    "anls": anls,
    "mc": _choice,
    "math": _maths,
}
"""How answers are compared: score(answer, truth)."""


def judge(answer: str, truth: str, modes: Sequence[str]) -> bool:
    """Whether an answer is right: the truth in any case, or right by one of the modes.

    >>> judge("(B)", "B", ["mc"]), judge("104", "100", ["relaxed"]), judge("104", "100", ["math"])
    (True, True, False)
    """
    rules = [find("mode", mode, MODES) for mode in modes]
    if answer.strip().casefold() == truth.strip().casefold():
        return True
    return any(rule(answer, truth) > RIGHT for rule in rules)
