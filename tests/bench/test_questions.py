"""What is asked: the same for the same seed, the right share with pictures, each text of its own."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl.bench import questions as module
from internvl.bench.questions import Questions, Wish, words
from internvl.data.media import open_image
from internvl.errors import UsageError


def asked(wish, number=0):
    return Questions(wish).messages(number)


@settings(max_examples=25)
@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 3))
def test_so_many_have_a_picture(requests, mix, seed):
    wish = Wish(requests=requests, image_mix=mix, image_size=16, input_tokens=5, seed=seed)
    questions = Questions(wish)
    pictured = [not isinstance(questions.messages(number)[0]["content"], str) for number in range(requests)]
    assert pictured == questions.with_picture
    assert sum(pictured) == wish.pictured == round(mix * requests)
    assert questions.pictures == sum(pictured)


def test_the_same_seed_asks_the_same_and_another_something_else():
    wish = Wish(requests=6, image_mix=0.5, image_size=32)
    every = [asked(wish, number) for number in range(-1, 6)]
    assert every == [asked(wish, number) for number in range(-1, 6)]
    other = Wish(requests=6, image_mix=0.5, image_size=32, seed=1)
    assert every != [asked(other, number) for number in range(-1, 6)]


@given(st.integers(1, 300))
def test_texts_are_as_long_as_asked_and_differ_from_their_beginning(count):
    texts = [words(count, f"0 {number}") for number in range(20)]
    assert {len(text.split()) for text in texts} == {count}
    if count > 12:
        assert len({tuple(text.split()[:4]) for text in texts}) > 15  # no prefix fits that a server has kept


def test_a_text_of_ones_own_is_in_every_question():
    questions = Questions(Wish(requests=2, prompt="What?"))
    assert [questions.messages(number)[0]["content"] for number in range(2)] == ["What?", "What?"]
    [note] = questions.notes()
    assert "the same text" in note


def test_drawn_pictures_differ_and_can_be_read():
    questions = Questions(Wish(requests=5, image_mix=1.0, image_size=64))
    addresses = [questions.messages(number)[0]["content"][0]["image_url"]["url"] for number in range(5)]
    assert len(set(addresses)) == 5
    assert {open_image(address).size for address in addresses} == {(64, 64)}


def test_pictures_are_kept_in_bounds(monkeypatch):
    monkeypatch.setattr(module, "MOST_PICTURES", 3)
    questions = Questions(Wish(requests=10, image_mix=0.8, image_size=16))
    assert questions.pictures == 3
    assert any("8 questions share 3 pictures" in note for note in questions.notes())


def test_pictures_of_a_folder_are_sent_as_they_are(tmp_path):
    for name, kind in (("a.jpg", "JPEG"), ("b.png", "PNG")):
        Image.new("RGB", (20, 10), "red").save(tmp_path / name, kind)
    (tmp_path / "notes.txt").write_text("no picture")
    questions = Questions(Wish(requests=4, image_mix=1.0, images=tmp_path))
    urls = [questions.messages(number)[0]["content"][0]["image_url"]["url"] for number in range(4)]
    assert {url.partition(";")[0] for url in urls} == {"data:image/jpeg", "data:image/png"}


def test_a_damaged_picture_is_named(tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (20, 10)).save(data, "PNG")
    (tmp_path / "torn.png").write_bytes(data.getvalue()[:40])
    with pytest.raises(UsageError, match=r"torn\.png: .*take it out of"):
        Questions(Wish(requests=1, image_mix=1.0, images=tmp_path))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_mix": 1.5}, r"image mix 1\.5: expected the share"),
        ({"image_mix": float("nan")}, "image mix nan"),
        ({"input_tokens": 0}, "0 input tokens: expected 1"),
        ({"image_mix": 1.0, "image_size": 2}, "image size 2: expected 16"),
        ({"images": "folder"}, "--images without --image-mix"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Wish(requests=4, **options)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no picture in"):
        Questions(Wish(requests=1, image_mix=1.0, images=tmp_path))
    with pytest.raises(UsageError, match="is not a folder"):
        Questions(Wish(requests=1, image_mix=1.0, images=tmp_path / "gone"))
