"""Videos: which frames, and reading exactly those with PyAV.

A frame's number is its place in the order of presentation. Numbers come from the packets, which are read without being
decoded; a frame is then recognised by its time stamp, so that seeking to a key frame cannot give a neighbour. Where
stamps are missing or contradict the decoder, frames are counted by decoding from the start instead.
"""

from __future__ import annotations

import random
import struct
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import av
import av.error
import numpy as np
from PIL import Image

from internvl.data.image import to_rgb
from internvl.data.limits import Limits, check_frames, check_size
from internvl.errors import MediaRefused, MediaUnreadable, UsageError

if TYPE_CHECKING:
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    Opened = Callable[[], AbstractContextManager[tuple[InputContainer, VideoStream]]]

Choose = Callable[[int, float], Sequence[int]]
"""(number of frames, frames per second) -> the numbers of the frames to read."""
SEEKABLE = {"mov", "matroska"}
"""Containers with an index of key frames that can be trusted."""
WITH_ALPHA = {"rgba", "bgra", "argb", "abgr"}


@dataclass(frozen=True)
class Clip:
    """Frames of a video, upright and RGB, with their times in seconds from its first frame."""

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    indices: tuple[int, ...]
    length: int
    """How many frames the whole video has."""
    fps: float


# ---- which frames --------------------------------------------------------------------------------------------------


def frame_indices(frames: int, fps: float, count: int, bound: tuple[float, float] | None = None) -> list[int]:
    """The middles of `count` equal parts of a video, or of its part between two times in seconds. Evaluation and chat.

    A video of fewer frames repeats some. The rule of the published evaluation code, roundings included: a part that
    begins within the last half frame may end one frame earlier.

    >>> frame_indices(100, 25.0, 8)
    [6, 18, 31, 43, 56, 68, 80, 93]
    """
    if frames < 1 or count < 1:
        raise UsageError(f"{count} frames of a video of {frames}: expected at least one of each")
    start, end = (-100000.0, 100000.0) if bound is None else bound
    if end < start:
        raise UsageError(f"the part of a video from {start:g} s to {end:g} s: it ends before it starts")
    first, last = max(0, round(start * fps)), min(round(end * fps), frames - 1)
    if last < 0 or start * fps >= frames:
        raise UsageError(f"the part of a video from {start:g} s to {end:g} s: the video lasts {frames / fps:.1f} s")
    part = (last - first) / count
    return [int(first + part / 2 + round(part * k)) for k in range(count)]


def training_indices(
    frames: int,
    count: int,
    *,
    how: Literal["rand", "middle", "start"] = "rand",
    offset: int = 0,
    choice: random.Random,
    shuffle: np.random.RandomState,
) -> list[int]:
    """One frame of each of `count` equal parts: a random one, the middle one, or the one at `offset` from the start.

    The rule of the published training code: a random choice never takes the last frame of a part; if some part is too
    short for that, frames are drawn from the whole; a video of fewer frames repeats its last one.

    >>> training_indices(15, 4, how="middle", choice=random.Random(0), shuffle=np.random.RandomState(0))
    [1, 4, 8, 12]
    """
    if frames < 1 or count < 1:
        raise UsageError(f"{count} frames of a video of {frames}: expected at least one of each")
    taken = min(count, frames)
    edges = np.linspace(0, frames, taken + 1).astype(int).tolist()
    parts = [(start, stop - 1) for start, stop in pairwise(edges)]
    if how == "middle":
        found = [(start + stop) // 2 for start, stop in parts]
    elif how == "start":
        found = [start + offset for start, _ in parts]
    elif all(start < stop for start, stop in parts):
        found = [choice.choice(range(start, stop)) for start, stop in parts]
    else:
        found = sorted(shuffle.permutation(frames)[:taken].tolist())
    return found + [found[-1]] * (count - taken)


def paced_indices(frames: int, fps: float, rate: float, *, most: int | None = None) -> list[int]:
    """`rate` frames a second, each in the middle of its interval; at most the first `most`. Also a training rule.

    A video shorter than half an interval gives none.

    >>> paced_indices(64, 29.97, 2)
    [7, 22, 37, 52]
    """
    step = 1 / rate
    times = np.arange(step / 2, frames / fps + step / 2, step)
    found = [index for index in np.around(times * fps).astype(int).tolist() if index < frames]
    return found if most is None else found[:most]


# ---- reading them --------------------------------------------------------------------------------------------------


def read_clip(stream: BinaryIO, choose: Choose, *, name: str, limits: Limits) -> Clip:
    """The frames that `choose` names. Only they are kept, and limits are checked before anything is decoded.

    Raises MediaRefused over a limit, MediaUnreadable for what is empty, cut off, damaged or no video.
    """
    opened = partial(_opened, stream, name, limits)
    with opened() as (container, video):
        packets = _packet_timeline(container, video, name)
    clip = _collect(opened, choose, packets, name=name, limits=limits) if packets else None
    if clip is None:
        with opened() as (container, video):
            decoded = Timeline([frame.pts for frame in container.decode(video)], (), by_stamp=False)
        clip = _collect(opened, choose, decoded, name=name, limits=limits) if decoded.stamps else None
    if clip is None:
        raise MediaUnreadable(f"{name}: the video is damaged, not all of its frames can be read; encode it anew")
    return clip


@dataclass(frozen=True)
class Timeline:
    """The time stamps of all frames in the order of presentation, and those of the key frames one may seek to."""

    stamps: Sequence[int | None]
    keys: Sequence[int]
    by_stamp: bool
    """Whether a stamp identifies a frame; otherwise frames are counted."""


@contextmanager
def _opened(stream: BinaryIO, name: str, limits: Limits) -> Generator[tuple[InputContainer, VideoStream], None, None]:
    """The container and its first video stream, both of an allowed kind. No address inside a file is ever followed."""
    stream.seek(0)
    try:
        container = av.open(stream, mode="r", container_options={"format_whitelist": ",".join(limits.containers)})
    except av.error.FFmpegError as error:
        kinds = ", ".join(limits.containers)
        raise MediaUnreadable(
            f"{name}: this is no video of a known container ({kinds}), or it is damaged; save it anew"
        ) from error
    with container:
        if not container.streams.video:
            raise MediaUnreadable(f"{name}: there is no video in it; expected a file with one")
        video = container.streams.video[0]
        if video.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise MediaUnreadable(
                f"{name}: the video is of a codec that is not known, or it is damaged; encode it anew, as H.264"
            )
        codec = video.codec_context.codec.canonical_name
        if codec not in limits.codecs:
            known = ", ".join(limits.codecs)
            raise MediaRefused(f"{name}: {codec} video is not decoded (Limits.codecs); encode it as one of {known}")
        check_size(name, video.codec_context.width, video.codec_context.height, limits)
        seconds = (container.duration or 0) / av.time_base
        if seconds > limits.clip_seconds:
            most = f"{limits.clip_seconds:.0f} s (Limits.clip_seconds)"
            raise MediaRefused(f"{name}: the video lasts {seconds:.0f} s, at most {most}; cut it")
        video.thread_type = "AUTO"
        try:
            yield container, video
        except av.error.FFmpegError as error:
            raise MediaUnreadable(f"{name}: the video is damaged; encode it anew") from error


def _packet_timeline(container: InputContainer, video: VideoStream, name: str) -> Timeline | None:
    """Read from the packets, without decoding; None if they have no stamps that tell frames apart."""
    stamps: list[int | None] = []
    keys: list[int] = []
    packets = 0
    for packet in container.demux(video):
        if packet.size or packet.dts is not None:  # the last packet is an empty one
            packets += 1
            if not packet.is_discard:
                stamps.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
    if not packets:
        raise MediaUnreadable(f"{name}: the video has no frames; expected one at least")
    if packets < video.frames:
        raise MediaUnreadable(
            f"{name}: the video is cut off, {packets} of its {video.frames} frames are there; give the whole file"
        )
    known = sorted(stamp for stamp in stamps if stamp is not None)
    if len(set(known)) < len(stamps):
        return None
    seekable = container.format.name.split(",")[0] in SEEKABLE
    return Timeline(known, sorted(keys) if seekable else (), by_stamp=True)


def _collect(opened: Opened, choose: Choose, timeline: Timeline, *, name: str, limits: Limits) -> Clip | None:
    """The chosen frames, or None if not all of them turn up."""
    pictures: dict[int, Image.Image] = {}
    with opened() as (container, video):
        fps = float(video.average_rate or video.guessed_rate or 1)
        unit = video.time_base or Fraction(1)
        indices = tuple(choose(len(timeline.stamps), fps))
        _check_amount(len(indices), video.codec_context.width * video.codec_context.height, name, limits)
        wanted = sorted(set(indices))
        read = _by_stamp if timeline.by_stamp else _by_count
        for index, frame in read(container, video, timeline, wanted):
            check_size(name, frame.width, frame.height, limits)  # a stream may change its size
            pictures[index] = _upright(frame)
    if len(pictures) < len(wanted):
        return None
    return Clip(
        frames=tuple(pictures[index] for index in indices),
        times=tuple(_seconds(timeline, index, unit, fps) for index in indices),
        indices=indices,
        length=len(timeline.stamps),
        fps=fps,
    )


def _seconds(timeline: Timeline, index: int, unit: Fraction, fps: float) -> float:
    first, stamp = timeline.stamps[0], timeline.stamps[index]
    return index / fps if first is None or stamp is None else float((stamp - first) * unit)


def _check_amount(frames: int, pixels: int, name: str, limits: Limits) -> None:
    if frames:
        check_frames(name, frames, limits)
    if frames * pixels > limits.clip_pixels:
        fewer = max(1, limits.clip_pixels // max(1, pixels))
        raise MediaRefused(
            f"{name}: {frames} frames of {pixels} pixels each are too much to hold, "
            f"{fewer} are possible (Limits.clip_pixels); ask for fewer"
        )


def _by_stamp(
    container: InputContainer, video: VideoStream, timeline: Timeline, wanted: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Frames recognised by their stamps, from the key frame before each; ends where decoder and packets disagree."""
    frames, reached = container.decode(video), None
    for index in wanted:
        stamp = timeline.stamps[index] or 0
        near = bisect_right(timeline.keys, stamp)
        if near and (reached is None or timeline.keys[near - 1] > reached):
            container.seek(timeline.keys[near - 1], stream=video)
            frames = container.decode(video)
        frame = next((frame for frame in frames if frame.pts is None or frame.pts >= stamp), None)
        if frame is None or frame.pts != stamp or frame.is_corrupt:
            return
        reached = frame.pts
        yield index, frame


def _by_count(
    container: InputContainer, video: VideoStream, timeline: Timeline, wanted: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Frames recognised by their number, from the start."""
    for index, frame in zip(range(wanted[-1] + 1), container.decode(video), strict=False):
        if index in wanted:
            yield index, frame


# fmt: off
TURNS = {  # display matrix (a, b, c, d), x' = ax + cy, y' = bx + dy -> what makes the frame upright
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,      (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,     (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM, (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
# fmt: on


def _upright(frame: VideoFrame) -> Image.Image:
    """The frame as RGB, turned as its display matrix says, transparent parts on white."""
    if frame.format.name in WITH_ALPHA:
        picture = to_rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    else:
        picture = frame.to_image()
    matrix = cast("Mapping[str, Buffer]", frame.side_data).get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = (round(number / 65536) for number in struct.unpack("5i", bytes(matrix)[:20]))
    turn = TURNS.get((a, b, c, d))
    return picture if turn is None else picture.transpose(turn)
