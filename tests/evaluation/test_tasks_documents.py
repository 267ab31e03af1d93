"""AI2D, ChartQA, CharXiv, DocVQA, InfographicVQA, MP-DocVQA: rows in their published forms, asked and marked."""

from __future__ import annotations

import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks import charts, documents
from tests.evaluation.layouts import IMAGE, answered, check_lists, judged, lines, png, put, samples, scores, table

TASKS = (*documents.TASKS, *charts.TASKS)
TABLE = {task.name: task for task in TASKS}
SHORT = " Answer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def test_lists():
    check_lists(TASKS, "documents")
    for task in TASKS:
        figures = {"accuracy", "ANLS", "mean", "human", "augmented"}
        assert all(score.metric in figures and 20 < score.value < 100 for score in task.published), task.name
    tiles = {name: TABLE[name].settings.max_tiles for name in ("ai2d-test", "chartqa", "docvqa-val", "infovqa-test")}
    assert tiles == {"ai2d-test": 6, "chartqa": 12, "docvqa-val": 18, "infovqa-test": 24}


# ---- AI2D ------------------------------------------------------------------------------------------------------------

OPTIONS = {"A": "a fox", "B": "a hawk"}
QUESTION = "What eats the mouse?\nA. a fox\nB. a hawk" + LETTER


def test_ai2d(tmp_path):
    put(tmp_path, "ai2diagram/AI2D_TEST/0.png")
    row = {"image": "data/ai2diagram/AI2D_TEST/0.png", "question": QUESTION, "question_id": 0, "answer": "B"}
    put(tmp_path, "ai2diagram/test_vlmevalkit.jsonl", lines(row, row))
    task = TABLE["ai2d-test"]
    found = samples(task, tmp_path)
    assert found[0].prompt == QUESTION
    assert found[0].facts["options"] == OPTIONS
    assert found[0].pictures[0].read() == png()
    said = ["B", "b"]
    assert [row.mark.score for row in answered(task, found, said)] == [1, 0]
    assert [row.mark.score for row in answered(task, found, said, "original")] == [1, 1]
    said = ["B. a hawk", "a hawk"]
    assert [row.mark.score for row in answered(task, found, said)] == [1, 1]
    assert [row.mark.score for row in answered(task, found, said, "original")] == [0, 0]


def test_ai2d_with_options_in_another_form(tmp_path):
    put(tmp_path, "ai2diagram/AI2D_TEST/0.png")
    row = {"image": "data/ai2diagram/AI2D_TEST/0.png", "question": "What? (A) fox (B) hawk", "answer": "B"}
    put(tmp_path, "ai2diagram/test_vlmevalkit.jsonl", lines(row, row, row))
    task = TABLE["ai2d-test"]
    found = samples(task, tmp_path)
    assert [row.mark.score for row in answered(task, found, ["B", "(B)", "a hawk"])] == [1, 1, 0]


@pytest.mark.parametrize(("name", "file"), [("ai2d-test", "AI2D_TEST"), ("ai2d-test-no-mask", "AI2D_TEST_NO_MASK")])
def test_ai2d_table(tmp_path, name, file):
    row = {"index": 0, "image": IMAGE, "question": "What eats the mouse?", **OPTIONS, "answer": "B", "category": "food"}
    put(tmp_path, f"{file}.tsv", table(row))
    task = TABLE[name]
    found = samples(task, tmp_path)
    assert found[0].prompt == QUESTION
    assert found[0].pictures[0].read() == png(7)
    assert scores(task, found, ["B"], "original").values == {"accuracy": 100}
    assert scores(task, found, ["a hawk"]).groups == {"category": {"food": 100}}
    # The scores without mask were computed by VLMEvalKit, so the original has no rule for them.
    assert scores(task, found, ["a hawk"], "original").values == {"accuracy": 100 * name.endswith("no-mask")}


# ---- ChartQA ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def chartqa(tmp_path):
    for part, answers in (("human", ["100", "Yes", "[2012, 2013]"]), ("augmented", ["14"])):
        image = f"chartqa/ChartQA Dataset/test/png/{part}.png"
        put(tmp_path, image)
        rows = [
            {"image": f"data/{image}", "question": f"{part} {i}?", "question_id": 0, "answer": answer}
            for i, answer in enumerate(answers)
        ]
        put(tmp_path, f"chartqa/test_{part}.jsonl", lines(*rows))
    return tmp_path


def test_chartqa(chartqa):
    task = TABLE["chartqa"]
    found = samples(task, chartqa)
    assert [sample.id for sample in found] == ["human-0", "human-1", "human-2", "augmented-0"]
    assert found[0].prompt == "human 0?" + SHORT
    assert found[2].answer == ["[2012, 2013]"]
    figures = scores(task, found, ["105.2", "yes", "2012", "14.1"])
    assert figures.values == {
        "mean": pytest.approx((100 / 3 + 100) / 2),
        "human": pytest.approx(100 / 3),
        "augmented": 100,
    }
    assert next(iter(figures.values)) == "mean"
    figures = scores(task, found, ["105.2", "yes", "2012", "14.1"], "original")
    assert figures.values["human"] == pytest.approx(200 / 3)


def test_half_of_chartqa_has_no_mean(chartqa):
    task = TABLE["chartqa"]
    figures = scores(task, samples(task, chartqa)[:2], ["100", "Yes"])
    assert figures.values == {"human": 100}
    assert figures.withheld == {"mean": "no question of the part augmented"}
    assert task.summarise([]).withheld == {"mean": "there is no answer"}


def test_one_part_of_chartqa(chartqa):
    (chartqa / "chartqa/test_human.jsonl").unlink()
    task = TABLE["chartqa-augmented"]
    found = samples(task, chartqa)
    assert [sample.id for sample in found] == ["augmented-0"]
    assert scores(task, found, ["14"]).values == {"accuracy": 100}


def test_chartqa_table(tmp_path):
    row = {"index": 0, "image": IMAGE, "question": "How many?", "answer": "4", "split": "test_human"}
    other = {**row, "index": 1, "split": "test_augmented"}
    put(tmp_path, "ChartQA_TEST.tsv", table(row, other))
    assert [sample.id for sample in samples(TABLE["chartqa"], tmp_path)] == ["0", "1"]
    (sample,) = samples(TABLE["chartqa-human"], tmp_path)
    assert (sample.prompt, sample.answer) == ("How many?" + SHORT, ["4"])
    put(tmp_path, "ChartQA_TEST.tsv", table({**row, "split": "val"}))
    with pytest.raises(DataError, match="index 0: `split` is 'val'; expected human or augmented"):
        samples(TABLE["chartqa"], tmp_path)


def test_published_parts_of_chartqa_make_the_published_means():
    published = {(score.model, score.metric): score.value for score in TABLE["chartqa"].published}
    models = {model for model, metric in published if metric == "human" and (model, "mean") in published}
    assert len(models) == 7
    for model in models:
        mean = (published[model, "human"] + published[model, "augmented"]) / 2
        assert published[model, "mean"] == pytest.approx(mean, abs=0.0501)


# ---- CharXiv ---------------------------------------------------------------------------------------------------------

GRADING = "Rate this answer: {PREDICTION}. Answer in JSON with extracted_answer and score."


@pytest.mark.parametrize(
    ("part", "column", "number", "category"),
    [
        ("descriptive", "qid", 1, "Information Extraction"),
        ("descriptive", "qid", 17, "Compositionality"),
        ("descriptive", "qid", 19, "Counting"),
        ("reasoning", "inst_category", 3, "Number-in-Chart"),
    ],
)
def test_charxiv(tmp_path, part, column, number, category):
    row = {"index": 5, "image": IMAGE, "question": "What is it?", "answer": "0.5", column: number}
    put(tmp_path, f"CharXiv_{part}_val.tsv", table({**row, "grading_query": GRADING}))
    task = TABLE[f"charxiv-{part}"]
    found = samples(task, tmp_path)
    assert (found[0].id, found[0].prompt) == ("5", "What is it?")
    assert task.judging.prompt(found[0], "a {half}") == GRADING.replace("{PREDICTION}", "a {half}")
    rows = judged(task, found, ['```json\n{"extracted_answer": "0.5", "score": 1}\n```'])
    assert rows[0].mark.parsed == "0.5"
    assert task.summarise(rows).groups == {"category": {category: 100}}
    assert scores(task, found, [" 0.5"]).values == {"accuracy": 100}
    assert scores(task, found, ["a half"]).values == {"accuracy": 0}


@pytest.mark.parametrize(
    "verdict",
    ["", "1", "score: 1", '{"score": 1}', '{"extracted_answer": "a", "score": 2}', '{"extracted_answer', "[1]"],
)
def test_a_verdict_that_cannot_be_read_withholds(verdict):
    task = TABLE["charxiv-reasoning"]
    assert task.judging.parse(None, verdict).score is None


def test_all_kinds_of_charxiv_questions_are_known():
    assert set(charts.DESCRIPTIVE) == set(range(1, 20))


@pytest.mark.parametrize(("changed", "said"), [({"qid": 20}, "`qid`"), ({"grading_query": "?"}, "`grading_query`")])
def test_rows_of_charxiv_that_cannot_be_judged_are_named(tmp_path, changed, said):
    row = {"index": 5, "image": IMAGE, "question": "?", "answer": "a", "qid": 1, "grading_query": GRADING}
    put(tmp_path, "CharXiv_descriptive_val.tsv", table({**row, **changed}))
    with pytest.raises(DataError, match=rf"CharXiv_descriptive_val.tsv.*{said}"):
        samples(TABLE["charxiv-descriptive"], tmp_path)


# ---- DocVQA and its relatives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "official", "image"),
    [
        ("docvqa-val", "docvqa/val.jsonl", "docvqa/val/val_v1.0.json", "docvqa/val/documents/a.png"),
        (
            "infovqa-val",
            "infographicsvqa/val.jsonl",
            "infographicsvqa/infographicsVQA_val_v1.0_withQT.json",
            "infographicsvqa/infographicsvqa_images/a.jpeg",
        ),
    ],
)
def test_documents_with_answers(tmp_path, name, file, official, image):
    put(tmp_path, image)
    row = {"image": f"data/{image}", "question": "Which total?", "answer": ["x"]}
    put(tmp_path, file, lines({**row, "question_id": 49153}, {**row, "question_id": 49154}))
    more = {"answer_type": ["single span"], "evidence": ["Table/List", "Text"], "operation/reasoning": []}
    data = [
        {"questionId": 49154, "question": "Which total?", "answers": ["abcd"], **(more if "info" in name else {})},
        {"questionId": 49153, "question": "Which total?", "answers": ["0.28", "0.280"]},
    ]
    put(tmp_path, official, json.dumps({"dataset_name": name, "data": data}))
    task = TABLE[name]
    found = samples(task, tmp_path)
    assert [sample.id for sample in found] == ["49153", "49154"]
    assert found[0].prompt == "Which total?" + SHORT
    assert found[0].answer == ["0.28", "0.280"]
    rows = answered(task, found, ["0.28", "  ABCE  "])
    assert [row.mark.score for row in rows] == [1, 0.75]
    figures = task.summarise(rows)
    assert figures.values == {"ANLS": 87.5}
    spans = {"answer_type": {"single span": 75}, "evidence": {"Table/List": 75, "Text": 75}}
    assert figures.groups == (spans if "info" in name else {})
    assert scores(task, found, ["0.28", "  abce  "], "original").values == {"ANLS": 93.75}
    put(tmp_path, official, json.dumps({"data": data[:1]}))
    with pytest.raises(DataError, match=f"question 49153 is not in {official}"):
        samples(task, tmp_path)


@pytest.mark.parametrize(
    ("name", "file"), [("docvqa-test", "docvqa/test.jsonl"), ("infovqa-test", "infographicsvqa/test.jsonl")]
)
def test_documents_whose_answers_are_secret(tmp_path, name, file):
    put(tmp_path, "docvqa/test/a.png")
    row = {"image": "data/docvqa/test/a.png", "question": "Who?", "question_id": 57344}
    put(tmp_path, file, lines(row))
    task = TABLE[name]
    rows = answered(task, samples(task, tmp_path), ["Café"])
    assert rows[0].mark.score is None
    assert task.summarise(rows).withheld == {"ANLS": "1 of 1 answers have no mark"}
    file_name, build = task.submission
    assert file_name == f"{name}.json"
    assert json.loads(build(rows)) == [{"questionId": 57344, "answer": "Café"}]


def test_docvqa_tables(tmp_path):
    row = {"index": 3, "image": IMAGE, "question": "Who?", "questionId": 49153}
    put(tmp_path, "DocVQA_VAL.tsv", table({**row, "answer": "['A. Smith', 'Smith']"}))
    (sample,) = samples(TABLE["docvqa-val"], tmp_path)
    assert (sample.prompt, sample.answer) == ("Who?" + SHORT, ["A. Smith", "Smith"])
    put(tmp_path, "DocVQA_TEST.tsv", table(row))
    task = TABLE["docvqa-test"]
    found = samples(task, tmp_path)
    assert found[0].answer is None
    assert json.loads(task.submission[1](answered(task, found, ["x"]))) == [{"questionId": "49153", "answer": "x"}]


def test_many_pages(tmp_path):
    for page in ("nkbl0226_p0", "nkbl0226_p1"):
        put(tmp_path, f"mpdocvqa/images/{page}.jpg")
    row = {"questionId": 49153, "question": "Who?", "page_ids": ["nkbl0226_p0", "nkbl0226_p1"], "answers": ["ITC"]}
    put(tmp_path, "mpdocvqa/val.json", json.dumps({"data": [row]}))
    task = TABLE["mpdocvqa-val"]
    found = samples(task, tmp_path)
    assert found[0].prompt == "Image-1: <image>\nImage-2: <image>\nWho?" + SHORT
    assert [picture.name for picture in found[0].pictures] == [f"mpdocvqa/images/nkbl0226_p{i}.jpg" for i in (0, 1)]
    assert scores(task, found, ["itc"]).values == {"ANLS": 100}
    assert (task.settings.max_tiles, task.settings.together) == (18, 64)

    put(tmp_path, "mpdocvqa/test.json", json.dumps({"data": [{**row, "answers": None}]}))
    task = TABLE["mpdocvqa-test"]
    rows = answered(task, samples(task, tmp_path), ["itc"])
    assert json.loads(task.submission[1](rows)) == [{"questionId": 49153, "answer": "itc"}]
    (tmp_path / "mpdocvqa/images/nkbl0226_p1.jpg").unlink()
    with pytest.raises(DataError, match=r"val.json\[0\].*nkbl0226_p1.jpg"):
        samples(TABLE["mpdocvqa-val"], tmp_path)
