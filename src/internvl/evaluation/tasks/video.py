"""Questions about videos: MVBench, Video-MME with and without subtitles, MLVU and LongVideoBench.

Frames are the middles of equal parts of a video, the rule of the family's own evaluation. VLMEvalKit, which the scores
on all but MVBench were published with, takes the n frames that lie between n + 1 equal parts instead.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import partial

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Sample,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.clips import KIT, bracketed, place_of
from internvl.evaluation.tasks.instructions import LETTER
from internvl.evaluation.tasks.mlvu import MLVU, MLVU_GENERATION
from internvl.evaluation.tasks.published import DOCUMENTATION_2, printed, reported, version_2
from internvl.evaluation.tasks.subtitles import FRAMES as SUBTITLED_FRAMES
from internvl.evaluation.tasks.subtitles import seen_lines
from internvl.metrics.choices import letter
from internvl.metrics.matching import capital_letter, mvbench_match
from internvl.metrics.mathematics import by_letter

# ---- MVBench ---------------------------------------------------------------------------------------------------------

WATCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)

MVBENCH_TASKS = {  # task: (folder of its videos, whether only a part of each is shown)
    "Action Sequence": ("star/Charades_v1_480", True),
    "Action Prediction": ("star/Charades_v1_480", True),
    "Action Antonym": ("ssv2_video", False),
    "Fine-grained Action": ("Moments_in_Time_Raw/videos", False),
    "Unexpected Action": ("FunQA_test/test", False),
    "Object Existence": ("clevrer/video_validation", False),
    "Object Interaction": ("star/Charades_v1_480", True),
    "Object Shuffle": ("perception/videos", False),
    "Moving Direction": ("clevrer/video_validation", False),
    "Action Localization": ("sta/sta_video", True),
    "Scene Transition": ("scene_qa/video", False),
    "Action Count": ("perception/videos", False),
    "Moving Count": ("clevrer/video_validation", False),
    "Moving Attribute": ("clevrer/video_validation", False),
    "State Change": ("perception/videos", False),
    "Fine-grained Pose": ("nturgbd", False),
    "Character Order": ("perception/videos", False),
    "Egocentric Navigation": ("vlnqa", False),
    "Episodic Reasoning": ("tvqa/frames_fps3_hq", True),  # folders of frames, three a second
    "Counterfactual Inference": ("clevrer/video_validation", False),
}


def mvbench_list(task: str) -> str:
    return f"MVBench/json/{task.lower().replace(' ', '_').replace('-', '_')}.json"


def read_mvbench(folder: Folder) -> Iterator[Sample]:
    for task, (place, cut) in MVBENCH_TASKS.items():
        for at, row in enumerate(folder.json_rows(mvbench_list(task))):
            bound = (float(row.number("start")), float(row.number("end"))) if cut else None
            options = by_letter(row.items_of("candidates"))
            right = place_of(row, str(row["answer"]), options)
            yield Sample(
                id=f"{task}-{at}",
                prompt=f"<video>{WATCH}\n{bracketed(row.text('question'), options)}\nOnly give the best option.",
                footage=folder.footage(f"MVBench/video/{place}/{row.text('video')}", bound, row=row),
                answer=f"({right}) {options[right]}",
                facts={"task": task},
            )


def mark_mvbench(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return Mark(mvbench_match(answer, sample.answer, compat=compat))


MVBENCH_HINT = "the data set OpenGVLab/MVBench of the Hugging Face hub, each zip in video/ unpacked, as MVBench/"
MVBENCH = Benchmark(
    name="mvbench",
    title="MVBench",
    paper="arXiv:2311.17005",
    group="video",
    sources=(
        Source(
            "original",
            (
                *(File(mvbench_list(task), hint=MVBENCH_HINT) for task in MVBENCH_TASKS),
                File("MVBench/video", hint=MVBENCH_HINT),
            ),
            read_mvbench,
        ),
    ),
    mark=mark_mvbench,
    summarise=mean_score(by=("task",)),
    settings=Settings(max_new_tokens=1000, max_tiles=1, frames=16, frame_line="Frame{}: <image>\n"),
    published=(
        *version_2("accuracy", 57.9, 60.2, 63.7, 66.4, 67.5, 72.5, 69.6, source=DOCUMENTATION_2),
        *printed("accuracy", "model card of InternVL2-26B", {"InternVL-Chat-V1-5": 52.1}),
        *reported("MVBench"),
    ),
    note="The published scores have the original's rule (compat original), which counts an empty answer as right.",
)  # fmt: skip


# ---- Video-MME -------------------------------------------------------------------------------------------------------

THESE_FRAMES = "\nThese are the frames of a video. "
CHOOSE = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n"
)


def read_video_mme(folder: Folder, *, subtitles: bool, table: bool) -> Iterator[Sample]:
    """The parquet file of the hub, or the table that VLMEvalKit makes of it. Options are written `A. …`."""
    rows = folder.table("Video-MME.tsv") if table else folder.parquet("Video-MME/videomme/test-*.parquet")
    for row in rows:
        video = row.text("video" if table else "videoID")
        footage = folder.footage(f"Video-MME/video/{video}.mp4", row=row)
        listed = row.items_of("candidates" if table else "options")
        spoken = ""
        if subtitles:
            lines = seen_lines(folder, f"Video-MME/subtitle/{video}.srt", footage)
            spoken = f"This video's subtitles are listed below:\n{lines}\n"
        asked = "\n".join((row.text("question"), *listed))
        yield Sample(
            id=str(row["index"] if table else row["question_id"]),
            prompt=f"<video>{THESE_FRAMES}{spoken}{CHOOSE}Question: {asked} \n{LETTER}",
            footage=footage,
            answer=row.text("answer"),
            facts={
                "options": {text[:1]: text[2:].strip(" .\n") for text in listed},
                "duration": row.text("duration"),
                "domain": row.text("domain"),
                "task": row.text("task_type"),
            },
        )


def mark_capital(sample: Sample, answer: str, *, compat: Compat, letters: str) -> Mark:
    """The first capital of an answer; where there is none, what the heuristics of VLMEvalKit find."""
    said = capital_letter(answer, letters, compat=compat) or letter(answer, sample.facts["options"])
    return Mark(float(said == sample.answer), said)


VIDEO_MME_16 = {
    False: {"InternVL-Chat-V1-5": 53.6, "InternVL2-26B": 54.8},
    True: {"InternVL-Chat-V1-5": 54.5, "InternVL2-26B": 57.1},
}


def video_mme(subtitles: bool) -> Benchmark:
    hint = "the data set lmms-lab/Video-MME of the Hugging Face hub, its zips unpacked to video/ and subtitle/"
    needed = (File("Video-MME/video", hint=hint), *((File("Video-MME/subtitle", hint=hint),) if subtitles else ()))
    return Benchmark(
        name="video-mme-subtitles" if subtitles else "video-mme",
        title="Video-MME with subtitles" if subtitles else "Video-MME",
        paper="arXiv:2405.21075",
        group="video",
        sources=(
            Source(
                "huggingface",
                (File("Video-MME/videomme/test-*.parquet", hint=hint), *needed),
                partial(read_video_mme, subtitles=subtitles, table=False),
            ),
            Source(
                "vlmevalkit",
                (File("Video-MME.tsv", hint="the table that VLMEvalKit makes of the data set"), *needed),
                partial(read_video_mme, subtitles=subtitles, table=True),
            ),
        ),
        mark=partial(mark_capital, letters="ABCD"),
        summarise=mean_score(by=("duration", "domain", "task")),
        settings=KIT,
        published=(
            *printed("accuracy", "model card of InternVL2-26B, 16 frames", VIDEO_MME_16[subtitles]),
            *reported("Video-MME with subtitles" if subtitles else "Video-MME"),
        ),
        note="The scores of the report are the best of runs with 16, 32, 48 and 64 frames."
        + (
            f" The subtitles are those heard at {SUBTITLED_FRAMES} frames, whatever --frames says." if subtitles else ""
        ),
    )


# ---- LongVideoBench --------------------------------------------------------------------------------------------------


def read_long_video(folder: Folder) -> Iterator[Sample]:
    for row in folder.json_rows("LongVideoBench/lvb_val.json"):
        options = by_letter(row.items_of("candidates"))
        place = row.number("correct_choice")
        if place not in range(len(options)):
            raise row.wrong("correct_choice", f"the place of one of {len(options)} candidates, from 0")
        listed = "".join(f"\n{key}. {text}" for key, text in options.items())
        yield Sample(
            id=row.text("id"),
            prompt=f"<video>{row.text('question')}{listed}\n{LETTER}",
            footage=folder.footage(f"LongVideoBench/videos/{row.text('video_path')}", row=row),
            answer=string.ascii_uppercase[int(place)],
            facts={
                "options": options,
                "duration": str(row["duration_group"]),
                "category": row.text("question_category"),
            },
        )


LONG_HINT = "the data set longvideobench/LongVideoBench of the Hugging Face hub, its tar parts unpacked to videos/"
LONG_VIDEO = Benchmark(
    name="longvideobench",
    title="LongVideoBench (val)",
    paper="arXiv:2407.15754",
    group="video",
    sources=(
        Source(
            "huggingface",
            (
                File("LongVideoBench/lvb_val.json", hint=LONG_HINT),
                File("LongVideoBench/videos", hint=LONG_HINT),
            ),
            read_long_video,
        ),
    ),
    mark=partial(mark_capital, letters="ABCDE"),
    summarise=mean_score(by=("duration", "category")),
    settings=KIT,
    published=reported("LongVideoBench"),
    note="Without subtitles. The published scores are the best of runs with 16, 32, 48 and 64 frames.",
)

TASKS = (
    MVBENCH,
    video_mme(False),
    video_mme(True),
    MLVU,
    MLVU_GENERATION,
    LONG_VIDEO,
)
