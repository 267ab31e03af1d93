"""Perception benchmarks: what is asked, to the letter, from rows in their published layouts; what answers are worth."""

from __future__ import annotations

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks import code, long_context, multi_image, video
from internvl.evaluation.tasks.perception import BLINDTEST, BLINK, MMVP, OCRBENCH, TASKS
from internvl.zoo import TABLE as ZOO
from tests.evaluation.layouts import IMAGE, answered, check_lists, png, put, samples, scores, table

ASK_LETTER = "Answer with the option's letter from the given choices directly."
BY_NAME = {task.name: task for task in TASKS}


def marks(task, rows, answers, compat=None):
    return [row.mark.score for row in answered(task, rows, answers, compat)]


def mmvp_folder(root):
    rows = [
        "Index,Question,Options,Correct Answer",
        "1,Are the butterfly's wings open?,(a) Open (b) Closed,(a)",
        "2,Are the butterfly's wings open?,(a) Open (b) Closed,(b)",
        '3,"Left, or right?",(a) Left (b) Right,(b)',
        '4,"Left, or right?",(a) Left (b) Right,(a)',
    ]
    put(root, "MMVP/Questions.csv", "\n".join(rows) + "\n")
    for number in range(1, 5):
        put(root, f"MMVP/MMVP Images/{number}.jpg")


def test_lists():
    check_lists(TASKS, "perception")


def test_mmvp(tmp_path):
    mmvp_folder(tmp_path)
    rows = samples(MMVP, tmp_path)
    assert [row.id for row in rows] == ["1", "2", "3", "4"]
    assert rows[2].prompt == f"Left, or right?\nA. Left\nB. Right\n{ASK_LETTER}"
    assert [row.answer for row in rows] == ["A", "B", "B", "A"]
    assert rows[3].pictures[0].name == "MMVP/MMVP Images/4.jpg"
    assert rows[3].pictures[0].read() == png()
    said = ["A", "B", "The answer is (B).", "Right"]
    assert marks(MMVP, rows, said) == [1, 1, 1, 0]
    assert scores(MMVP, rows, said).values == {"accuracy": 50.0, "questions alone": 75.0}
    assert marks(MMVP, rows, said, "original") == [1, 1, 0, 0]  # it finds no letter behind other words


def test_a_half_pair_does_not_count(tmp_path):
    mmvp_folder(tmp_path)
    rows = samples(MMVP, tmp_path)
    assert scores(MMVP, rows[:3], "ABB").values == {"accuracy": 100, "questions alone": 100}
    assert scores(MMVP, rows[:1], "A").withheld == {"accuracy": "there is no pair of which both questions were asked"}


def test_mmvp_table(tmp_path):
    common = {"image": IMAGE, "question": "Open?", "A": "Yes", "B": "No"}
    put(tmp_path, "MMVP.tsv", table({"index": 0, **common, "answer": "A"}, {"index": 1, **common, "answer": "B"}))
    rows = samples(MMVP, tmp_path)
    assert rows[0].prompt == f"Open?\nA. Yes\nB. No\n{ASK_LETTER}"
    assert scores(MMVP, rows, "AB").values["accuracy"] == 100
    assert scores(MMVP, rows, "AA").values == {"accuracy": 0, "questions alone": 50}


def test_bad_options_are_refused(tmp_path):
    mmvp_folder(tmp_path)
    put(tmp_path, "MMVP/Questions.csv", "Index,Question,Options,Correct Answer\n1,Open?,yes or no,(a)\n")
    with pytest.raises(DataError, match=r"Questions\.csv, row 1: `Options` is 'yes or no'"):
        samples(MMVP, tmp_path)


def test_a_missing_picture_is_named(tmp_path):
    mmvp_folder(tmp_path)
    (tmp_path / "MMVP/MMVP Images/2.jpg").unlink()
    with pytest.raises(DataError, match=r"row 2: 'MMVP/MMVP Images/2\.jpg' is not in"):
        samples(MMVP, tmp_path)


def test_blink_table(tmp_path):
    two, one = f"['{IMAGE}', '{IMAGE}']", IMAGE
    put(tmp_path, "BLINK.tsv", table(
        {"index": 1, "image": two, "question": "Which is nearer?", "A": "this", "B": "that", "C": "",
         "answer": "B", "category": "Relative_Depth"},
        {"index": 2, "image": one, "question": "How many?", "A": "0", "B": "1", "C": "2",
         "answer": "C", "category": "Counting"},
    ))  # fmt: skip
    first, second = samples(BLINK, tmp_path)
    assert first.prompt == f"Image-1: <image>\nImage-2: <image>\nWhich is nearer?\nA. this\nB. that\n{ASK_LETTER}"
    assert len(first.pictures) == 2
    assert second.prompt == f"How many?\nA. 0\nB. 1\nC. 2\n{ASK_LETTER}"
    said = ["B. that", "I cannot say"]
    assert marks(BLINK, [first, second], said) == [1, 0]
    assert scores(BLINK, [first, second], said).values == {"accuracy": 50.0}
    assert scores(BLINK, [first, second], said).groups["category"] == {"Counting": 0, "Relative_Depth": 100}


def test_blink_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    picture = {"bytes": png(), "path": "x.png"}
    columns = {
        "idx": ["val_Counting_1"], "sub_task": ["Counting"], "question": ["How many?"],
        "image_1": [picture], "image_2": [picture], "choices": [["0", "1"]], "answer": ["(B)"],
    }  # fmt: skip
    (tmp_path / "BLINK/Counting").mkdir(parents=True)
    parquet.write_table(arrow.table(columns), tmp_path / "BLINK/Counting/val-00000-of-00001.parquet")
    [row] = samples(BLINK, tmp_path)
    assert row.prompt == f"Image-1: <image>\nImage-2: <image>\nHow many?\nA. 0\nB. 1\n{ASK_LETTER}"
    assert (row.answer, [picture.read() for picture in row.pictures]) == ("B", [png(), png()])


def test_blindtest(tmp_path):
    touching = {"image": IMAGE, "question": "Touching? Answer with Yes/No.", "task": "Touching Circles"}
    put(tmp_path, "VLMBlind.tsv", table(
        {"index": 0, "image": IMAGE, "question": "How many squares?", "task": "Nested Squares", "answers": "3"},
        {"index": 1, **touching, "answers": "No"},
        {"index": 2, **touching, "answers": "Yes"},
    ))  # fmt: skip
    rows = samples(BLINDTEST, tmp_path)
    assert rows[0].prompt == "How many squares?"
    said = ["{3}", "No.", "No."]
    assert marks(BLINDTEST, rows, said) == [1, 1, 0]
    assert scores(BLINDTEST, rows, said).values == {"accuracy": 75.0, "all questions": pytest.approx(200 / 3)}
    put(tmp_path, "VLMBlind.tsv", table({"index": 0, "image": IMAGE, "question": "?", "task": "Cubes", "answers": "3"}))
    with pytest.raises(DataError, match="row 1: `task` is 'Cubes'; expected one of LineIntersection"):
        samples(BLINDTEST, tmp_path)


def test_blindtest_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "task": ["Circled Letter"], "image": [{"bytes": png(), "path": None}], "prompt": ["Which letter?"],
        "groundtruth": ["k"], "metadata": ["{}"],
    }  # fmt: skip
    (tmp_path / "vlmsareblind/data").mkdir(parents=True)
    parquet.write_table(arrow.table(columns), tmp_path / "vlmsareblind/data/valid-00000-of-00001.parquet")
    rows = samples(BLINDTEST, tmp_path)
    assert [row.prompt for row in rows] == ["Which letter?"]
    assert marks(BLINDTEST, rows, ["{K}"]) == [1]


def test_ocrbench_table(tmp_path):
    words = {"index": 0, "image": IMAGE, "question": "what is written in the image?"}
    number = {"index": 1, "image": IMAGE, "question": "what is the number?"}
    put(tmp_path, "OCRBench.tsv", table(
        words | {"answer": "['CENTRE', 'Center']", "category": "Regular Text Recognition"},
        number | {"answer": "['12']", "category": "Doc-oriented VQA"},
    ))  # fmt: skip
    rows = samples(OCRBENCH, tmp_path)
    assert rows[0].prompt == "what is written in the image?\nAnswer the question using a single word or phrase."
    said = ["The centre", "13"]
    assert marks(OCRBENCH, rows, said) == [1, 0]
    assert scores(OCRBENCH, rows, said).values == {"score": 500.0}
    assert scores(OCRBENCH, rows, said).groups == {"kind": {"Doc-oriented VQA": 0, "Regular Text Recognition": 100}}
    put(tmp_path, "OCRBench.tsv", table(words | {"answer": "__import__('os').getcwd()", "category": "x"}))
    with pytest.raises(DataError, match=r"OCRBench\.tsv, row 1: `answer` is .*; expected a list of texts"):
        samples(OCRBENCH, tmp_path)


def test_ocrbench_of_its_authors(tmp_path):
    put(
        tmp_path,
        "OCRBench/OCRBench.json",
        '[{"id": 0, "question": "What?", "answers": "12", "type": "Doc-oriented VQA", "image_path": "a/b.png"}]',
    )
    put(tmp_path, "OCRBench/OCRBench_Images/a/b.png")
    [row] = samples(OCRBENCH, tmp_path)
    assert row.answer == ["12"]
    assert marks(OCRBENCH, [row], ["It is 12"]) == [1]


def test_vcr(tmp_path):
    task = BY_NAME["vcr-en-easy"]
    asked = {"image": IMAGE, "question": "What is the covered text?"}
    put(tmp_path, "VCR_EN_EASY_500.tsv", table(
        {"index": 0, **asked, "answer": "['born in the city', 'of the river']"},
        {"index": 1, **asked, "answer": "['a long way']"},
    ))  # fmt: skip
    rows = samples(task, tmp_path)
    assert rows[0].prompt == "What is the covered text?"
    said = ["born in the city; of a river", "I can't"]
    assert marks(task, rows, said) == [0.5, 0]
    figures = scores(task, rows, said).values
    assert figures["exact match"] == pytest.approx(100 / 3)
    assert figures["Jaccard"] == pytest.approx((1 + 0.5 + 0) / 3 * 100)
    put(tmp_path, "VCR_EN_EASY_500.tsv", table({"index": 0, **asked, "answer": "[]"}))
    with pytest.raises(DataError, match=r"row 1: `answer` is .*; expected at least one covered text"):
        samples(task, tmp_path)


def test_chinese_vcr(tmp_path):
    task = BY_NAME["vcr-zh-hard"]
    put(tmp_path, "VCR_ZH_HARD_500.tsv", table(
        {"index": 0, "image": IMAGE, "question": "被覆盖的文本是什么？", "answer": "['出生在北京']"},
    ))  # fmt: skip
    assert marks(task, samples(task, tmp_path), ["他出生在北京。"]) == [1]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_answers_no_score(task):
    assert task.summarise([]).withheld
    assert not task.summarise([]).values


PUBLISHED = {
    "mmvp": {"accuracy"}, "blink": {"accuracy"}, "ocrbench": {"score"}, "vcr-en-easy": {"exact match", "Jaccard"},
    "mantis": {"accuracy"}, "mirb": {"accuracy"}, "mmiu": {"accuracy"}, "muirbench": {"accuracy"},
    "mvbench": {"accuracy"}, "video-mme": {"accuracy"}, "video-mme-subtitles": {"accuracy"}, "mlvu": {"all questions"},
    "longvideobench": {"accuracy"},
}  # fmt: skip
"""Which figures of these tasks, and of those about several pictures and videos, were published for the family."""


def test_published_scores_are_of_models_that_the_zoo_has():
    published = {str(row.hub).rpartition("/")[2] for row in ZOO.values()}
    tasks = (*TASKS, *multi_image.TASKS, *video.TASKS, *code.TASKS, *long_context.TASKS)
    assert {task.name: {score.metric for score in task.published} for task in tasks if task.published} == PUBLISHED
    for score in (score for task in tasks for score in task.published):
        assert score.model in published, score
        assert 0 < score.value <= 1000
