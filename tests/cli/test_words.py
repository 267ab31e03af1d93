"""Telling pictures from the question."""

import pytest

from internvl.cli.words import Words, existing, existing_file, page_numbers, sort_words
from internvl.errors import UsageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Photo.jpg", "other.png", "clip.mp4", "paper.pdf", "what"):
        (tmp_path / name).touch()
    (tmp_path / "album").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "images", "question"),
    [
        ([], (), None),
        (["What is 2+2?"], (), "What is 2+2?"),
        (["hello"], (), "hello"),
        (["Photo.jpg"], ("Photo.jpg",), None),
        (["Photo.jpg", "What is this?"], ("Photo.jpg",), "What is this?"),
        (["Photo.jpg", "other.png", "Compare."], ("Photo.jpg", "other.png"), "Compare."),
        (["https://example.org/a.jpg", "Who?"], ("https://example.org/a.jpg",), "Who?"),
        (["data:image/png;base64,AAAA"], ("data:image/png;base64,AAAA",), None),
        (["what"], ("what",), None),  # a file of that name is there
        (["Photo.jpg", "Is it a .jpg"], ("Photo.jpg",), "Is it a .jpg"),
        (["Photo.jpg", "q" * 5000], ("Photo.jpg",), "q" * 5000),
        (["Photo.jpg", "nul\0 byte"], ("Photo.jpg",), "nul\0 byte"),
        (["~nobody/by that name?"], (), "~nobody/by that name?"),
    ],
)
def test_words_are_told_apart(here, words, images, question):
    assert sort_words(words) == Words(images, question)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photo.jpg", "What?"], "no such file: photo.jpg; did you mean Photo.jpg\\?"),
        (["Photo.jgp"], "no such file: Photo.jgp; did you mean Photo.jpg\\?"),
        (["nothing-like-it.webp"], "no such file: nothing-like-it.webp$"),
        (["./gone", "What?"], "no such file: ./gone$"),
        (["Photo.jpg", "colour", "is", "it"], "put all of it in quotes"),
        (["clip.mp4", "What?"], "give it as --video clip.mp4"),
        (["paper.pdf", "What?"], "give it as --pdf paper.pdf"),
        (["album", "What?"], "album is a folder"),
    ],
)
def test_a_wrong_word_is_explained(here, words, says):
    with pytest.raises(UsageError, match=says):
        sort_words(words)


def test_a_home_folder_is_written_out(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    assert sort_words(["~/Photo.jpg", "What?"]) == Words((str(here / "Photo.jpg"),), "What?")
    assert existing("~/Photo.jpg") == existing_file("~/Photo.jpg") == str(here / "Photo.jpg")
    assert existing_file("https://example.org/~/a.mp4") == "https://example.org/~/a.mp4"
    for wrong in ("~/album", "~/gone.mp4", "~nobody/gone.mp4"):
        with pytest.raises(UsageError, match=r"is a folder|no such file"):
            existing_file(wrong)


def test_pages_are_named_as_in_print():
    assert page_numbers("1-3,7") == [1, 2, 3, 7]
    assert page_numbers(" 2 - 2 , 1") == [2, 1]


@pytest.mark.parametrize("text", ["", "0", "1,,2", "3-1", "one", "1-", "-1", "1-999999", "9999999999", "\u0661"])
def test_pages_that_are_none(text):
    with pytest.raises(UsageError, match="pages '"):
        page_numbers(text)
