"""Yes-or-no questions: what an answer says, and the figures of MME, POPE and HallusionBench."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["yes", "no", "other"]

# ---- what an answer says ---------------------------------------------------------------------------------------------

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_AND_COMMA = re.compile(r"\d,\d")
_LONE_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")


def spoken(answer: str) -> Verdict:
    """The one of "yes" and "no" that is a word of the answer; "other" if neither or both are.

    VLMEvalKit's rule (arXiv:2407.11691), by which scores of HallusionBench are published. Punctuation as in the VQA
    scorer: a mark that touches a space somewhere disappears everywhere, another becomes a space.

    >>> spoken("Yes, it is."), spoken("There is no dog"), spoken("Nope")
    ('yes', 'no', 'other')
    """
    said = text = answer.lower()
    thousands = _DIGITS_AND_COMMA.search(said) is not None
    for mark in _MARKS:
        touches = thousands or mark + " " in said or " " + mark in said
        text = text.replace(mark, "" if touches else " ")
    words = _LONE_PERIOD.sub("", text).split()
    if ("yes" in words) == ("no" in words):
        return "other"
    return "yes" if "yes" in words else "no"


_CHINESE = (("不是", "No"), ("是", "Yes"), ("否", "No"))
_IDEOGRAPH = re.compile("[\u4e00-\u9fa5]")


def mme_plain(answer: str) -> str:
    """An answer as the first code base wrote it down for MME's scorer: one line, lower case, Chinese and true/false
    as yes/no, other ideographs left out.

    >>> mme_plain("不是"), mme_plain("True.")
    ('no', 'yes.')
    """
    answer = answer.replace("\n", "")
    for word, meaning in _CHINESE:
        answer = answer.replace(word, meaning)
    return _IDEOGRAPH.sub("", answer.lower().replace("true", "yes").replace("false", "no"))


def mme_verdict(answer: str, *, compat: Literal["original"] | None = None) -> Verdict:
    """What an answer to MME (arXiv:2306.13394) says by the authors' scorer: "yes", or else "no", in its first four
    characters. compat="original" first makes it plain with `mme_plain`.

    >>> mme_verdict("Yes, it is."), mme_verdict("The answer is yes"), mme_verdict("是", compat="original")
    ('yes', 'other', 'yes')
    """
    start = (mme_plain(answer) if compat == "original" else answer.lower())[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def pope_verdict(answer: str) -> Verdict:
    """What an answer to POPE (arXiv:2305.10355) says by the authors' scorer: "no" if one of `No`, `no`, `not` is a word
    before the first period, commas removed; everything else is "yes".

    >>> pope_verdict("There is not a dog."), pope_verdict("Nope")
    ('no', 'yes')
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


# ---- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """How often what was said met what is true; "yes" is positive. A ratio of nothing is 0."""

    true_yes: int
    false_yes: int
    true_no: int
    false_no: int
    other: int = 0
    """Answers that said neither; wrong, but left out of precision and recall."""

    @property
    def total(self) -> int:
        return self.true_yes + self.false_yes + self.true_no + self.false_no + self.other

    @property
    def accuracy(self) -> float:
        return _ratio(self.true_yes + self.true_no, self.total)

    @property
    def precision(self) -> float:
        return _ratio(self.true_yes, self.true_yes + self.false_yes)

    @property
    def recall(self) -> float:
        return _ratio(self.true_yes, self.true_yes + self.false_no)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        return _ratio(self.true_yes + self.false_yes, self.total)


def confusion(pairs: Iterable[tuple[str, str]]) -> Confusion:
    """Counts of (truth, verdict) pairs; the truth is "yes" or "no".

    >>> confusion([("yes", "yes"), ("no", "yes"), ("no", "other")])
    Confusion(true_yes=1, false_yes=1, true_no=0, false_no=0, other=1)
    """
    seen: dict[tuple[str, str], int] = defaultdict(int)
    for truth, verdict in pairs:
        seen["yes" if truth == "yes" else "no", verdict] += 1
    counts = (seen["yes", "yes"], seen["no", "yes"], seen["no", "no"], seen["yes", "no"])
    return Confusion(*counts, other=sum(seen.values()) - sum(counts))


MME_ABILITIES: Mapping[str, tuple[str, ...]] = {
    "perception": (
        *("existence", "count", "position", "color", "posters"),
        *("celebrity", "scene", "landmark", "artwork", "OCR"),
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}


def mme_score(pictures: Iterable[Sequence[bool]]) -> tuple[float, float]:
    """(acc, acc+) of one task of MME in percent: of the questions, and of the pictures whose two are both right.

    The task's score is their sum, perception and cognition (`MME_ABILITIES`) are sums of task scores. `ValueError` for
    a picture that has not two questions.

    >>> mme_score([(True, True), (True, False)])
    (75.0, 50.0)
    """
    found = [tuple(hits) for hits in pictures]
    if not found or any(len(hits) != 2 for hits in found):
        raise ValueError("acc+ needs two answers of each picture")
    right = sum(sum(hits) for hits in found)
    return 100 * right / (2 * len(found)), 100 * sum(all(hits) for hits in found) / len(found)


@dataclass(frozen=True)
class Judged:
    """One answer to HallusionBench: right or not, and the numbers of its figure and question within a set."""

    right: bool
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str


def hallusion_accuracies(rows: Iterable[Judged]) -> dict[str, float]:
    """aAcc, fAcc and qAcc of HallusionBench (arXiv:2310.14566) in percent, as VLMEvalKit computes them.

    Of all questions; of the figures all of whose questions are right; of the questions that are right with every
    figure they are asked of.

    >>> hallusion_accuracies([Judged(True, "chart", "0", "0", "0"), Judged(False, "chart", "0", "1", "0")])
    {'aAcc': 50.0, 'fAcc': 50.0, 'qAcc': 0.0}
    """
    every = list(rows)
    return {
        "aAcc": 100 * _ratio(sum(row.right for row in every), len(every)),
        "fAcc": _all_right((row.right, (row.subcategory, row.set_id, row.figure_id)) for row in every),
        "qAcc": _all_right((row.right, (row.subcategory, row.set_id, row.question_id)) for row in every),
    }


def _all_right(rows: Iterable[tuple[bool, tuple[str, ...]]]) -> float:
    groups: dict[tuple[str, ...], bool] = {}
    for right, group in rows:
        groups[group] = groups.get(group, True) and right
    return 100 * _ratio(sum(groups.values()), len(groups))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
