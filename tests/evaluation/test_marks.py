"""Every marker of the table, whatever a model writes: it never fails, and gives a score from 0 to 1 or none."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.evaluation.benchmark import Benchmark, Mark, Sample
from internvl.evaluation.tasks import TABLE

RED = {"A": "red", "B": "a blue car", "C": "3"}
TEN = ["stop", "stop sign"] * 5


def sample(answer: object, **facts: object) -> Sample:
    return Sample(id="1", prompt="What is it?", answer=answer, facts=facts)


def vista(answer_type: str, truth: str | None, **more: object) -> Sample:
    facts = {"question_type": "free_form", "choices": [], "precision": 1.0, "question": "How many?"} | more
    return sample(truth, answer_type=answer_type, **facts)


DYNAMATH = (sample("2.0944", answer_type="float"), sample("B", answer_type="multiple choice"),
            sample("September", answer_type="text"))  # fmt: skip
MATHVISION = (sample("\\frac{1}{2}", options=[]), sample("B", options=["3", "x+1"]), sample("(1,2)", options=[]))
CHOICE = (sample("B", options=RED), sample(None, options=RED), sample("B", options={}))
SAMPLES: dict[str, tuple[Sample, ...]] = {
    "captions.mark_caption": (sample(["A red bus stops.", "The bus isn't here"]),),
    "charts.mark_charxiv": (sample(["Not Applicable"]), sample(None)),
    "charts.mark_relaxed": (sample(["12.5"]), sample(["20%"]), sample(["Yes", "0"])),
    "choice.mark_choice": CHOICE,
    "choice.mark_choice_always_official": CHOICE,
    "code.unmarked": (sample(None),),
    "documents.mark_ai2d": (sample("B", options=RED),),
    "documents.mark_anls": (sample(["July 1, 1999", "x"]), sample([""])),
    "domains.mark_drivelm": (sample("<c1,CAM_BACK,[500,750]>"),),
    "domains.mark_rsvqa": tuple(
        sample(truth, type=kind) for truth, kind in (("12", "count"), ("9m2", "area"), ("no", "presence"))
    ),
    "general.mark_seed": (sample("B", options=RED),),
    "general.mark_tiny": (sample(["red bus"]), sample(["?"])),
    "grounding.mark_dior": (sample((1.0, 2.0, 30.0, 40.0), size=[800.0, 800.0]),),
    "grounding.mark_refcoco": (sample((1.0, 2.0, 30.0, 40.0), size=[640.0, 480.0]),),
    "hallucination.mark_crpe": (sample("B", text="a dog"), sample("B", text="")),
    "hallucination.mark_hallusion": (sample("yes"),),
    "hallucination.mark_pope": (sample("yes"),),
    "hallucination.mark_pope_cot": (sample("no"),),
    "judged.mmvet_by_rule": (sample("-1<AND>-5"), sample("cat<OR>a cat")),
    "judged.no_rule": (
        sample("A cat.", task="summary", question="What?"),
        sample("A cat.", task="sub_scene", points=""),
    ),
    "long_context.mark": (sample(1), sample([1, 2, 3]), sample("oak"), sample(None)),
    "mathematics.mark_mathvision": MATHVISION,
    "mathematics.mark_mathvista": (
        vista("integer", "14"),
        vista("float", "1.5"),
        vista("float", "1.5", precision=None),
        vista("float", None, precision=None),
        vista("list", "[1, 2]"),
        vista("text", "red", question_type="multi_choice", choices=["red", "blue"]),
    ),
    "mlvu.mark_mlvu": (sample("B", options=RED),),
    "mme.mark": (sample("yes"),),
    "mme_realworld.mark": (sample("B", options={"A": "red", "E": "none of these"}),),
    "mmmu.mark_mmmu": (
        *(sample(truth, options=options) for truth in ("B", None) for options in (RED, {})),
        sample(["12.50", "blue"], options={}),
    ),
    "mmmu.mark_named": (*CHOICE, sample("?", options={})),
    "mmmu.mark_pro": (sample("B", options=RED), sample("B", options=dict.fromkeys("ABCD", "\0"))),
    "multi_image.mark_mantis": (sample("B", options={"A": "(A) red", "B": "(B) blue"}), sample("Two.", options={})),
    "multi_image.mark_mirb": tuple(
        sample(truth, task=task)
        for task, truth in (("count", "12"), ("analogy", "yes"), ("sightseeing", "Rome"), ("food", "B"))
    ),
    "nlvr.mark_truth": (sample(True), sample(False)),
    "own.mark_key": (sample("12.50"),),
    "own.mark_line": (sample("TOTAL 12.50"),),
    "own.mark_name": (sample("Ghana"),),
    "own.mark_rubbish": (sample("glass"),),
    "own.mark_sudoku": (sample("/".join(["530070000"] * 9)),),
    "own_unseen.mark_absent": (sample("yes"), sample("no")),
    "own_puzzles.mark_puzzlevqa": (sample("red", options=["red", "blue"]),),
    "perception.mark_blindtest": tuple(
        sample(truth, task=task)
        for task, truth in (
            ("SubwayMap", "2"),
            ("TouchingCircle", "Yes"),
            ("CircledWord", "a"),
            ("CountingRowsAndColumns", "(5,6)"),
        )
    ),
    "perception.mark_ocrbench": (
        sample(["CENTRE"], kind="Regular Text Recognition"),
        sample(["x^2"], kind="Handwritten Mathematical Expression Recognition"),
    ),
    "perception.mark_vcr": (sample(["in the city of", "然后在罗马"]), sample(["..."])),
    "problems.mark_by_rule": (
        sample("B", question_type="multi-choice", question="Which?"),
        sample("\\sqrt{2}", question_type="free-form", question="Which?"),
    ),
    "problems.mark_dynamath": DYNAMATH,
    "problems.mark_olympiad": tuple(
        sample(truth, tolerances=tolerances, chinese=chinese)
        for truth, tolerances in (
            ("3,0.5", [0.1]),
            ("x^2+y=3", []),
            ("(0,1]\\cup[2,3)", []),
            ("x^2+n!", []),
            ("\\pm 2", []),
        )
        for chinese in (False, True)
    ),
    "rankings.mark_class": (sample(1),),
    "rankings.mark_classes": (sample([0, 2]),),
    "rankings.mark_found": (sample(["a", "b"]),),
    "science.mark_puzzle": (sample("red", options=["red", "blue"]),),
    "science.mark_science": (sample("B", options=RED),),
    "video.mark_capital": (sample("B", options=RED),),
    "video.mark_mvbench": (sample("(B) a blue car"),),
    "vqa.mark_exact": (sample(["red", ""]),),
    "vqa.mark_gqa": (sample(["yes"]),),
    "vqa.mark_secret": (sample(None),),
    "vqa.mark_soft": (sample(TEN),),
}
"""By marker, questions of every kind that it meets, as the readers make them."""


def marker_of(benchmark: Benchmark) -> str:
    function = benchmark.mark
    while isinstance(function, partial):
        function = function.func
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


MARKS = {f"{name}, {sorted(kept.items())}" if kept else name: benchmark
         for benchmark in reversed(TABLE.values())
         for name, kept in [(marker_of(benchmark), getattr(benchmark.mark, "keywords", {}))]}  # fmt: skip
"""One benchmark for each marker with each of its settings."""
JUDGED = {name: benchmark for name, benchmark in TABLE.items() if benchmark.judging}

PIECES = [
    "A", "B", "(A)", "(B) ", "C.", "Answer: ", "Final answer: ", "the answer is ", "yes", "No", "not", "是", "true",
    "\n", " ", ".", ",", "-", "1", "12", "1,000", "2.5e3", "1e999", "-0", "٣", "²", "½", "%", "π", "∞", "nan", "inf",
    "\\boxed{", "\\frac", "\\sqrt", "{", "}", "[", "]", "[[", "(", ")", "|", "^", "!", "/", "=", "$", "\\cup", "\\pm",
    "\\in ", "x", "n", "i", "e", "\\sin", "\\ln0", "10^{308}", "9^{6000}", "So the final answer is ",
    "所以最终答案是", '"',
    "'", "'s", "n't", "```", "```python", "json", "<c1,CAM_BACK,[", "<ref>", "<box>", "row", "columns={", "rows=",
    "red", "blue", "a ", "the ", "of", "sorry", "is ", '{"short answer": ', '{"score": ', '{"ranked": ',
    '{"scores": ', '"names"', "null", "Rating: 3", "Judgement: 1", "Extracted: ", "score_accuracy: 3", "\0", "\u2028",
    "😀", "e\u0301", "İ", "ß", "9" * 400,
]  # fmt: skip
"""What scorers look for, and what might upset them."""
ANSWERS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def check(mark: Mark) -> None:
    assert mark.score is None or (0 <= mark.score <= 1)
    assert mark.parsed is None or isinstance(mark.parsed, str)
    assert all(isinstance(part, (int, float)) for part in mark.parts.values())


def test_every_marker_has_its_questions():
    assert {marker_of(benchmark) for benchmark in TABLE.values()} == set(SAMPLES)


@pytest.mark.parametrize("marker", sorted(MARKS))
@settings(max_examples=60, deadline=None)
@given(answer=ANSWERS)
def test_any_answer_is_marked(marker, answer):
    benchmark = MARKS[marker]
    for question in SAMPLES[marker_of(benchmark)]:
        for compat in (None, "original"):
            mark = benchmark.mark(question, answer, compat=compat)
            check(mark)
            assert benchmark.mark(question, answer, compat=compat).score == mark.score


LONG = 5_000
"""Characters; Python reads numbers of 4,300 digits."""
REPEATED = [
    "A", "(A)", "Answer: ", "answer is ", "No ", "是", "\n", " ", ".", ",", "1", "1 ", "1.", "1,", "0,", "٣",
    "\\boxed{", "OXED{", "\\frac", "\\sin^", "\\mathrm{", "{", "[", "[[", "[a", "[1,", "((a", "$", "=", "\\cup",
    "\\pm,", "\"", "n't", "a's", "a-", "a.b", "<c1,", "<c, ", "row", "the ", "😀",
]  # fmt: skip


@pytest.mark.parametrize("marker", sorted(MARKS))
def test_a_long_answer_is_marked(marker):
    """Nothing in a scorer takes the square of an answer's length: that would be seen here by waiting."""
    benchmark = MARKS[marker]
    for piece in REPEATED:
        for end in ("", "x"):
            answer = piece * (LONG // len(piece)) + end
            for question in SAMPLES[marker_of(benchmark)]:
                check(benchmark.mark(question, answer, compat=None))
            check(benchmark.mark(SAMPLES[marker_of(benchmark)][0], answer, compat="original"))


@pytest.mark.parametrize("name", sorted(JUDGED))
@settings(max_examples=60, deadline=None)
@given(verdict=ANSWERS)
def test_any_verdict_of_a_judge_is_read(name, verdict):
    judging = JUDGED[name].judging
    for question in SAMPLES[marker_of(JUDGED[name])]:
        if question.answer is not None or marker_of(JUDGED[name]) == "charts.mark_charxiv":
            check(judging.parse(question, verdict))
