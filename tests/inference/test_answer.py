"""The text of an answer as it grows: what was given is final, and adds up to the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.data.tokenizer import Tokenizer
from internvl.inference.answer import GrowingText
from tests.conftest import golden


class Spelling:
    """A decoder whose ids are code points."""

    def push(self, token: int) -> str:
        return chr(token)

    def finish(self) -> str:
        return ""


def grow(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], GrowingText]:
    growing = GrowingText(Spelling(), stop)
    return [*(growing.push(ord(letter)) for letter in text), growing.finish()], growing


def whole(text: str, stop: tuple[str, ...]) -> str:
    ends = [text.find(one) for one in stop if one in text]
    return text[: min(ends)].strip() if ends else text.strip()


letters = st.text(alphabet="ab \n", max_size=30)


@given(letters, st.lists(st.text(alphabet="ab \n", min_size=1, max_size=4), max_size=3))
def test_the_pieces_add_up_to_the_whole(text, stop):
    first = next((text[: end + 1] for end in range(len(text)) if any(s in text[: end + 1] for s in stop)), text)
    pieces, growing = grow(text, tuple(stop))
    # A stop string that is complete first ends the answer, even if a later one would have begun earlier.
    assert "".join(pieces) == growing.text == whole(first, tuple(stop))
    assert growing.stopped == any(one in text for one in stop)


def test_a_stop_string_is_never_shown_in_part():
    pieces, growing = grow("one ENDING two", stop=("ENDED", "\n\n"))
    assert "".join(pieces) == "one ENDING two"
    pieces, growing = grow("one ENDED two", stop=("ENDED", "\n\n"))
    assert pieces[:6] == ["o", "n", "e", "", "", ""]
    assert growing.text == "one"


def test_white_space_at_the_ends_is_not_text():
    pieces, _ = grow(" \n one  two \n ")
    assert "".join(pieces) == "one  two"
    assert pieces[:4] == ["", "", "", "o"]


@given(letters)
def test_all_white_space_is_text_where_it_is_not_to_be_stripped(text):
    growing = GrowingText(Spelling(), ("b",), strip=False)
    pieces = [*(growing.push(ord(letter)) for letter in text), growing.finish()]
    assert "".join(pieces) == growing.text == text.partition("b")[0]


@pytest.mark.parametrize("name", ["qwen2-bbpe", "internlm2-sp", "llama3-bbpe"])
def test_no_half_characters_and_the_same_as_decoding_at_once(name):
    tokenizer = Tokenizer.from_folder(golden(f"tokenizers/{name}"))
    text = "Naïve café — 图片里有什么？ 🚌🇨🇭 <ref>bus</ref><box>[[1, 2, 3, 4]]</box>"
    ids = tokenizer.encode(text)
    growing = GrowingText(tokenizer.stream(keep_markup=True))
    pieces = [*(growing.push(i) for i in ids), growing.finish()]
    assert "".join(pieces) == tokenizer.decode(ids, keep_markup=True).strip()
    assert len([piece for piece in pieces if piece]) > 10
    assert not any("\ufffd" in piece for piece in pieces)
