"""From a sample to the conversation that a model is given."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image as Pillow

from internvl.data.prompts import Image, ImageSlot, Message, bind
from internvl.errors import DataError
from internvl.evaluation.ask import conversation, show
from internvl.evaluation.benchmark import Footage, Picture, Sample, Settings


def png(shade: int, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Pillow.new("RGB", size, (shade, shade, shade)).save(stream, kind)
    return stream.getvalue()


def picture(shade: int, **options) -> Picture:
    return Picture(f"{shade}.png", lambda: png(shade), **options)


def spelt(sample: Sample, settings: Settings | None = None) -> str:
    """The text of the last message, a picture being written by its shade."""
    turns, pictures = bind(conversation(sample, settings or Settings()))
    shades = [f"[{one.photo.convert('RGB').getpixel((0, 0))[0]}]" for one in pictures]
    return "".join(shades[one.index] if isinstance(one, ImageSlot) else str(one) for one in turns[-1].pieces)


@pytest.mark.parametrize(
    ("prompt", "shades", "text"),
    [
        ("2 + 2?", (), "2 + 2?"),
        ("What?", (1,), "[1]\nWhat?"),
        ("What is in <image>?", (1,), "What is in [1]?"),
        ("Same?", (1, 2), "Image-1: [1]\nImage-2: [2]\nSame?"),
        ("<image> or <image>?", (1, 2), "[1] or [2]?"),
        ("<image 1> is text", (3,), "[3]\n<image 1> is text"),
    ],
)
def test_pictures_stand_where_the_prompt_says(prompt, shades, text):
    assert spelt(Sample(id="1", prompt=prompt, pictures=tuple(map(picture, shades)))) == text


def budgets(settings: Settings, *pictures: Picture) -> list[int | None]:
    [message] = conversation(Sample(id="1", prompt="?", pictures=pictures), settings)
    return [part.max_tiles for part in message.parts if isinstance(part, Image)]


def test_tiles_are_shared():
    three = tuple(map(picture, range(3)))
    assert budgets(Settings(max_tiles=12), three[0]) == [12]
    assert budgets(Settings(max_tiles=12), *three) == [4, 4, 4]
    assert budgets(Settings(max_tiles=2), *three) == [1, 1, 1]
    assert budgets(Settings(max_tiles=18, together=64), *three) == [18, 18, 18]
    assert budgets(Settings(max_tiles=18, together=30), *three) == [10, 10, 10]
    assert budgets(Settings(max_tiles=12), picture(1, max_tiles=7), picture(2)) == [7, 6]


def test_a_system_message():
    messages = conversation(Sample(id="1", prompt="?"), Settings(system="Be brief."))
    assert [message.role for message in messages] == ["system", "user"]
    assert messages == [Message("system", messages[0].parts), Message("user", ("?",))]


def test_a_picture_may_be_enlarged():
    [message] = conversation(Sample(id="1", prompt="?", pictures=(picture(1, enlarge=2), picture(2))), Settings())
    assert [part.picture.size for part in message.parts if isinstance(part, Image)] == [(16, 12), (8, 6)]


def test_files_go_with_pictures_that_were_not_changed():
    shown = show(Sample(id="1", prompt="?", pictures=(picture(1), picture(2, enlarge=2))), Settings())
    assert shown.files == (png(1), None)


@pytest.mark.parametrize("content", [b"", b"nonsense", png(1)[:40]], ids=["empty", "no picture", "cut off"])
def test_what_is_no_picture_is_named(content):
    with pytest.raises(DataError, match=r"^rows\.tsv, row 7: ") as caught:
        conversation(Sample(id="1", prompt="?", pictures=(Picture("rows.tsv, row 7", lambda: content),)), Settings())
    assert "the picture:" not in str(caught.value)


@pytest.mark.parametrize(("prompt", "count"), [("<image> <image>", 1), ("<image>", 2), ("<image>", 0), ("<video>", 0)])
def test_placeholders_and_pictures_must_agree(prompt, count):
    with pytest.raises(DataError, match=r"sample s7: its prompt has \d <(image|video)>, but there are \d"):
        conversation(Sample(id="s7", prompt=prompt, pictures=tuple(map(picture, range(count)))), Settings())


# ---- videos ----------------------------------------------------------------------------------------------------------


def folder_of(path: Path, frames: int) -> Path:
    path.mkdir()
    for number in range(1, frames + 1):
        (path / f"{number:05d}.jpg").write_bytes(png(10 * number, kind="JPEG"))
    return path


def frames_of(sample: Sample, settings: Settings) -> list[int]:
    """The numbers of the frames that are shown, from their shades."""
    return [round(int(shade) / 10) for shade in re.findall(r"\[(\d+)\]", spelt(sample, settings))]


def test_frames_of_a_folder(tmp_path):
    """As the published evaluation of MVBench counts: from 1, three a second."""
    path = folder_of(tmp_path / "clip", 20)
    whole = Sample(id="1", prompt="<video>What?", footage=Footage("clip", path))
    assert frames_of(whole, Settings(frames=4)) == [3, 8, 13, 17]  # by the original's get_index
    part = Sample(id="1", prompt="<video>What?", footage=Footage("clip", path, (1.0, 4.0)))
    assert frames_of(part, Settings(frames=3)) == [4, 7, 10]
    assert spelt(part, Settings(frames=1)) == "Frame1: [70]\nWhat?"
    assert spelt(part, Settings(frames=1, frame_line="Frame-{}: <image>\n")) == "Frame-1: [70]\nWhat?"


def test_a_video_without_a_placeholder_comes_first(tmp_path):
    path = folder_of(tmp_path / "clip", 2)
    sample = Sample(id="1", prompt="What?", footage=Footage("clip", path))
    assert spelt(sample, Settings(frames=1)) == "Frame1: [10]\nWhat?"
    both = Sample(id="1", prompt="What?", pictures=(picture(250),), footage=Footage("clip", path))
    assert spelt(both, Settings(frames=1)) == "[250]\nFrame1: [10]\nWhat?"


def test_frames_have_one_tile_each(tmp_path):
    frames = [Pillow.new("RGB", (16, 12), (10 * number, 0, 0)) for number in range(1, 10)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    sample = Sample(id="1", prompt="<video>\nWhat?", footage=Footage("clip.gif", tmp_path / "clip.gif"))
    [message] = conversation(sample, Settings(frames=5, max_tiles=12))
    assert [part.max_tiles for part in message.parts if isinstance(part, Image)] == [1] * 5
    assert message.parts[-1] == "".join(f"Frame{n}: <image>\n" for n in range(1, 6)) + "\nWhat?"


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"nonsense" * 100)
    (tmp_path / "empty").mkdir()
    for path, bound in ((tmp_path / "clip.mp4", None), (tmp_path / "empty", None)):
        with pytest.raises(DataError, match=r"^the clip: "):
            conversation(Sample(id="1", prompt="?", footage=Footage("the clip", path, bound)), Settings())
    path = folder_of(tmp_path / "clip", 3)
    with pytest.raises(DataError, match="the part from 9 s to 10 s is not among its 3 frames"):
        conversation(Sample(id="1", prompt="?", footage=Footage("the clip", path, (9.0, 10.0))), Settings())
