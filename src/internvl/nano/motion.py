"""Short clips as frames: which way a shape moves, whether it grows, turns or changes colour, and what appears."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from internvl.nano.asking import Asked, Asker, Both, Wordings, some_language, yes
from internvl.nano.compare import COLOURS_ZH, KINDS_ZH, Piece, Pieces, scatter, some_look, with_noise
from internvl.nano.sample import Kit, Sample

WAYS: dict[str, tuple[int, int]] = {
    "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1),
    "up-left": (-1, -1), "up-right": (1, -1), "down-left": (-1, 1), "down-right": (1, 1),
}  # fmt: skip
"""Directions in the picture, whose y grows downwards."""
WAY: dict[str, Both] = {
    "left": ("to the left", "向左"), "right": ("to the right", "向右"), "up": ("up", "向上"), "down": ("down", "向下"),
    "up-left": ("up and to the left", "向左上"), "up-right": ("up and to the right", "向右上"),
    "down-left": ("down and to the left", "向左下"), "down-right": ("down and to the right", "向右下"),
}  # fmt: skip
CHANGES: dict[str, Both] = {
    "grow": ("it gets larger", "它变大"), "shrink": ("it gets smaller", "它变小"),
    "turn": ("it turns round", "它在旋转"),
    "appear": ("it appears", "它出现了"), "vanish": ("it disappears", "它消失了"),
    "recolour": ("it changes its colour", "它改变颜色"), "bounce": ("it bounces", "它上下弹跳"),
    "swing": ("it moves back and forth", "它左右来回移动"), "still": ("it stays where it is", "它不动"),
}  # fmt: skip
DO: dict[str, Both] = {
    **{key: (f"it moves {english}", f"它{chinese}移动") for key, (english, chinese) in WAY.items()}, **CHANGES,
}  # fmt: skip
MOVING = (*WAYS, "bounce", "swing")
"""What changes its place."""

Track = tuple[Piece | None, ...]
"""One piece from frame to frame; None where it is not there."""


@dataclass(frozen=True)
class Clip:
    """Pieces that do something, the asked one first."""

    tracks: tuple[Track, ...]
    doings: tuple[str, ...]
    """A key of `DO` for each."""

    def frame(self, at: int) -> Pieces:
        return tuple(piece for track in self.tracks if (piece := track[at]) is not None)


# ---- what moves ------------------------------------------------------------------------------------------------------


def some_track(
    rng: random.Random, doing: str, frames: int, *, kind: str, colour: str, lane: tuple[float, float]
) -> Track:
    """A piece that does this. `lane`: between which heights of the picture it stays, two lanes never meet."""
    high = lane[1] - lane[0]
    radius = rng.uniform(0.22, 0.36) * min(high, 0.5)
    low, top = lane[0] + 1.15 * radius, lane[1] - 1.15 * radius
    still = Piece(kind, colour, rng.uniform(1.2 * radius, 1 - 1.2 * radius), rng.uniform(low, top), radius)
    share = [at / (frames - 1) for at in range(frames)]
    if doing in WAYS:
        return _straight(rng, still, WAYS[doing], share, (low, top))
    if doing in ("bounce", "swing"):
        return _to_and_fro(rng, still, doing, frames, (low, top))
    if doing in ("grow", "shrink"):
        largest, smallest = 0.43 * high, 0.14 * high
        middle = (lane[0] + lane[1]) / 2
        x = rng.uniform(1.2 * largest, 1 - 1.2 * largest)
        sizes = [smallest + (largest - smallest) * s for s in (share if doing == "grow" else share[::-1])]
        return tuple(replace(still, x=x, y=middle, radius=size) for size in sizes)
    if doing == "turn":
        step = rng.choice((-1, 1)) * rng.uniform(0.3, 0.5)
        return tuple(replace(still, turn=at * step) for at in range(frames))
    change = rng.randint(1, frames - 1)
    if doing in ("appear", "vanish"):
        return tuple(still if (at >= change) == (doing == "appear") else None for at in range(frames))
    if doing == "recolour":
        other = rng.choice([name for name in COLOURS_ZH if name != colour])
        return tuple(replace(still, colour=other) if at >= change else still for at in range(frames))
    return (still,) * frames


def _straight(
    rng: random.Random, piece: Piece, way: tuple[int, int], share: Sequence[float], heights: tuple[float, float]
) -> Track:
    """Along a line, at least half of the room that there is. What does not go up or down keeps its height."""
    ranges = ((1.2 * piece.radius, 1 - 1.2 * piece.radius), heights)
    starts, ends = [], []
    for direction, (low, high), now in zip(way, ranges, (piece.x, piece.y), strict=True):
        long = (high - low) * rng.uniform(0.6, 1.0)
        start = rng.uniform(low, high - long)
        starts.append(now if not direction else start if direction > 0 else start + long)
        ends.append(starts[-1] + direction * long)
    return tuple(
        replace(piece, x=starts[0] + s * (ends[0] - starts[0]), y=starts[1] + s * (ends[1] - starts[1])) for s in share
    )


def _to_and_fro(rng: random.Random, piece: Piece, doing: str, frames: int, heights: tuple[float, float]) -> Track:
    """There and back, once or more."""
    low, high = (1.2 * piece.radius, 1 - 1.2 * piece.radius) if doing == "swing" else heights
    first = rng.randrange(2)
    period = rng.choice((2, 4)) if frames > 4 else 2
    places = []
    for at in range(frames):
        wave = 0.5 - 0.5 * math.cos(2 * math.pi * (at / period + first / 2))
        places.append(low + (high - low) * wave)
    return tuple(replace(piece, **{"x" if doing == "swing" else "y": place}) for place in places)


# ---- questions -------------------------------------------------------------------------------------------------------

DOES: Wordings = (
    ("What does the {noun} do?", "What happens to the {noun}?", "What is the {noun} doing?",
     "Describe what the {noun} does.", "What does the {noun} do in this video?", "What happens in the clip?",
     "How does the {noun} change from frame to frame?"),
    ("{noun}在做什么?", "{noun}发生了什么?", "视频中{noun}怎么了?", "{noun}有什么变化?"),
)  # fmt: skip
WHICH_WAY: Wordings = (
    ("Which way does the {noun} move?", "In which direction does the {noun} move?", "Where does the {noun} go?",
     "Which way is the {noun} moving?", "In what direction does the {noun} go?",
     "What is the direction of the {noun}?"),
    ("{noun}往哪个方向移动?", "{noun}向哪边移动?", "{noun}朝哪个方向走?"),
)  # fmt: skip
MOVES: Wordings = (
    ("Does the {noun} move?", "Is the {noun} moving?", "Does the {noun} change its place?",
     "Is the {noun} in motion?", "Does the {noun} go anywhere?"),
    ("{noun}移动了吗?", "{noun}在动吗?", "{noun}的位置变了吗?"),
)  # fmt: skip
CLAIMS: dict[str, Wordings] = {
    "left": (("Does the {noun} move to the left?", "Is the {noun} going left?"), ("{noun}向左移动吗?",)),
    "right": (("Does the {noun} move to the right?", "Is the {noun} going right?"), ("{noun}向右移动吗?",)),
    "up": (("Does the {noun} move up?", "Is the {noun} rising?"), ("{noun}向上移动吗?",)),
    "down": (("Does the {noun} move down?", "Is the {noun} falling?"), ("{noun}向下移动吗?",)),
    "grow": (("Does the {noun} get larger?", "Does the {noun} grow?"), ("{noun}变大了吗?",)),
    "shrink": (("Does the {noun} get smaller?", "Does the {noun} shrink?"), ("{noun}变小了吗?",)),
    "turn": (("Does the {noun} turn round?", "Is the {noun} turning?"), ("{noun}在旋转吗?",)),
    "recolour": (("Does the {noun} change its colour?", "Does the color of the {noun} change?"), ("{noun}变色了吗?",)),
    "vanish": (("Does the {noun} disappear?", "Is the {noun} gone at the end?"), ("{noun}消失了吗?",)),
}
BECOMES: Wordings = (
    ("What colour does the {noun} become?", "What color is the {noun} at the end?", "Which colour does it change to?",
     "What is the last colour of the {noun}?"),
    ("{noun}变成了什么颜色?", "{noun}最后是什么颜色?"),
)  # fmt: skip
WHEN: Wordings = (
    ("In which frame does the {noun} first appear?", "Which is the first frame with the {noun}?",
     "In which frame can you see the {noun} for the first time?"),
    ("{noun}在第几帧出现?", "{noun}第一次出现在第几帧?"),
)  # fmt: skip
WHO: Wordings = (
    ("Which shape moves?", "What moves?", "Which of the two moves?", "What is moving in the clip?"),
    ("哪个图形在移动?", "什么在动?", "两个图形中哪个在动?"),
)  # fmt: skip
HOW_MANY: Wordings = (
    ("How many shapes appear?", "How many shapes are added?", "How many new shapes appear after the first frame?",
     "How many shapes appear during the clip?", "Count the shapes that appear."),
    ("出现了几个图形?", "新增了几个图形?", "视频中又出现了多少个图形?"),
)  # fmt: skip
HOW_MANY_GO: Wordings = (
    ("How many shapes disappear?", "How many shapes vanish?", "How many shapes are gone at the end?",
     "Count the shapes that disappear."),
    ("消失了几个图形?", "有多少个图形不见了?"),
)  # fmt: skip
AT_THE_END: Wordings = (
    ("How many shapes are there at the end?", "How many shapes are in the last frame?",
     "How many shapes does the last frame show?"),
    ("最后有几个图形?", "最后一帧有多少个图形?"),
)  # fmt: skip


def draw_motion(rng: random.Random, kit: Kit) -> Sample:
    """Four to six frames; the first question introduces them as published prompts about videos do."""
    del kit
    asker, frames = some_language(rng), rng.randint(4, 6)
    draw = rng.random()
    if draw < 0.2:
        clip, asked = _counted(rng, asker, frames)
    elif draw < 0.35:
        clip, asked = _one_of_two(rng, asker, frames)
    else:
        clip, asked = _one(rng, asker, frames)
    colours = [piece.colour for track in clip.tracks for piece in track if piece is not None]
    look = some_look(rng, colours, (112, 112, 112, 128, 160))
    pictures = [look.paint(clip.frame(at)) for at in range(frames)]
    if rng.random() < 0.2:
        pictures = [with_noise(rng, picture, rng.uniform(2, 8)) for picture in pictures]
    line = "Frame-{}: <image>\n" if rng.random() < 0.3 else "Frame{}: <image>\n"
    introduced = "".join(line.format(at + 1) for at in range(frames)) + asked[0].question
    turns = ((introduced, asked[0].answer), *(a.turn for a in asked[1:]))
    return Sample("motion", tuple(pictures), turns, clip.doings[0], None, asked[0].wrong)


def _noun(rng: random.Random, piece: Piece, *, coloured: bool) -> Both:
    if piece.kind == "circle" and rng.random() < 0.3:
        return (f"{piece.colour} ball", f"{COLOURS_ZH[piece.colour]}的球") if coloured else ("ball", "球")
    return piece.name if coloured else (piece.kind, KINDS_ZH[piece.kind])


def _new(rng: random.Random, doing: str, *others: str) -> tuple[str, str]:
    """Kind and colour. A circle does not show that it turns."""
    return rng.choice([k for k in KINDS_ZH if k not in others and (doing, k) != ("turn", "circle")]), rng.choice(
        list(COLOURS_ZH)
    )


def _one(rng: random.Random, asker: Asker, frames: int) -> tuple[Clip, list[Asked]]:
    """One piece; the question is chosen before what it does, so that yes and no are alike."""
    plan, true = rng.choices(("moves", "claim", "way", "does"), (2, 2, 3, 4))[0], rng.random() < 0.5
    claim = rng.choice(list(CLAIMS))
    doing = {
        "moves": rng.choice(MOVING) if true else rng.choice(("still", "still", "recolour")),
        "claim": claim if true else rng.choice([key for key in (*CLAIMS, "still") if key != claim]),
        "way": rng.choice(list(WAYS)),
        "does": rng.choice(list(DO)),
    }[plan]
    kind, colour = _new(rng, doing)
    track = some_track(rng, doing, frames, kind=kind, colour=colour, lane=(0.0, 1.0))
    piece = next(piece for piece in track if piece is not None)
    noun = _noun(rng, piece, coloured=doing != "recolour" and rng.random() < 0.5)
    if plan == "moves":
        asked = [asker.ask(rng, MOVES, *yes(true), noun=noun)]
    elif plan == "claim":
        asked = [asker.ask(rng, CLAIMS[claim], *yes(true), noun=noun)]
    elif plan == "way":
        asked = [asker.ask(rng, WHICH_WAY, WAY[doing], WAY[_other(rng, doing, WAY)], noun=noun)]
    else:
        asked = [asker.ask(rng, DOES, DO[doing], DO[_other(rng, doing, DO)], brief=False, noun=noun)]
    if rng.random() < 0.4:
        asked.append(_more(rng, asker, track, doing, noun))
    return Clip((track,), (doing,)), asked


def _other(rng: random.Random, doing: str, among: Mapping[str, Both]) -> str:
    """The opposite of a way, or anything else."""
    if doing in WAYS and rng.random() < 0.5:
        x, y = WAYS[doing]
        return next(key for key, way in WAYS.items() if way == (-x, -y))
    return rng.choice([key for key in among if key != doing])


def _more(rng: random.Random, asker: Asker, track: Track, doing: str, noun: Both) -> Asked:
    """A second question that fits what happens."""
    pieces = [piece for piece in track if piece is not None]
    if doing == "recolour":
        first, last = (COLOURS_ZH[pieces[at].colour] for at in (0, -1))
        return asker.ask(rng, BECOMES, (pieces[-1].colour, last), (pieces[0].colour, first), noun=noun)
    if doing == "appear":
        at = track.index(pieces[0]) + 1
        return asker.ask(rng, WHEN, str(at), str(at + rng.choice((-1, 1))), noun=noun)
    if doing in WAYS and rng.random() < 0.5:
        return asker.ask(rng, WHICH_WAY, WAY[doing], noun=("shape", "图形"))
    return asker.ask(rng, DOES, DO[doing], brief=False, noun=("shape", "图形"))


def _one_of_two(rng: random.Random, asker: Asker, frames: int) -> tuple[Clip, list[Asked]]:
    """One moves, the other stays. They keep to halves of the picture, above each other or side by side."""
    doing = rng.choice(("left", "right", "swing"))
    lanes = rng.sample(((0.0, 0.5), (0.5, 1.0)), 2)
    kind, colour = _new(rng, doing)
    other_kind, other_colour = _new(rng, "still", kind)
    tracks = [some_track(rng, doing, frames, kind=kind, colour=colour, lane=lanes[0]),
              some_track(rng, "still", frames, kind=other_kind, colour=other_colour, lane=lanes[1])]  # fmt: skip
    if rng.random() < 0.5:
        doing = {"left": "up", "right": "down", "swing": "bounce"}[doing]
        tracks = [tuple(p and replace(p, x=p.y, y=p.x) for p in track) for track in tracks]
    clip = Clip(tuple(tracks), (doing, "still"))
    mover, other = clip.frame(0)
    asked = [asker.ask(rng, WHO, mover.name, other.name)]
    true = rng.random() < 0.5
    asked.append(asker.ask(rng, MOVES, *yes(true), noun=_noun(rng, mover if true else other, coloured=False)))
    noun = _noun(rng, mover, coloured=rng.random() < 0.5)
    if doing in WAYS:
        asked.append(asker.ask(rng, WHICH_WAY, WAY[doing], WAY[_other(rng, doing, WAY)], noun=noun))
    else:
        asked.append(asker.ask(rng, DOES, DO[doing], DO[_other(rng, doing, DO)], brief=False, noun=noun))
    rng.shuffle(asked)
    return clip, asked[: rng.randint(1, 2)]


def _counted(rng: random.Random, asker: Asker, frames: int) -> tuple[Clip, list[Asked]]:
    """Shapes that come, or go, one after the other."""
    doing = rng.choice(("appear", "appear", "vanish"))
    events, others = rng.randint(0, 4), rng.randint(0, 2)
    if not events:
        others += 1
    pieces = scatter(rng, [_new(rng, doing) for _ in range(events + others)], 3)
    changes = [*rng.sample(range(1, frames), min(events, frames - 1)), 1][:events]  # two at once where frames are few
    tracks: list[Track] = [
        tuple(piece if (at >= change) == (doing == "appear") else None for at in range(frames))
        for piece, change in zip(pieces, changes, strict=False)
    ]
    tracks += [(piece,) * frames for piece in pieces[events:]]
    clip = Clip(tuple(tracks), (doing,) * events + ("still",) * others)
    last = len(clip.frame(frames - 1))
    asked = [_count(rng, asker, HOW_MANY if doing == "appear" else HOW_MANY_GO, events)]
    if rng.random() < 0.4:
        asked.append(_count(rng, asker, AT_THE_END, last))
        rng.shuffle(asked)
    return clip, asked


def _count(rng: random.Random, asker: Asker, wordings: Wordings, number: int) -> Asked:
    return asker.ask(rng, wordings, str(number), str(number + rng.choice((-1, 1) if number else (1, 2))))
