"""Yes and no: the golden tables of MME and POPE, and the figures of HallusionBench by hand."""

from __future__ import annotations

import json
import re

import pytest

from internvl.metrics.yes_no import (
    MME_ABILITIES,
    Confusion,
    Judged,
    confusion,
    hallusion_accuracies,
    mme_plain,
    mme_score,
    mme_verdict,
    pope_verdict,
    spoken,
)
from tests.conftest import golden


def rows_of(name):
    rows = [json.loads(line) for line in golden(f"metrics/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "_about" not in row]


def test_golden_mme_answers():
    for row in rows_of("mme_parse"):
        if "raw" in row:
            assert mme_plain(row["raw"]) == row["expected_after_post_processing"], row
        else:
            assert mme_verdict(row["prediction"]) == row["expected"], row


def test_golden_mme_metric():
    for row in rows_of("mme_metric"):
        counts, said = confusion(zip(row["gts"], row["preds"], strict=True)), row["expected"]
        assert (counts.true_yes, counts.false_no, counts.true_no, counts.false_yes) == tuple(
            said[key] for key in ("TP", "FN", "TN", "FP")
        )
        assert counts.other == said["other_num"]
        assert (counts.precision, counts.recall, counts.accuracy) == pytest.approx(
            (said["precision"], said["recall"], said["acc"])
        )


def test_golden_mme_whole():
    for row in rows_of("mme_full"):
        printed = {name: float(score) for name, score in re.findall(r"(\w+)\s+score: ([\d.]+)", row["stdout"])}
        totals = [float(score) for score in re.findall(r"total score: ([\d.]+)", row["stdout"])]
        sums = []
        for tasks in MME_ABILITIES.values():
            scores = []
            for task in tasks:
                lines = [line.split("\t") for line in row["files"][task].splitlines()]
                hits = [mme_verdict(answer) == truth.lower() for _, _, truth, answer in lines]
                scores.append(sum(mme_score(zip(hits[::2], hits[1::2], strict=True))))
                assert scores[-1] == pytest.approx(printed[task]), task
            sums.append(sum(scores))
        assert sums == pytest.approx(totals)


def test_golden_pope():
    for row in rows_of("pope"):
        verdicts = [pope_verdict(answer) for answer in row["answers"]]
        assert verdicts == row["parsed"]
        counts = confusion(zip(row["labels"], verdicts, strict=True))
        printed = [int(count) for count in row["stdout"].splitlines()[1].split("\t")]
        assert [counts.true_yes, counts.false_yes, counts.true_no, counts.false_no] == printed
        assert counts.f1 == pytest.approx(row.get("expected", 0.0))  # the original divides by zero there
        if "expected" in row:
            said = [float(value) for value in re.findall(r": ([\d.]+)\n", row["stdout"])]
            ours = [counts.accuracy, counts.precision, counts.recall, counts.f1, counts.yes_ratio]
            assert ours == pytest.approx(said)


@pytest.mark.parametrize(
    ("answer", "paper", "original"),
    [
        ("是的", "other", "yes"),
        ("不是。", "other", "no"),
        ("True", "other", "yes"),
        ("\nyes", "yes", "yes"),
        ("\n\n\n\nyes", "other", "yes"),
        ("No.", "no", "no"),
    ],
)
def test_mme_in_the_first_code_base_reads_more_than_its_authors(answer, paper, original):
    assert (mme_verdict(answer), mme_verdict(answer, compat="original")) == (paper, original)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        ("Yes, no doubt", "other"),
        ("Yes/No", "other"),
        ("yes;it is", "yes"),
        ("[no]", "no"),
        ("nothing", "other"),
        ("", "other"),
        ("well-no - it is, yes", "yes"),  # a hyphen beside a space takes every hyphen away: "wellno"
        ("1,000 is no-one's number", "other"),  # so does a comma between digits
    ],
)
def test_spoken(answer, says):
    assert spoken(answer) == says


def test_confusion_of_nothing():
    nothing = confusion([])
    assert nothing == Confusion(0, 0, 0, 0)
    assert (nothing.accuracy, nothing.precision, nothing.recall, nothing.f1, nothing.yes_ratio) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("pictures", [[], [(True,)], [(True, True), (True, True, False)]])
def test_mme_needs_pairs(pictures):
    with pytest.raises(ValueError, match="two answers"):
        mme_score(pictures)


def test_hallusion_by_hand():
    rows = [
        Judged(right, "chart", "0", figure, question)
        for right, figure, question in [
            (True, "0", "0"), (True, "0", "1"), (True, "1", "0"), (False, "1", "1"),
        ]
    ]  # fmt: skip
    other = Judged(True, "table", "0", "0", "1")  # the same numbers in another subcategory are another group
    assert hallusion_accuracies([*rows, other]) == pytest.approx({"aAcc": 80.0, "fAcc": 200 / 3, "qAcc": 200 / 3})
