"""From answers to figures, as often as one likes."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Judging,
    Mark,
    Marked,
    Picture,
    Published,
    Sample,
    Scores,
    Source,
    mean_score,
)
from internvl.evaluation.manifest import begin
from internvl.evaluation.planning import Change, Subset, plan
from internvl.evaluation.responders import Reply
from internvl.evaluation.runner import answer_all
from internvl.evaluation.scoring import Rules, as_json, score_run, write_scores
from tests.evaluation.asker import BENCHMARK, COUNT

HERE = Path("data")


class Script:
    """Answers each sample with a function of its number and the seed."""

    def __init__(self, say) -> None:
        self.say = say

    def describe(self):
        return {"model": {"kind": "script", "name": "script"}}

    def answer(self, questions):
        for asked in questions:
            yield Reply(asked, self.say(int(asked.sample.id[1:]), asked.seed))


def four_right(number: int, seed: int) -> str:
    """The first four answers are right, with every further seed one more."""
    return "a" if number < 4 + seed else "b"


def ran(out: Path, say=four_right, benchmark: Benchmark = BENCHMARK, **how) -> Path:
    """A run of the benchmark."""
    task = plan(benchmark, HERE, **how)
    begin(out, {benchmark.name: task.about}, Script(say).describe())
    answer_all([task], Script(say), out)
    return out


def scored(out: Path, benchmark: Benchmark = BENCHMARK, **rules):
    def find(name: str, asked: Mapping[str, Any], data: Path | None) -> Benchmark:
        assert name == benchmark.name
        return benchmark

    [task] = score_run(out, rules=Rules(**rules), find=find).tasks
    return task


def test_the_figures(tmp_path):
    task = scored(ran(tmp_path))
    assert task.scores.values == {"accuracy": pytest.approx(100 * 4 / COUNT)}
    assert task.scores.groups == {"kind": {"0": pytest.approx(200 / 7), "1": pytest.approx(200 / 6)}}
    low, high = task.intervals["accuracy"]
    assert low == pytest.approx(12.6815, abs=1e-3)  # Wilson, 4 of 13
    assert high == pytest.approx(57.6303, abs=1e-3)
    assert (task.marked_by, task.judge, task.compat) == ("rule", None, None)
    assert [row.sample.id for row in task.rows[0]] == [f"q{number}" for number in range(COUNT)]


def test_a_run_is_scored_by_other_rules(tmp_path):
    out = ran(tmp_path, lambda number, seed: "A")
    assert scored(out).scores.values == {"accuracy": 0.0}
    assert scored(out, compat="original").scores.values == {"accuracy": 100.0}


def test_several_seeds(tmp_path):
    out = ran(
        tmp_path,
        lambda number, seed: "a" if number < 4 + seed else "b",
        seeds=(0, 1, 2),
        change=Change(temperature=1.0),
    )
    task = scored(out)
    assert task.by_seed == {seed: {"accuracy": pytest.approx(100 * (4 + seed) / COUNT)} for seed in range(3)}
    assert task.scores.values == {"accuracy": pytest.approx(500 / COUNT)}
    assert task.scores.groups["kind"]["0"] == pytest.approx((200 / 7 + 300 / 7 + 300 / 7) / 3)
    low, high = task.intervals["accuracy, over seeds"]
    assert (low + high) / 2 == pytest.approx(500 / COUNT)
    assert (high - low) / 2 == pytest.approx(4.302653 * (100 / COUNT) / 3**0.5, rel=1e-5)
    low, high = task.intervals["accuracy"]
    assert low < 500 / COUNT < high


def test_a_figure_that_is_no_mean_has_an_interval_too(tmp_path):
    def squared(rows):
        return Scores(values={"square": (sum(row.mark.score for row in rows) / len(rows)) ** 2})

    out = ran(tmp_path)
    task = scored(out, replace(BENCHMARK, summarise=squared))
    low, high = task.intervals["square"]
    assert low < task.scores.values["square"] < high


def test_questions_about_one_picture_count_as_one(tmp_path):
    """Two questions that stand or fall together say less than two others."""
    samples = [
        Sample(id=f"q{number}", prompt="?", pictures=(Picture(f"{number // 2}.png", bytes),), answer="a")
        for number in range(12)
    ]
    bare = [replace(sample, pictures=()) for sample in samples]

    def by_twos(number: int, seed: int) -> str:
        return "ab"[number // 2 % 2]

    together, alone = (
        replace(BENCHMARK, sources=(Source("shared", (), lambda folder, given=given: iter(given)),))
        for given in (samples, bare)
    )
    pairs = scored(ran(tmp_path / "together", by_twos, together), together)
    apart = scored(ran(tmp_path / "alone", by_twos, alone), alone)
    assert pairs.scores == apart.scores
    widths = [task.intervals["accuracy"][1] - task.intervals["accuracy"][0] for task in (pairs, apart)]
    assert widths[0] > 1.2 * widths[1]


def test_an_unfinished_run_has_no_score(tmp_path):
    out = ran(tmp_path)
    file = out / "noise" / "answers.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(True)[:5]))
    task = scored(out)
    assert task.scores.values == {}
    assert task.scores.withheld == {"score": f"{COUNT - 5} of {COUNT} questions have no answer yet"}
    assert [row.mark.score for row in task.rows[0]] == [1.0] * 4 + [0.0], "what is there can be looked at"


def test_data_that_changed_is_refused(tmp_path):
    out = ran(tmp_path)

    def louder(folder):
        return (replace(one, prompt=one.prompt + "!") for one in BENCHMARK.sources[0].read(folder))

    with pytest.raises(DataError, match="is not what was asked"):
        scored(out, replace(BENCHMARK, sources=(Source("shared", (), louder),)))


def test_answers_to_other_questions_are_refused(tmp_path):
    out = ran(tmp_path, subset=Subset(first=3))
    with (out / "noise" / "answers.jsonl").open("a") as file:
        file.write(json.dumps({"id": "q9", "seed": 0, "answer": "a"}) + "\n")
    with pytest.raises(DataError, match="1 answers to questions that were not asked: q9"):
        scored(out)


def test_scores_on_the_disk(tmp_path):
    def hand_in(rows: list[Marked]) -> bytes:
        return "\n".join(row.answer for row in rows).encode()

    out = ran(tmp_path)
    benchmark = replace(BENCHMARK, submission=("answers.txt", hand_in), note="Noise only.")
    result = score_run(out, find=lambda *_: benchmark)
    write_scores(result)
    found = json.loads((out / "scores.json").read_text())
    assert found == json.loads(json.dumps(as_json(result)))
    noise = found["scores"]["noise"]
    assert noise["values"]["accuracy"] == pytest.approx(100 * 4 / COUNT)
    assert (noise["marked by"], noise["rules"], noise["answers"], noise["note"]) == (
        "rule",
        "paper",
        COUNT,
        "Noise only.",
    )
    assert found["run"]["tasks"]["noise"]["settings"]["max_tiles"] == 3
    assert (out / "noise" / "answers.txt").read_text().split() == ["a"] * 4 + ["b"] * 9


# ---- judges ----------------------------------------------------------------------------------------------------------


def verdict(sample: Sample, text: str) -> Mark:
    found = re.fullmatch(r"([01])\.", text)
    return Mark(float(found[1]) if found else None, text)


JUDGED = replace(
    BENCHMARK,
    judging=Judging(
        version="1",
        prompt=lambda sample, answer: f"{sample.id}: is {answer} right?",
        parse=verdict,
        published="a judge",
    ),
    published=(Published("InternVL2-1B", 50.0, "accuracy", "nowhere"),),
    summarise=mean_score(),
)


class Judge:
    name = "judge"

    def __init__(self, verdict: str = "1.") -> None:
        self.verdict = verdict
        self.asked: list[str] = []

    def write(self, prompts, judging):
        for place, prompt in enumerate(prompts):
            self.asked.append(prompt)
            yield place, self.verdict


def test_without_a_judge_the_score_is_withheld(tmp_path):
    task = scored(ran(tmp_path, benchmark=JUDGED), JUDGED)
    assert task.scores.values == {}
    assert set(task.scores.withheld) == {"accuracy"}
    assert "name a judge with --judge (published scores: a judge)" in task.scores.withheld["accuracy"]
    assert all(row.mark.score is None for row in task.rows[0])
    assert task.marked_by == "judge"


def test_the_rule_stands_in_only_when_asked(tmp_path):
    task = scored(ran(tmp_path, benchmark=JUDGED), JUDGED, fallback=True)
    assert task.scores.values == {"accuracy": pytest.approx(100 * 4 / COUNT)}
    assert task.marked_by == "fallback"


def test_a_judge_is_asked_once(tmp_path):
    out, judge = ran(tmp_path, benchmark=JUDGED), Judge()
    for _ in range(2):
        task = scored(out, JUDGED, judge=judge)
        assert task.scores.values == {"accuracy": 100.0}
    assert len(judge.asked) == COUNT
    assert task.marked_by == "judge"
    assert task.judge is not None
    assert task.judge["version"] == "1"
    lines = [json.loads(line) for line in (out / "noise" / "judged.jsonl").read_text().splitlines()]
    assert len(lines) == COUNT


def test_a_judge_that_nobody_understands(tmp_path):
    task = scored(ran(tmp_path, benchmark=JUDGED), JUDGED, judge=Judge("well"))
    assert task.scores.values == {}
    assert "verdicts of judge cannot be read" in task.scores.withheld["accuracy"]


def test_a_judge_is_not_asked_about_a_part(tmp_path):
    out, judge = ran(tmp_path, benchmark=JUDGED), Judge()
    file = out / "noise" / "answers.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(True)[:5]))
    assert scored(out, JUDGED, judge=judge).scores.withheld["accuracy"].startswith(f"{COUNT - 5} of {COUNT} questions")
    assert judge.asked == []
