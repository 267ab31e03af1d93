"""Clips: what is said to happen is measured in the pixels of the frames."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from internvl.nano import motion
from internvl.nano.compare import COLOURS_ZH, KINDS_ZH, Look
from internvl.nano.motion import DO, WAY, draw_motion
from internvl.nano.sample import Kit, Sample

KIT = Kit()
FRAMES = re.compile(r"(?:Frame-?\d+: <image>\n)+")
TEMPLATES = {
    "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "up-left": (-1, -1), "up-right": (1, -1),
    "down-left": (-1, 1), "down-right": (1, 1),
}  # fmt: skip


@pytest.fixture
def painted(monkeypatch):
    """The pieces of every frame, and no noise."""
    frames: list[tuple] = []
    paint = Look.paint

    def spy(look, pieces):
        frames.append(tuple(pieces))
        return paint(look, pieces)

    monkeypatch.setattr(Look, "paint", spy)
    monkeypatch.setattr(motion, "with_noise", lambda rng, picture, strength: picture)
    return frames


def samples(count: int, name: str = "motion") -> Iterator[Sample]:
    return (draw_motion(random.Random(f"{name} {i}"), KIT) for i in range(count))


def plain(question: str) -> str:
    question = FRAMES.sub("", question)
    return re.sub(r"\s(Please answer|Answer the question).*", "", question, flags=re.DOTALL)


def coded(picture) -> np.ndarray:
    """One number a pixel."""
    return np.asarray(picture, int) @ np.array([65536, 256, 1])


def colours_of(pixels: np.ndarray) -> list[int]:
    """The most frequent first."""
    values, counts = np.unique(pixels, return_counts=True)
    return values[np.argsort(-counts)].tolist()


def measure(sample: Sample) -> list[tuple[float, float, float]]:
    """Middle and area of all that is not ground, frame by frame, in pixels; nothing: area 0."""
    ground = colours_of(np.stack([coded(picture) for picture in sample.pictures]))[0]
    ground = np.array([ground >> 16, ground >> 8 & 255, ground & 255])
    out = []
    for picture in sample.pictures:
        rows, columns = np.nonzero(abs(np.asarray(picture, int) - ground).sum(-1) > 80)
        out.append((columns.mean(), rows.mean(), float(len(rows))) if len(rows) else (0.0, 0.0, 0.0))
    return out


def turns_back(places: np.ndarray) -> bool:
    steps = np.diff(places)
    return bool((steps > 2).any() and (steps < -2).any())


def seen(sample: Sample) -> str:
    """What a single piece does, out of the pixels."""
    x, y, areas = (np.array(column) for column in zip(*measure(sample), strict=True))
    if not areas.all():
        return "appear" if areas[-1] else "vanish"
    if max(areas[-1] / areas[0], areas[0] / areas[-1]) > 2.5:
        return "grow" if areas[-1] > areas[0] else "shrink"
    if max(np.ptp(x), np.ptp(y)) > 10:
        if turns_back(x) or turns_back(y):
            return "swing" if turns_back(x) else "bounce"
        way = tuple(int(np.sign(a[-1] - a[0])) if np.ptp(a) > 5 else 0 for a in (x, y))
        return next(key for key, value in TEMPLATES.items() if value == way)
    first, last = (np.asarray(sample.pictures[at], int) for at in (0, -1))
    if (first == last).all():
        return "still"
    inks = [colours_of(coded(sample.pictures[at]))[1] for at in (0, -1)]
    return "turn" if inks[0] == inks[1] else "recolour"


def test_what_a_single_piece_does_is_seen_in_the_pixels(painted):
    checked = Counter()
    for sample in samples(350):
        frames = painted[-len(sample.pictures) :]
        if max(map(len, frames)) == 1 and not any("shapes" in q or "个图形" in q for q, _ in sample.turns):
            assert sample.label == seen(sample), sample.label
            checked[sample.label] += 1
    assert set(checked) == set(DO)


ENGLISH = {"是": "Yes", "否": "No"} | {chinese: word for word, chinese in (*WAY.values(), *DO.values())}
ENGLISH |= {chinese: colour for colour, chinese in COLOURS_ZH.items()}
ENGLISH |= {f"{c_zh}的{k_zh}": f"{c} {k}" for c, c_zh in COLOURS_ZH.items() for k, k_zh in KINDS_ZH.items()}

CLAIMS = {
    "left": "to the left|going left|向左", "right": "to the right|going right|向右", "up": "move up|rising|向上",
    "down": "move down|falling|向下", "grow": "larger|grow|变大", "shrink": "smaller|shrink|变小",
    "turn": "turn|旋转", "recolour": "colou?r|变色", "vanish": "disappear|gone|消失",
}  # fmt: skip


def asked_piece(question: str, pieces) -> int:
    """Which of two pieces is named."""
    ball = ("ball", "球")
    named = [
        at for at, piece in enumerate(pieces)
        if any(n in question for n in (piece.kind, KINDS_ZH[piece.kind], *(ball if piece.kind == "circle" else ())))
    ]  # fmt: skip
    return named[0]


def moved(frames, at: int) -> bool:
    return len({(frame[at].x, frame[at].y) for frame in frames}) > 1


def truth(question: str, label: str, frames) -> str:
    """The answer out of the words of the question and the pieces of each frame."""
    numbers = [len(frame) for frame in frames]
    if re.search(
        "many shapes.* (are there at the end|last frame)|many shapes are in the last|最后", question
    ) and not re.search("颜色", question):
        return str(numbers[-1])
    if re.search("How many|Count|几个|多少个", question):
        return str(abs(numbers[-1] - numbers[0]))
    if re.search("first (appear|frame)|for the first time|第几帧", question):
        return str(next(at for at, number in enumerate(numbers) if number) + 1)
    if re.search("Which shape|What moves|two moves|What is moving|哪个图形|什么在动|哪个在动", question):
        (mover,) = (frames[0][at] for at in (0, 1) if moved(frames, at))
        return f"{mover.colour} {mover.kind}"
    if re.search("Which way|direction|Where|哪个方向|哪边", question):
        return WAY[label][0]
    if re.search("become|color is|does it change|last colour|什么颜色", question):
        return frames[-1][0].colour
    if re.search(r"( move| moving| place| motion| anywhere)\?$|移动了吗|在动吗|位置变了", question):
        return "Yes" if moved(frames, asked_piece(question, frames[0])) else "No"
    if re.search("^(Does|Is) |吗", question):
        return "Yes" if re.search(CLAIMS.get(label, "(?!)"), question) else "No"
    return DO[label][0]


def test_answers_are_true(painted):
    for sample in samples(600):
        frames = painted[-len(sample.pictures) :]
        for number, (asked, answer) in enumerate(sample.turns):
            question = plain(asked)
            right = truth(question, str(sample.label), frames)
            assert ENGLISH.get(answer, answer) == right, (question, sample.label)
            if number == 0:
                assert ENGLISH.get(str(sample.wrong), sample.wrong) != right


def test_two_pieces_never_touch(painted):
    two = 0
    for sample in samples(200):
        for pieces in painted[-len(sample.pictures) :]:
            for piece in pieces:
                assert piece.radius * 0.9 < min(piece.x, piece.y, 1 - piece.x, 1 - piece.y), "out of the picture"
            if len(pieces) == 2:
                a, b = pieces
                assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius
                two += 1
    assert two > 50


def test_the_same_seed_draws_the_same_sample():
    for seed in range(20):
        one, two = draw_motion(random.Random(seed), KIT), draw_motion(random.Random(seed), KIT)
        assert (one.turns, one.label, one.wrong) == (two.turns, two.label, two.wrong)
        assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in two.pictures]


def test_frames_are_introduced_as_published():
    counts, answers = Counter(), Counter()
    for sample in samples(800, "introduced"):
        question = sample.turns[0][0]
        placed = FRAMES.match(question)
        assert placed is not None
        assert re.findall(r"Frame-?(\d+)", placed[0]) == [str(n + 1) for n in range(len(sample.pictures))]
        assert all("<image>" not in later for later, _ in sample.turns[1:])
        assert len({picture.size for picture in sample.pictures}) == 1
        counts[len(sample.pictures), "-" in placed[0]] += 1
        answers.update(ENGLISH.get(answer, answer) for _, answer in sample.turns)
    assert {count for count, _ in counts} == {4, 5, 6}
    assert 0.2 < sum(n for (_, dashed), n in counts.items() if dashed) / counts.total() < 0.4
    assert 0.4 < answers["Yes"] / (answers["Yes"] + answers["No"]) < 0.6
    assert min(answers[way] for way, _ in WAY.values()) > 4
