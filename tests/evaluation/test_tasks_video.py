"""Benchmarks about videos: prompts to the letter, clips and frames, subtitles, marks, figures, and the judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from internvl.errors import DataError
from internvl.evaluation.ask import conversation
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.mlvu import MLVU, MLVU_CHOICES, MLVU_GENERATION
from internvl.evaluation.tasks.subtitles import heard, subrip
from internvl.evaluation.tasks.video import LONG_VIDEO, MVBENCH, MVBENCH_TASKS, TASKS, mvbench_list
from tests.data.test_video import film
from tests.evaluation.layouts import answered, check_lists, judged, put, samples, scores

ASK_LETTER = "Answer with the option's letter from the given choices directly."
BY_NAME = {task.name: task for task in TASKS}


def marks(task, rows, answers, compat=None):
    return [row.mark.score for row in answered(task, rows, answers, compat)]


def movie(root: Path, name: str, **how) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(film(**how))


def asked(task, row) -> tuple[str, int]:
    """The text that a model is given, and how many pictures with it."""
    [message] = conversation(row, task.settings)
    *pictures, text = message.parts
    return text, len(pictures)


def frames(line: str, count: int = 16) -> str:
    return "".join(f"{line}{number}: <image>\n" for number in range(1, count + 1))


def test_lists():
    check_lists(TASKS, "video")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_answers_no_score(task):
    assert task.summarise([]).withheld
    assert not task.summarise([]).values


# ---- MVBench ---------------------------------------------------------------------------------------------------------


def mvbench_folder(root: Path) -> None:
    for task, (place, cut) in MVBENCH_TASKS.items():
        row = {"video": "a.mp4", "question": f"{task}?", "candidates": ["up", "down"], "answer": "down"}
        if task == "Episodic Reasoning":
            row["video"] = "castle"
            for number in range(1, 31):
                put(root, f"MVBench/video/{place}/castle/{number:05d}.jpg")
        else:
            movie(root, f"MVBench/video/{place}/a.mp4")
        put(root, mvbench_list(task), json.dumps([row | ({"start": 0.2, "end": 0.8} if cut else {})]))


def test_mvbench(tmp_path):
    mvbench_folder(tmp_path)
    rows = samples(MVBENCH, tmp_path)
    by_task = {row.facts["task"]: row for row in rows}
    assert len(by_task) == len(rows) == 20
    watch = (
        "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
        "objects, and the action and pose of persons. Based on your observations, select the best option that "
        "accurately addresses the question.\n"
    )
    text, pictures = asked(MVBENCH, by_task["Action Count"])
    assert text == (
        f"{frames('Frame')}{watch}\nQuestion: Action Count?\nOptions:\n(A) up\n(B) down\nOnly give the best option."
    )
    assert pictures == 16
    assert by_task["Action Count"].footage.bound is None
    assert by_task["Action Sequence"].footage.bound == (0.2, 0.8)
    assert by_task["Fine-grained Pose"].footage.name == "MVBench/video/nturgbd/a.mp4"
    episode = by_task["Episodic Reasoning"]
    assert episode.footage.name == "MVBench/video/tvqa/frames_fps3_hq/castle"
    assert asked(MVBENCH, episode)[1] == 16
    said = ["(B) down"] * 19 + [""]
    assert marks(MVBENCH, rows, said) == [1] * 19 + [0]
    assert scores(MVBENCH, rows, said).values == {"accuracy": 95}
    assert scores(MVBENCH, rows, said, "original").values == {"accuracy": 100}
    assert scores(MVBENCH, rows, said).groups["task"]["Counterfactual Inference"] == 0


def test_mvbench_names_bad_rows(tmp_path):
    mvbench_folder(tmp_path)
    good = {"video": "a.mp4", "question": "?", "candidates": ["up", "down"], "answer": "left"}
    put(tmp_path, mvbench_list("Action Antonym"), json.dumps([good]))
    with pytest.raises(DataError, match=r"antonym\.json\[0\]: `answer` is 'left'; expected one of the candidates"):
        samples(MVBENCH, tmp_path)
    put(tmp_path, mvbench_list("Action Antonym"), json.dumps([good | {"answer": "up", "video": "b.mp4"}]))
    with pytest.raises(DataError, match=r"action_antonym\.json\[0\]: 'MVBench/video/ssv2_video/b\.mp4' is not in"):
        samples(MVBENCH, tmp_path)


# ---- Video-MME -------------------------------------------------------------------------------------------------------


def video_mme_folder(root: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "video_id": ["001"], "duration": ["short"], "domain": ["Knowledge"], "sub_category": ["Law"],
        "url": ["https://…"], "videoID": ["abc"], "question_id": ["001-1"], "task_type": ["Counting Problem"],
        "question": ["How many?"], "options": [["A. One.", "B. Two.", "C. Three.", "D. Four."]], "answer": ["C"],
    }  # fmt: skip
    (root / "Video-MME/videomme").mkdir(parents=True)
    parquet.write_table(arrow.table(columns), root / "Video-MME/videomme/test-00000-of-00001.parquet")
    movie(root, "Video-MME/video/abc.mp4", frames=50)  # two seconds
    put(root, "Video-MME/subtitle/abc.srt", "1\n00:00:00,000 --> 00:00:00,100\nHello\n\n"
        "2\n00:00:00,900 --> 00:00:01,020\nthere\n\n3\n00:00:05,000 --> 00:00:06,000\nnever\n")  # fmt: skip


QUESTION = "Question: How many?\nA. One.\nB. Two.\nC. Three.\nD. Four. \n" + ASK_LETTER
CHOOSE = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n"
)


def test_video_mme(tmp_path):
    video_mme_folder(tmp_path)
    task = BY_NAME["video-mme"]
    rows = samples(task, tmp_path)
    text, pictures = asked(task, rows[0])
    assert text == f"{frames('Frame-')}\nThese are the frames of a video. {CHOOSE}{QUESTION}"
    assert (rows[0].id, pictures) == ("001-1", 16)
    assert [marks(task, rows, [said]) for said in ("C. Three.", "The answer is (C).", "three", "B", "?")] == [
        [1], [1], [1], [0], [0],
    ]  # fmt: skip
    found = scores(task, rows, ["C"])
    assert found.values == {"accuracy": 100}
    assert found.groups == {"duration": {"short": 100}, "domain": {"Knowledge": 100}, "task": {"Counting Problem": 100}}


def test_video_mme_with_subtitles(tmp_path):
    """Two of 16 frames of two seconds fall into the two short lines."""
    video_mme_folder(tmp_path)
    task = BY_NAME["video-mme-subtitles"]
    [row] = samples(task, tmp_path)
    spoken = "This video's subtitles are listed below:\nHello\nthere\n"
    assert row.prompt == f"<video>\nThese are the frames of a video. {spoken}{CHOOSE}{QUESTION}"
    (tmp_path / "Video-MME/subtitle/abc.srt").unlink()
    [row] = samples(task, tmp_path)
    assert "listed below:\n\nSelect" in row.prompt


def test_video_mme_table(tmp_path):
    video_mme_folder(tmp_path)
    (tmp_path / "Video-MME/videomme/test-00000-of-00001.parquet").unlink()
    put(tmp_path, "Video-MME.tsv", "index\tvideo\tduration\tdomain\tcandidates\ttask_type\tquestion\tanswer\n"
        "0\tabc\tshort\tKnowledge\t['A. One.', 'B. Two.', 'C. Three.', 'D. Four.']\tOCR\tHow many?\tC\n")  # fmt: skip
    [row] = samples(BY_NAME["video-mme"], tmp_path)
    assert row.prompt.endswith(QUESTION)
    assert row.facts["options"]["D"] == "Four"


def test_subrip():
    text = (
        "\ufeff1\r\n00:00:01,000 --> 00:00:02,500 X1:1\r\n<i>One</i>\r\nmore\r\n\r\n"
        "2\r\n01:00:00,000 --> 01:00:01,000\r\n3\r\n\r\n\r\n"
    )
    assert subrip(text) == [(1.0, 2.5, "One more"), (3600.0, 3601.0, "3")]
    assert subrip("") == subrip("no times at all") == []
    silent = "1\n00:00:01,000 --> 00:00:02,000\n2\n00:00:03,000 --> 00:00:04,000\nHello\n"
    assert subrip(silent) == [(1.0, 2.0, ""), (3.0, 4.0, "Hello")]
    assert subrip("\n" * 200_000) == subrip(f"{'1' * 5000}:00:01,000 --> 00:00:02,000\nHello\n") == []
    assert heard(subrip(text), [0.5, 1.5, 2.0, 3600.5]) == "One more\nOne more\n3"


# ---- MLVU ------------------------------------------------------------------------------------------------------------


def test_mlvu(tmp_path):
    for task, name in MLVU_CHOICES.items():
        row = {"video": "a.mp4", "duration": 9, "question": f"{task}?", "candidates": ["up", "down"], "answer": "up"}
        put(tmp_path, f"MLVU/json/{name}.json", json.dumps([row] * (2 if task == "ego" else 1)))
        movie(tmp_path, f"MLVU/video/{name}/a.mp4")
    rows = samples(MLVU, tmp_path)
    assert asked(MLVU, rows[0])[0] == (
        f"{frames('Frame-')}Carefully watch this video and pay attention to every detail. Based on your observations, "
        "select the best option that accurately addresses the question.Question: plotQA?\nOptions:\n(A) up\n(B) down\n"
        "Only give the best option."
    )
    said = ["(B)" if row.facts["task"] == "ego" else "(A) up" for row in rows]
    assert scores(MLVU, rows, said).values == {"M-Avg": pytest.approx(600 / 7), "all questions": 75}


def test_mlvu_is_judged(tmp_path):
    scene = {"video": "a.mp4", "question": "What did he eat?", "answer": "Soup.", "scoring_points": "soup; at noon"}
    summary = {"video": "a.mp4", "question": "Summarise.", "answer": "A man eats."}
    for name, row in (("8_sub_scene", scene), ("9_summary", summary)):
        put(tmp_path, f"MLVU/json/{name}.json", json.dumps([row]))
        movie(tmp_path, f"MLVU/video/{name}/a.mp4")
    rows = samples(MLVU_GENERATION, tmp_path)
    assert rows[0].prompt.endswith("Based on your observations, answer the given questions.What did he eat?")
    assert marks(MLVU_GENERATION, rows, ["Soup.", "x"]) == [None, None]
    told = [MLVU_GENERATION.judging.prompt(row, "He had soup.") for row in rows]
    assert "Scoring points: soup; at noon" in told[0]
    assert "Answer to rate: He had soup." in told[0]
    assert "Standard answer: A man eats." in told[1]
    assert '"score_completeness": …, "score_reliability": …' in told[1]
    verdicts = [
        "Good.\n{'score_accuracy': 4.5, 'score_relevance': 5}",
        '{"score_completeness": 2, "score_reliability": 3}',
    ]
    found = MLVU_GENERATION.summarise(judged(MLVU_GENERATION, rows, verdicts))
    assert found.values == {"G-Avg": pytest.approx(7.25)}
    unread = judged(MLVU_GENERATION, rows, ["score_accuracy: 9, score_relevance: 5", verdicts[1]])
    assert unread[0].mark.score is None
    assert MLVU_GENERATION.summarise(unread).withheld == {"G-Avg": "1 of 2 answers have no mark"}


# ---- LongVideoBench --------------------------------------------------------------------------------------------------


def long_video(root: Path, **changes) -> None:
    row = {
        "id": "x_0", "video_id": "x", "video_path": "x.mp4", "question": "Where?", "duration": 8.0,
        "candidates": ["in", "out", "on", "at", "by"], "correct_choice": 4,
        "duration_group": 15, "question_category": "S2E",
    }  # fmt: skip
    put(root, "LongVideoBench/lvb_val.json", json.dumps([row | changes]))
    movie(root, "LongVideoBench/videos/x.mp4")


def test_long_video_bench(tmp_path):
    long_video(tmp_path)
    rows = samples(LONG_VIDEO, tmp_path)
    assert asked(LONG_VIDEO, rows[0]) == (
        f"{frames('Frame-')}Where?\nA. in\nB. out\nC. on\nD. at\nE. by\n{ASK_LETTER}", 16,
    )  # fmt: skip
    assert [marks(LONG_VIDEO, rows, [said]) for said in ("E", "(E) by", "by", "D")] == [[1], [1], [1], [0]]
    assert scores(LONG_VIDEO, rows, ["E"]).groups["duration"] == {"15": 100}


@pytest.mark.parametrize("place", [5, -1, 0.5])
def test_long_video_bench_refuses_a_place_that_is_none(tmp_path, place):
    long_video(tmp_path, correct_choice=place)
    with pytest.raises(DataError, match=r"lvb_val\.json\[0\]: `correct_choice` is .*; expected the place of one of 5"):
        samples(LONG_VIDEO, tmp_path)


def test_a_missing_layout_is_not_read(tmp_path):
    folder = Folder(tmp_path)
    assert not any(folder.has(file) for task in TASKS for source in task.sources for file in source.files)
