"""Questions that get no answer: counted, worth nothing, never asked by chance again, and bounded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from internvl.cli.scores import table
from internvl.errors import DataError, UsageError
from internvl.evaluation.benchmark import Failure, Judging, Mark, Marked, Sample, Scores, mean_score
from internvl.evaluation.comparison import as_text, compare
from internvl.evaluation.failures import Allowed, told, worth
from internvl.evaluation.manifest import begin
from internvl.evaluation.planning import Change, plan
from internvl.evaluation.report import report_html
from internvl.evaluation.responders import Reply
from internvl.evaluation.runner import answer_all, check_failures
from internvl.evaluation.scoring import Rules, as_json, score_run, write_scores
from internvl.evaluation.store import Answered, Store, read_answers
from internvl.evaluation.tasks import TABLE
from tests.evaluation.asker import BENCHMARK, COUNT

HERE = Path("data")
LONG = Failure("context", "the conversation has 9000 tokens")


class Narrow:
    """Answers "a", but for questions whose number and tiles it was told to fail at."""

    def __init__(self, *, fails=(), fits: int = 1, kind="context") -> None:
        self.fails, self.fits, self.kind = set(fails), fits, kind
        self.asked: list[tuple[str, int]] = []

    def describe(self):
        return {"model": {"kind": "narrow", "name": "narrow"}}

    def answer(self, questions):
        for asked in questions:
            self.asked.append((asked.sample.id, asked.settings.max_tiles))
            bad = asked.sample.id in self.fails and asked.settings.max_tiles > self.fits
            yield Reply(asked, "", failed=replace(LONG, kind=self.kind)) if bad else Reply(asked, "a")


def ran(out: Path, responder, failures="2", *, again=False, change=None, benchmark=BENCHMARK) -> Path:
    task = plan(benchmark, HERE, change=change)
    begin(out, {benchmark.name: task.about}, responder.describe(), again=again)
    answer_all([task], responder, out, allowed=Allowed.parse(failures), again=again)
    return out


def scored(out: Path, benchmark=BENCHMARK, **rules):
    return score_run(out, rules=Rules(**rules), find=lambda *_: benchmark)


def test_how_many_may_fail():
    assert [Allowed().of(count) for count in (1, 100, 101, 1000)] == [1, 1, 2, 10]
    assert Allowed.parse("100%").of(7) == 7
    for wrong in ("-1", "2.5", "200%", "many", "nan", ""):
        with pytest.raises(UsageError, match="expected a number of questions, or a share"):
            Allowed.parse(wrong)
    assert told([LONG, LONG, Failure("refused", "")], 1000) == ("3 of 1000 not answered: 2 over the context, 1 refused")
    assert told([], 1000) == ""


def test_a_failed_question_is_kept_and_not_asked_again(tmp_path):
    responder = Narrow(fails=("q1", "q4"))
    ran(tmp_path, responder)
    assert len(responder.asked) == COUNT
    found = {one.id: one.failed for one in read_answers(tmp_path / "noise")}
    assert [id for id, failed in found.items() if failed] == ["q1", "q4"]
    assert found["q1"] == LONG
    ran(tmp_path, responder)
    assert len(responder.asked) == COUNT, "a resume asks nothing twice"


def test_beyond_the_budget_a_run_stops_and_says_how_to_go_on(tmp_path):
    responder = Narrow(fails=("q1", "q4", "q6"))
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            ran(tmp_path, responder)
        assert str(caught.value) == (
            f"noise: 3 of {COUNT} not answered: 3 over the context; 2 may fail. Such as q1: the conversation has 9000 "
            "tokens. Go on with --failures 3 or more; --again --max-tiles N asks them with fewer tiles"
        )
        assert [id for id, _ in responder.asked] == [f"q{n}" for n in range(7)], "the second time nothing is asked"
    ran(tmp_path, responder, "3")
    assert sorted(id for id, _ in responder.asked) == sorted(f"q{n}" for n in range(COUNT)), "a larger budget goes on"
    with pytest.raises(UsageError, match="3 over the context; 1 may fail"):
        check_failures([plan(BENCHMARK, HERE)], tmp_path, Allowed())


def test_failed_questions_are_asked_again_with_fewer_tiles(tmp_path):
    responder = Narrow(fails=("q1", "q4", "q6"))
    with pytest.raises(UsageError, match="2 may fail"):
        ran(tmp_path, responder)
    with pytest.raises(UsageError, match="max_tiles"):
        ran(tmp_path, responder, change=Change(max_tiles=1))
    responder.asked.clear()
    ran(tmp_path, responder, again=True, change=Change(max_tiles=1))
    assert responder.asked == [("q1", 1), ("q4", 1), ("q6", 1)], "nothing but what failed"
    ran(tmp_path, responder)
    assert all(tiles == 3 for _, tiles in responder.asked[3:]), "the rest with the run's own tiles"
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["tasks"]["noise"]["settings"]["max_tiles"] == 3
    [task] = scored(tmp_path).tasks
    assert task.scores.values == {"accuracy": 100.0}
    assert f"3 of {COUNT} asked again with 1 tiles" in table(scored(tmp_path))
    with pytest.raises(UsageError, match="has not asked other with these seeds yet; leave out --again"):
        ran(tmp_path, responder, again=True, benchmark=replace(BENCHMARK, name="other"))
    with pytest.raises(UsageError, match="temperature"):
        ran(tmp_path, responder, again=True, change=Change(temperature=0.5))


def test_a_failed_question_counts_as_wrong_and_is_told_of(tmp_path):
    out = ran(tmp_path, Narrow(fails=("q1", "q4")))
    result = scored(out)
    [task] = result.tasks
    assert task.scores.values["accuracy"] == pytest.approx(100 * (COUNT - 2) / COUNT)
    said = f"2 of {COUNT} not answered: 2 over the context; counted as wrong"
    assert f"noise: {said}" in table(result)
    page = report_html(result)
    assert said in page
    assert "(not answered: the conversation has 9000 tokens)" in page
    told_json = as_json(result)["scores"]["noise"]
    assert told_json["told"] == [said]
    assert told_json["failed"][1] == {"id": "q4", "seed": 0, "kind": "context", "why": LONG.why}


def test_an_empty_answer_that_a_rule_takes_for_right_is_wrong_all_the_same():
    sample = Sample(id="1", prompt="?", answer="", facts={})
    benchmark = replace(BENCHMARK, mark=lambda sample, answer, *, compat: Mark(1.0, "no", {"iou": 0.0}))
    assert worth(benchmark, sample, compat=None, judged=False) == Mark(0.0, None, {"iou": 0.0})
    secret = replace(BENCHMARK, mark=lambda sample, answer, *, compat: Mark(None, answer))
    assert worth(secret, sample, compat=None, judged=False).score is None


def test_pope_takes_no_answer_for_neither_yes_nor_no():
    sample = Sample(id="1", prompt="?", answer="yes", facts={"categories": ["random"]})
    assert TABLE["pope"].mark(sample, "", compat=None).score == 1.0, "why the rule alone will not do"
    assert worth(TABLE["pope"], sample, compat=None, judged=False) == Mark(0.0, None)


@pytest.mark.parametrize("name", ["llava-bench", "mmhal", "mmvet", "mmvet-v2", "mlvu-generation"])
def test_judged_benchmarks_make_figures_of_a_failed_question(name):
    facts = {"category": "a", "question_type": "b", "question_topic": "c", "capabilities": ["d"], "task": "sub_scene"}
    sample = Sample(id="1", prompt="?", answer="x", facts=facts)
    benchmark = TABLE[name]
    row = Marked(sample, "", worth(benchmark, sample, compat=None, judged=True), LONG)
    figures = benchmark.summarise([row])
    assert next(iter(figures.values.values())) == 0.0


JUDGED = replace(
    BENCHMARK,
    judging=Judging(
        version="1",
        prompt=lambda sample, answer: f"{sample.id}: is {answer} right?",
        parse=lambda sample, text: Mark(float(text)),
    ),
    summarise=mean_score(),
)


class Judge:
    name = "judge"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def write(self, prompts, judging):
        for place, prompt in enumerate(prompts):
            self.asked.append(prompt)
            yield place, "1"


def test_a_judge_is_not_asked_about_it(tmp_path):
    judge = Judge()
    [task] = scored(ran(tmp_path, Narrow(fails=("q1", "q4")), benchmark=JUDGED), JUDGED, judge=judge).tasks
    assert len(judge.asked) == COUNT - 2
    assert task.scores.values == {"accuracy": pytest.approx(100 * (COUNT - 2) / COUNT)}
    assert [row.sample.id for row in task.rows[0]] == [f"q{n}" for n in range(COUNT)]
    assert [row.mark.score for row in task.rows[0]].count(0.0) == 2


def test_a_server_that_marks_is_sent_the_empty_answer(tmp_path):
    def hand_in(rows):
        return json.dumps({row.sample.id: [row.answer, row.mark.parsed] for row in rows}).encode()

    benchmark = replace(BENCHMARK, submission=("answers.json", hand_in))
    write_scores(scored(ran(tmp_path, Narrow(fails=("q1",))), benchmark))
    sent = json.loads((tmp_path / "noise" / "answers.json").read_text())
    assert (sent["q0"], sent["q1"], len(sent)) == (["a", "a"], ["", ""], COUNT)


def test_two_runs_are_compared_with_it_as_wrong(tmp_path):
    runs = [scored(ran(tmp_path / name, Narrow(fails=fails))) for name, fails in (("a", ("q1", "q4")), ("b", ()))]
    found = compare(*runs)
    assert found.tasks[0].failed == (2, 0)
    assert found.tasks[0].better_in_b == ("q1", "q4")
    assert "noise: not answered, counted as wrong: 2 in a, 0 in b" in as_text(found)


def test_an_answer_replaces_a_failure_whichever_file_it_is_in(tmp_path):
    with Store(tmp_path, rank=1, world=2) as store:
        store.add(Answered(id="q0", seed=0, answer="", failed=LONG))
        store.add(Answered(id="q1", seed=0, answer="", failed=LONG))
    with Store(tmp_path) as store:
        assert store.failed == {("q0", 0): LONG, ("q1", 0): LONG}
        store.add(Answered(id="q0", seed=0, answer="yes", max_tiles=1))
        with pytest.raises(DataError, match="'q0' with seed 0 is answered already"):
            store.add(Answered(id="q0", seed=0, answer="yes"))
    found = {one.id: (one.answer, one.failed, one.max_tiles) for one in read_answers(tmp_path)}
    assert found == {"q0": ("yes", None, 1), "q1": ("", LONG, None)}


@pytest.mark.parametrize("part", ['"failed": "yes"', '"failed": {"kind": "bad", "why": ""}', '"max_tiles": "3"'])
def test_a_damaged_failure_is_named(tmp_path, part):
    (tmp_path / "answers.jsonl").write_text('{"id": "q", "seed": 0, "answer": "", ' + part + "}\n")
    with pytest.raises(DataError, match=r"answers.jsonl:1: .* is damaged; delete the line"):
        list(read_answers(tmp_path))


def test_what_a_summary_calls_a_mean_of_marks_is_one():
    """Of random marks, for every benchmark whose samples can be made up; a wrong claim would give a wrong interval."""
    tried: set[str] = set()
    for name, benchmark in TABLE.items():
        if benchmark.group == "captions":  # no figure is a mean of marks, and Java takes its time
            continue
        rows = [
            Marked(Sample(id=str(n), prompt="", answer="a", facts=FACTS | {"index": n, "question": n % 4}), "a",
                   Mark(float(n * n % 7 < 3), "a", dict.fromkeys(PARTS, 1.0)))
            for n in range(12)
        ]  # fmt: skip
        try:
            found = benchmark.summarise(rows)
        except (KeyError, TypeError, ValueError, IndexError):
            continue
        assert set(found.means) <= set(found.values), name
        mean = sum(row.mark.score or 0 for row in rows) / len(rows)
        for figure, scale in found.means.items():
            assert found.values[figure] == pytest.approx(scale * mean), f"{name}, {figure}"
            tried.add(name)
    assert len(tried) > 60


PARTS = ("mentioned", "edits", "characters", "words", "hallucination", "rating", "answer", "reference", "acc5")
FACTS = {
    "category": "c", "l2-category": "l", "kind": "image", "task": "t", "type": "y", "split": "val", "part": "human",
    "key": "total", "set": "1", "figure": "1", "categories": ["random"], "capabilities": ["ocr"], "subtask": "s",
    "question_type": "q", "question_topic": "p", "skills": ["s"], "qid": 1, "group": 1, "pair": 1, "concepts": "single",
}  # fmt: skip


def test_a_figure_of_nought_that_is_no_mean_has_not_the_interval_of_a_share(tmp_path):
    """An F1 of 0 and a mean of 0 are the same number."""

    def f1(rows):
        return Scores(values={"F1": 0.0})

    out = ran(tmp_path, Narrow())
    [task] = score_run(out, find=lambda *_: replace(BENCHMARK, summarise=f1, mark=lambda *_, compat: Mark(0.0))).tasks
    assert "F1" not in task.intervals
    [task] = score_run(out, find=lambda *_: replace(BENCHMARK, mark=lambda *_, compat: Mark(0.0))).tasks
    low, high = task.intervals["accuracy"]
    assert low == 0.0 < high
