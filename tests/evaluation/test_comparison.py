"""Comparing two runs: like with like only, and a difference that is luck is not called one."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from internvl.errors import UsageError
from internvl.evaluation.benchmark import Mark, Marked, Sample, Scores
from internvl.evaluation.comparison import as_json, as_text, compare, together
from internvl.metrics.statistics import mcnemar
from tests.evaluation.finished import picture, rows, run, task

IDS = [f"q{n}" for n in range(100)]


def hits(right: set[int], count: int = 100) -> dict[str, float]:
    return {f"q{n}": float(n in right) for n in range(count)}


def one(a, b, **given):
    """The only compared benchmark of two runs of one benchmark each."""
    [found] = compare(run(a, name="before"), run(b, name="after"), **given).tasks
    return found


def test_a_clear_difference():
    a, b = hits(set(range(40))), hits(set(range(35, 90)))
    found = one(task(rows(a)), task(rows(b)))
    assert (found.a, found.b, found.difference) == (40.0, 55.0, 15.0)
    assert found.better_in_a == tuple(f"q{n}" for n in range(35))
    assert found.better_in_b == tuple(f"q{n}" for n in range(40, 90))
    assert found.p_sides == mcnemar(35, 50)
    assert found.p == pytest.approx(found.p_sides, abs=0.01)
    low, high = found.interval
    assert low < 15 < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * (0.85 - 0.15**2) ** 0.5 / 10, rel=0.1)


def test_nothing_changed():
    found = one(task(rows(hits({1, 2}))), task(rows(hits({1, 2}))))
    assert (found.difference, found.p, found.p_sides) == (0.0, 1.0, 1.0)
    assert found.better_in_a == found.better_in_b == ()
    assert found.interval == (0.0, 0.0)


def test_the_other_way_round():
    a, b = task(rows(hits(set(range(40))))), task(rows(hits(set(range(30, 90)))))
    there, back = one(a, b), one(b, a)
    assert there.difference == -back.difference
    assert there.p == back.p
    assert there.better_in_a == back.better_in_b
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


def test_the_order_of_samples_does_not_matter():
    a, b = hits(set(range(40))), hits(set(range(30, 90)))
    shuffled = random.Random(0).sample(sorted(b), len(b))
    found, other = one(task(rows(a)), task(rows(b))), one(task(rows(a)), task(rows({id: b[id] for id in shuffled})))
    assert found == other


def test_soft_marks_have_no_test_of_sides():
    a, b = dict.fromkeys(IDS, 0.6), {id: 0.6 if n % 2 else 0.9 for n, id in enumerate(IDS)}
    found = one(task(rows(a)), task(rows(b)))
    assert found.p_sides is None
    assert found.p < 0.001
    assert len(found.better_in_b) == 50
    assert found.difference == pytest.approx(15)


def test_several_seeds_are_means():
    a = {0: rows(hits({1, 2, 3}, 4)), 1: rows(hits({1}, 4))}
    b = {0: rows(hits({0, 1}, 4)), 5: rows(hits({0, 1}, 4))}
    found = one(dataclasses.replace(task(a), scores=Scores(values={"accuracy": 50.0})), task(b))
    assert (found.a, found.b, found.difference) == (50.0, 50.0, 0.0)
    assert found.better_in_a == ("q2", "q3")
    assert found.better_in_b == ("q0",)
    assert found.p_sides is None
    assert found.p == 1.0


def pairs_right(rows):
    """Both questions of a picture must be right, and each picture must have exactly two."""
    hits = {}
    for row in rows:
        hits.setdefault(row.sample.pictures[0].name, []).append(row.mark.score)
    assert all(len(found) == 2 for found in hits.values())
    return Scores(values={"acc+": 100 * sum(min(found) for found in hits.values()) / len(hits)})


def test_a_figure_that_is_no_mean_of_marks():
    def of(right):
        marked = [rows({f"q{n}-{side}": float(n in right)}, pictures=(picture(f"{n}.png"),))[0]
                  for n in range(60) for side in "ab"]  # fmt: skip
        marked[0] = Marked(marked[0].sample, "", Mark(1.0 - marked[0].mark.score))
        return task(marked, summarise=pairs_right)

    found = one(of(set(range(20))), of(set(range(40))))
    assert found.figure == "acc+"
    assert found.difference == pytest.approx(100 * 20 / 60)
    low, high = found.interval
    assert 100 * 20 / 60 - 13 < low < 100 * 20 / 60 < high < 100 * 20 / 60 + 13
    assert found.p < 0.001


def test_what_is_marked_together_stands_together():
    def unit(**given):
        return together(Sample(id="q", prompt="", **given))

    a, b = picture("a.png"), picture("b.png")
    assert unit(facts={"pair": 3}, pictures=(a,)) == unit(facts={"pair": 3}, pictures=(b,))
    assert unit(facts={"question": 7}, pictures=(a,)) != unit(facts={"question": 8}, pictures=(a,))
    assert unit(facts={"question": "What is this?"}, pictures=(a,)) == unit(pictures=(a,))
    assert unit(pictures=(a,)) != unit(pictures=(b,))
    assert unit() == "q"


def test_answers_without_a_mark_are_not_tested():
    def summarise(rows):
        return Scores(values={"length": sum(len(row.answer) for row in rows) / len(rows)})

    found = one(
        task(rows(dict.fromkeys(IDS)), summarise=summarise), task(rows(dict.fromkeys(IDS)), summarise=summarise)
    )
    assert found.p is None
    assert found.p_corrected is None
    assert found.interval == (0.0, 0.0)


def test_many_benchmarks_are_corrected_together():
    a = [task(rows(hits(set(range(40)))), name=f"t{n}") for n in range(3)]
    b = [task(rows(hits(set(range(start, 60)))), name=f"t{n}") for n, start in enumerate((0, 5, 13))]
    found = compare(run(*a), run(*b)).tasks
    assert [task.p for task in found] == sorted(task.p for task in found)
    assert found[0].p_corrected == pytest.approx(3 * found[0].p)
    assert all(task.p_corrected >= task.p for task in found)


def test_what_was_asked_otherwise_is_listed():
    a = task(rows(hits({1})), asked={"settings": {"max_tiles": 6}, "data": "x"})
    b = task(rows(hits({1}), prompt="What colour?"), asked={"settings": {"max_tiles": 12}, "data": "x"})
    found = one(a, b)
    assert found.asked == {"settings.max_tiles": (6, 12)}
    assert found.prompts_differ == 100
    both = compare(run(a, begun="1"), run(b, begun="2", model={"name": "InternVL2-2B", "hash": "sha256:12ab"}))
    assert both.run == {"model.name": ("InternVL2-8B", "InternVL2-2B")}
    text = as_text(both)
    assert "model.name  'InternVL2-8B' in a, 'InternVL2-2B' in b" in text
    assert "colours, settings.max_tiles  6 in a, 12 in b" in text
    assert "100 of 100 prompts differ" in text


def test_benchmarks_of_one_run_and_withheld_ones():
    a = [task(rows(hits({1})), name="x"), task(rows(hits({1})), name="y"), task(rows({"q": None}), name="z")]
    b = [task(rows(hits({1})), name="x"), task(rows(hits({1})), name="w"), task(rows({"q": 1.0}), name="z")]
    found = compare(run(*a), run(*b))
    assert [task.task for task in found.tasks] == ["x"]
    assert (found.only_a, found.only_b) == (("y",), ("w",))
    assert found.withheld == {"z": "1 of 1 answers have no mark"}
    assert "z: withheld, 1 of 1 answers have no mark" in as_text(found)


def changed(marked, **sample):
    first = marked[0]
    return [dataclasses.replace(first, sample=dataclasses.replace(first.sample, **sample)), *marked[1:]]


@pytest.mark.parametrize(("a", "b", "said"), [
    (task(rows(hits({1}, 3))), task(rows(hits({1}, 4))), r"did not answer the same samples \(3 and 4; 1 are in one run "
     r"only, such as 'q3'\); run both on the same data"),
    (task(rows(hits({1}, 3))), task(changed(rows(hits({1}, 3)), answer="red")), "truth of sample 'q0' is 'teal' in"),
    (task(rows(hits({1}))), task(rows(hits({1})), compat="original"), "scored with compat=None, the other with com"),
    (task(rows(hits({1})), marked_by="fallback"), task(rows(hits({1})), marked_by="judge"), "marked by fallback"),
    (task(rows(hits({1})), judge={"judge": "gpt-4", "version": "1"}),
     task(rows(hits({1})), judge={"judge": "gpt-4o", "version": "1"}), "judge 'gpt-4', version '1', the other"),
    (task(rows(hits({1})), name="x"), task(rows(hits({1})), name="y"), "after has y: no benchmark is in both"),
    (task({0: rows(hits({1}, 3)), 1: rows(hits({1}, 4))}), task(rows(hits({1}, 3))), "seed 1 answered other samples"),
    (task([]), task([]), "there is no answer to compare"),
])  # fmt: skip
def test_only_like_is_compared_with_like(a, b, said):
    with pytest.raises(UsageError, match=said) as error:
        compare(run(a, name="before"), run(b, name="after"))
    assert "\n" not in str(error.value)


def test_the_table():
    found = compare(run(task(rows(hits(set(range(40))))), name="before"), run(task(rows(hits({1}))), name="after"))
    lines = as_text(found).splitlines()
    assert lines[0] == "a = before, b = after"
    assert lines[2].split()[:4] == ["benchmark", "figure", "samples", "a"]
    assert lines[3].split()[:6] == ["colours", "accuracy", "100", "40.00", "1.00", "-39.00"]
    assert "< 0.001" in lines[3]
    assert lines[3].endswith("39 | 0")


def test_json_holds_everything():
    found = compare(run(task(rows(hits({1, 2})))), run(task(rows(hits({1})))))
    told = json.loads(json.dumps(as_json(found)))
    assert told["tasks"][0]["better_in_a"] == ["q2"]
    assert told["tasks"][0]["difference"] == -1.0
