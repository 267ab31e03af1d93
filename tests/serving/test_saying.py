"""An answer is told soon, and not in more pieces than anyone can read."""

from __future__ import annotations

import itertools
from dataclasses import asdict

from internvl.inference.answer import GrowingText
from internvl.inference.constraint import Constraint
from internvl.inference.sampling import Token
from internvl.serving.saying import PACE, Saying, Speech, Spoken
from internvl.serving.wire import Ask, Done, Piece
from internvl.weights.hub import NANO
from internvl.weights.load import load_encoder


class Letters:
    """A tokenizer's stream whose tokens are letters."""

    def push(self, token: int) -> str:
        return chr(token)

    def finish(self) -> str:
        return ""


def told(text: str, seconds: float, *, stop: tuple[str, ...] = ()) -> list[tuple[float, Piece | Done]]:
    """What is told of a text of which a letter comes every so many seconds, and when."""
    now = 0.0
    tokens = Spoken(lambda letter: bytes([letter]), stop)
    saying = Saying((7, 0), GrowingText(Letters(), stop), tokens, (), (), clock=lambda: now)
    heard: list[tuple[float, Piece | Done]] = []
    for place, letter in enumerate(text):
        now = place * seconds
        heard += [(now, one) for one in saying.hear(Token(ord(letter), -1.0), silent=False)]
        if saying.stopped:
            break
    return [*heard, *((now, one) for one in saying.end("length", reused=0, last=True))]


def pieces(heard: list[tuple[float, Piece | Done]]) -> list[tuple[float, Piece]]:
    return [(when, one) for when, one in heard if isinstance(one, Piece)]


def test_the_first_token_is_told_at_once_and_the_last_with_the_end():
    heard = told("abcdefgh", PACE / 100)
    assert [one.text for _, one in pieces(heard)] == ["a", "bcdefgh"]
    assert isinstance(heard[-1][1], Done)


def test_a_slow_model_tells_every_token():
    assert [one.text for _, one in pieces(told("abcdefgh", 1.01 * PACE))] == list("abcdefgh")


def test_pieces_are_apart_but_no_token_waits_longer_than_for_the_next_after_the_pace():
    seconds = PACE / 3.5
    heard = pieces(told("abcdefghijklmnopqrstuvwxyz", seconds))
    assert "".join(one.text for _, one in heard) == "abcdefghijklmnopqrstuvwxyz"
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(heard[:-1])]
    assert len(gaps) > 3
    assert all(PACE <= gap <= PACE + seconds for gap in gaps), "but for the last, which is the end"


def test_tokens_are_told_with_their_text_and_a_stop_string_takes_away_what_waits():
    heard = told("one two END three", PACE / 4, stop=(" END",))
    assert "".join(one.text for _, one in pieces(heard)) == "one two"
    said = [token["text"] for _, one in pieces(heard) for token in one.tokens]
    assert said == list("one two")
    assert len(pieces(heard)) < 6


def test_white_space_around_words_is_taken_away_and_around_a_form_it_is_not():
    encoder = load_encoder(NANO)
    speech, form = Speech(encoder, vocab=encoder.tokenizer.vocab_size), Constraint.regex(" word ")
    for constraint, expected in ((form, " word "), (form.among_words("<a>", "</a>"), "word"), (None, "word")):
        ask = Ask(id=0, ids=[1], sampling={}, constraint=None if constraint is None else asdict(constraint))
        [saying] = speech.answers(ask)
        heard = [
            one for token in encoder.tokenizer.encode(" word ") for one in saying.hear(Token(token, -1.0), silent=False)
        ]
        heard += saying.end("stop", reused=0, last=True)
        assert "".join(one.text for one in heard if isinstance(one, Piece)) == expected
