"""Videos: the published frame rules, exact frames out of every container, and one clear line for every broken file."""

from __future__ import annotations

import io
import json
import random
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl.data import video
from internvl.data.limits import Limits
from internvl.data.media import open_clip, open_video
from internvl.data.video import frame_indices, paced_indices, training_indices
from internvl.errors import MediaRefused, MediaUnreadable, UsageError
from tests.conftest import golden

PIXEL_FORMATS = {"gif": "rgb8", "mjpeg": "yuvj420p"}
CONTAINERS = [
    ("mp4", "libx264"), ("webm", "libvpx-vp9"), ("webm", "libvpx"), ("matroska", "libx264"), ("mpegts", "libx264"),
    ("avi", "mpeg4"), ("avi", "mjpeg"), ("gif", "gif"), ("flv", "flv1"), ("mov", "libx264"), ("mpeg", "mpeg2video"),
]  # fmt: skip


def film(
    container: str = "mp4", codec: str = "libx264", *, frames: int = 30, rate: int = 25, gop: int = 10,
    size: tuple[int, int] = (64, 48), stamps: list[int] | None = None, sound: bool = False,
) -> bytes:  # fmt: skip
    """A clip whose frame i is gray of level 8 i, and whose left upper corner is white."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as target:
        stream = target.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = PIXEL_FORMATS.get(codec, "yuv420p")
        stream.codec_context.gop_size = gop
        voice = target.add_stream("aac", rate=44100) if sound else None
        for i in range(frames):
            pixels = np.full((size[1], size[0], 3), 8 * i % 256, np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[i], Fraction(1, rate)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
        if voice is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 44100
            target.mux(voice.encode(silence))
            target.mux(voice.encode())
    return out.getvalue()


def level(picture: Image.Image) -> int:
    return picture.convert("L").getpixel((picture.width - 4, picture.height - 4))


def every(step: int):
    return lambda frames, fps: range(0, frames, step)


# ---- which frames --------------------------------------------------------------------------------------------------


def test_evaluation_frames_are_the_published_ones():
    rows = json.loads(golden("preprocess/video_frames.json").read_text())["evaluation_get_index"]
    assert rows
    for row in rows:
        bound = tuple(row["bound"]) if row["bound"] else None
        assert frame_indices(row["num_frames"], row["fps"], row["num_segments"], bound) == row["indices"], row


def test_training_frames_are_the_published_ones():
    rows = json.loads(golden("preprocess/video_frames.json").read_text())["training_get_frame_indices"]
    assert rows
    for row in rows:
        if row["sample"].startswith("fps"):
            most = row["max_num_frames"] if row["max_num_frames"] > 0 else None
            found = paced_indices(row["vlen"], row["input_fps"], float(row["sample"][3:]), most=most)
        else:
            started = row.get("fix_start") is not None
            found = training_indices(
                row["vlen"],
                row["num_frames"],
                how="start" if started else row["sample"],
                offset=row["fix_start"] if started else 0,
                choice=random.Random(row.get("seed")),
                shuffle=np.random.RandomState(row.get("seed")),
            )
        assert found == row["indices"], row


@pytest.mark.parametrize("name", ["round", "int"])
def test_planted_faults_are_caught(name, monkeypatch):
    monkeypatch.setattr(video, name, lambda number: -int(-number // 1), raising=False)  # rounded up instead
    with pytest.raises(AssertionError):
        test_evaluation_frames_are_the_published_ones()


def test_a_part_that_begins_within_the_last_half_frame():
    assert frame_indices(1, 10.0, 2, (0.067, 0.108)) == [0, 0]
    assert frame_indices(22, 59.94, 1, (0.36589, 0.36589)) == [21]
    assert frame_indices(7, 40.953, 4, (0.15999, 0.2)) == [6, 6, 6, 5]  # as published, though it does not ascend


@given(start=st.floats(0, 1, exclude_max=True), frames=st.integers(1, 500), fps=st.floats(0.5, 120),
       count=st.integers(1, 64), more=st.floats(0, 9))  # fmt: skip
def test_a_part_that_begins_inside_the_video_is_answered(start, frames, fps, count, more):
    at = start * frames / fps
    if at * fps < frames:
        indices = frame_indices(frames, fps, count, (at, at + more))
        assert len(indices) == count
        assert 0 <= min(indices) <= max(indices) < frames


@given(frames=st.integers(1, 5000), fps=st.floats(0.5, 120), count=st.integers(1, 64))
def test_frames_ascend_inside_the_video(frames, fps, count):
    indices = frame_indices(frames, fps, count)
    assert len(indices) == count
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < frames


@given(
    frames=st.integers(1, 500),
    count=st.integers(1, 64),
    how=st.sampled_from(["rand", "middle"]),
    seed=st.integers(0, 9),
)
def test_training_frames_ascend_inside_the_video(frames, count, how, seed):
    choice, shuffle = random.Random(seed), np.random.RandomState(seed)
    indices = training_indices(frames, count, how=how, choice=choice, shuffle=shuffle)
    assert len(indices) == count
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 25.0, 4, (3.0, 2.0)), "ends before it starts"),
        ((100, 25.0, 4, (9.0, 12.0)), "the video lasts 4.0 s"),
        ((100, 25.0, 4, (4.0, 5.0)), "the video lasts 4.0 s"),
        ((100, 25.0, 4, (-3.0, -2.0)), "the video lasts 4.0 s"),
        ((100, 25.0, 0), "at least one"),
        ((0, 25.0, 4), "at least one"),
    ],
)
def test_impossible_parts(arguments, message):
    with pytest.raises(UsageError, match=message):
        frame_indices(*arguments)


# ---- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_exact_frames_of_every_container(container, codec):
    clip = open_clip(film(container, codec), every(7))
    assert clip.length == 30
    assert clip.indices == (0, 7, 14, 21, 28)
    assert [level(frame) for frame in clip.frames] == pytest.approx([0, 56, 112, 168, 224], abs=24)  # gif: 3 bits
    assert clip.times == pytest.approx([i / 25 for i in clip.indices], abs=0.011)  # gif: hundredths
    assert all(frame.mode == "RGB" and frame.size == (64, 48) for frame in clip.frames)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("mpegts", "libx264")])
@pytest.mark.parametrize("gop", [1, 3, 250])
def test_seeking_gives_the_frames_of_a_whole_decoding(container, codec, gop):
    data = film(container, codec, frames=40, gop=gop)
    with av.open(io.BytesIO(data)) as source:
        whole = [frame.to_image().tobytes() for frame in source.decode(video=0)]
    for chosen in ([39], [0, 1, 2], [5, 20, 21, 38], [33, 2, 2, 17]):
        clip = open_clip(data, lambda frames, fps, chosen=chosen: chosen)
        assert [frame.tobytes() for frame in clip.frames] == [whole[i] for i in chosen]


def test_real_clips(shared):
    for path in sorted((shared / "data" / "video").glob("*.mp4")):
        clip = open_video(path, frames=4)
        with av.open(str(path)) as source:
            whole = [frame.to_image() for frame in source.decode(video=0)]
        assert clip.length == len(whole)
        assert clip.indices == tuple(frame_indices(len(whole), clip.fps, 4))
        assert all(found.tobytes() == whole[i].tobytes() for i, found in zip(clip.indices, clip.frames, strict=True))


def test_frames_without_reliable_stamps_are_counted(monkeypatch):
    data = film("avi", "mpeg4")
    expected = open_clip(data, every(9))
    monkeypatch.setattr(video, "_packet_timeline", lambda *_: None)
    found = open_clip(data, every(9))
    assert [frame.tobytes() for frame in found.frames] == [frame.tobytes() for frame in expected.frames]
    assert found.times == expected.times


def test_a_decoder_that_contradicts_the_packets_is_believed(monkeypatch):
    data = film()
    wrong = video.Timeline(list(range(0, 90 * 512, 256)), (), by_stamp=True)  # twice the frames, half of them invented
    monkeypatch.setattr(video, "_packet_timeline", lambda *_: wrong)
    assert open_clip(data, every(7)).indices == (0, 7, 14, 21, 28)


def test_variable_frame_rate_has_true_times():
    clip = open_clip(film(rate=10, frames=5, stamps=[0, 1, 2, 10, 40]), every(1))
    assert clip.times == pytest.approx([0, 0.1, 0.2, 1.0, 4.0])
    assert [level(frame) for frame in clip.frames] == pytest.approx([0, 8, 16, 24, 32], abs=4)


def test_a_part_of_a_video():
    clip = open_video(film(frames=100), frames=4, bound=(1.0, 2.0))
    assert clip.indices == tuple(frame_indices(100, 25.0, 4, (1.0, 2.0)))
    assert all(1.0 <= time <= 2.0 for time in clip.times)


def test_one_frame_and_sound_and_files(tmp_path):
    assert open_video(film(frames=1), frames=3).indices == (0, 0, 0)
    assert open_video(film("gif", "gif", frames=1), frames=1).length == 1
    assert open_video(film(sound=True), frames=2).length == 30
    (tmp_path / "clip.mp4").write_bytes(film())
    for source in (tmp_path / "clip.mp4", str(tmp_path / "clip.mp4"), (tmp_path / "clip.mp4").as_uri()):
        assert open_video(source, frames=2).length == 30
    with (tmp_path / "clip.mp4").open("rb") as file:
        assert open_video(file, frames=2).length == 30


MATRICES = {  # what the camera wrote -> where the white corner of the stored frame is shown
    "turned right": ((0, 1, -1, 0), (48, 64), "right upper"),
    "turned left": ((0, -1, 1, 0), (48, 64), "left lower"),
    "upside down": ((-1, 0, 0, -1), (64, 48), "right lower"),
    "mirrored": ((-1, 0, 0, 1), (64, 48), "right upper"),
    "transposed": ((0, 1, 1, 0), (48, 64), "left upper"),
}


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_is_honoured(name):
    (a, b, c, d), size, corner = MATRICES[name]
    data = bytearray(film())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    frame = open_video(bytes(data), frames=1).frames[0]
    assert frame.size == size
    points = {
        f"{x} {y}": frame.convert("L").getpixel((4 if x == "left" else size[0] - 5, 4 if y == "upper" else size[1] - 5))
        for x in ("left", "right")
        for y in ("upper", "lower")
    }
    assert max(points, key=points.get) == corner
    assert points[corner] > 240


def test_transparent_animations_stand_on_white():
    out = io.BytesIO()
    frames = [Image.new("RGBA", (16, 16), (200, 0, 0, 0)) for _ in range(2)]
    for i, frame in enumerate(frames):
        frame.paste((0, 0, 255, 255), (i, 0, i + 8, 8))
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], disposal=2)
    assert open_video(out.getvalue(), frames=1).frames[0].getpixel((12, 12)) == (255, 255, 255)


# ---- limits and broken files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"frames": 7}, "8 frames were asked for, at most 7"),
        ({"clip_pixels": 3 * 64 * 48}, "3 are possible"),
        ({"clip_seconds": 1.0}, "at most 1 s"),
        ({"pixels": 3000}, r"64 x 48 pixels, at most 3000"),
        ({"codecs": ("vp9",)}, "h264 video is not decoded"),
        ({"bytes": 100}, "larger than 100 bytes"),
    ],
)
def test_limits_hold_before_decoding(limits, message, monkeypatch):
    monkeypatch.setattr(video, "_by_stamp", lambda *_: pytest.fail("decoded before the limit was looked at"))
    with pytest.raises(MediaRefused, match=message):
        open_video(film(), Limits(**limits))


def test_video_files_have_their_own_size_limit(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(film())
    assert open_video(tmp_path / "clip.mp4", Limits(bytes=100)).length == 30
    with pytest.raises(MediaRefused, match="at most 100 are read"):
        open_video(tmp_path / "clip.mp4", Limits(video_bytes=100))


def test_containers_off_the_list_are_not_even_probed():
    with pytest.raises(MediaUnreadable, match=r"no video of a known container \(avi\)"):
        open_video(film(), Limits(containers=("avi",)))
    playlist = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    for data in (playlist, b"ffconcat version 1.0\nfile /etc/passwd\n"):
        with pytest.raises(MediaUnreadable, match="no video of a known container"):
            open_video(data)


def sound_only() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        voice = target.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        target.mux(voice.encode(silence))
        target.mux(voice.encode())
    return out.getvalue()


def no_frames() -> bytes:
    """A film of sound only, with a picture track in which there is nothing."""
    return film("matroska", "mpeg4", frames=0, sound=True)


def scratched() -> bytes:
    """Headers and index intact, the middle of the data overwritten."""
    data = bytearray(film(frames=60, gop=60, size=(320, 240)))
    start, stop = data.find(b"mdat") + 1200, data.find(b"moov") - 100
    data[start:stop] = bytes([0xA5]) * (stop - start)
    return bytes(data)


BROKEN = {
    "empty": (lambda: b"", "it is empty"),
    "noise": (lambda: bytes(range(256)) * 9, "no video of a known container"),
    "picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), "no video of a known container"),
    "no index": (lambda: film()[:1500], "there is no video in it"),
    "zero frames": (no_frames, "the video has no frames"),
    "sound only": (sound_only, "there is no video in it"),
    "scratched": (scratched, "the video is damaged"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_videos_get_one_clear_line(case):
    make, message = BROKEN[case]
    with pytest.raises(MediaUnreadable, match=message) as caught:
        open_video(make())
    text = str(caught.value)
    assert text.startswith("the video: ")
    assert "\n" not in text
    assert "0x" not in text


def test_a_video_that_is_cut_off(shared):
    data = (shared / "data" / "video" / "friday.mp4").read_bytes()
    with pytest.raises(MediaUnreadable, match="cut off, 99 of its 185 frames"):
        open_video(data[: len(data) // 2])
    stream = film("mpegts", frames=30)
    assert 5 < open_video(stream[: len(stream) // 2]).length < 30  # a broadcast has no index: what is there is read


@pytest.mark.parametrize("frames", [10**9, 513])
def test_far_too_many_frames_are_refused_before_they_are_counted_out(frames, monkeypatch):
    monkeypatch.setattr(video, "frame_indices", lambda *_, **__: pytest.fail("a list of that many numbers was made"))
    with pytest.raises(MediaRefused, match=f"{frames} frames were asked for, at most 512 are read"):
        open_video("nowhere.mp4", frames=frames)


@pytest.mark.parametrize("frames", [0, -1, 2.0, "8", True])
def test_a_number_of_frames_is_a_whole_number(frames):
    with pytest.raises(UsageError, match="expected a whole number from 1 on"):
        open_video("nowhere.mp4", frames=frames)
