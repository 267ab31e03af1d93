"""Who is next, what is refused, and that what goes wrong with one request is its own affair."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from internvl.errors import ContextOverflow, PlaceholderMismatch, UsageError
from internvl.inference import draft, seen
from internvl.inference.engine import Engine, EngineConfig, QueueFull, Request, Spoke
from internvl.inference.sampling import SamplingConfig
from internvl.models.chat import ChatModel
from internvl.models.config import RopeScaling
from tests.inference.serving import GREEDY, Ear, alone, asking, engine_of, picture, roomy, served, words
from tests.models.tiny import IMAGE, TEXTS, chat_config, chat_model, shake


def heard(ear: Ear, id: int):
    return ear.answers[id, 0]


# ---- whose turn it is ------------------------------------------------------------------------------------------------


def crowd(engine: Engine, model: ChatModel) -> tuple[Ear, list[int], int, int]:
    """Twenty requests of one user and, after twelve steps, one of another; two chunks to read and eight tokens each.

    Returns also how many steps the one waited for its first token.
    """
    many = [engine.submit(asking(model, words(9, seed), user="many")) for seed in range(20)]
    ear = Ear(engine)
    for _ in range(12):
        ear.step()
    one = engine.submit(asking(model, words(9, 99), user="one"))
    ear.all()
    return ear, many, one, heard(ear, one).first_step - 12


def test_twenty_requests_of_one_user_do_not_delay_the_one_of_another():
    """It waits 8 steps at most: until a slot comes free, a prompt or two that is being read, and its own chunks."""
    model = roomy()
    ear, many, one, waited = crowd(engine_of(model), model)
    later = [id for id in many if heard(ear, id).first_step > heard(ear, one).first_step]
    assert waited <= 8
    assert len(later) >= 10, "in the order of their coming it would have been the last"
    assert heard(ear, one).ids == alone(model, asking(model, words(9, 99))).ids


def test_a_user_can_be_kept_from_taking_all_slots():
    """With a slot that the crowd cannot take, the one waits for its own two chunks and at most one prompt more."""
    model = roomy()
    _, _, _, waited = crowd(engine_of(model, per_user=3), model)
    assert waited <= 4


def test_users_take_turns():
    model = roomy()
    engine = engine_of(model, slots=1)
    ids = {
        (user, i): engine.submit(asking(model, words(3, i), user=user)) for user, k in (("a", 4), ("b", 2), ("c", 1))
        for i in range(k)
    }  # fmt: skip
    ear = Ear(engine).all()
    order = [who for who, _ in sorted(ids.items(), key=lambda item: heard(ear, item[1]).first_step)]
    assert order == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3)]


def test_the_higher_priority_goes_first_and_passes_those_who_are_being_read():
    model = roomy()
    engine = engine_of(model, slots=8, chunk=4)
    ear = Ear(engine)
    low = [engine.submit(asking(model, words(60, seed), user="a")) for seed in range(6)]
    ear.step()
    high = engine.submit(asking(model, words(9, 7), user="a", priority=1))
    ear.all()
    assert heard(ear, high).first_step <= 1 + 3, "three chunks of its own"
    assert heard(ear, high).first_step < min(heard(ear, id).first_step for id in low)


def test_a_short_prompt_passes_a_long_one_which_is_not_starved():
    model = roomy()
    engine = engine_of(model, slots=8, chunk=4)
    ear = Ear(engine)
    long = engine.submit(asking(model, words(80, 1)))
    short = []
    for seed in range(2, 40):
        short.append(engine.submit(asking(model, words(4, seed), sampling=SamplingConfig(max_new_tokens=2))))
        ear.step()
    ear.all()
    assert heard(ear, short[0]).first_step <= 3
    assert heard(ear, long).first_step <= 2 * 20 + 1, "every other step is its own"


def test_growing_answers_get_a_token_every_step_while_others_are_read():
    model = roomy()
    engine = engine_of(model, chunk=4)
    ear = Ear(engine)
    growing = engine.submit(asking(model, 3, sampling=SamplingConfig(max_new_tokens=40)))
    ear.step()
    engine.submit(asking(model, words(30, 1), picture(1, tiles=3), words(30, 2)))
    ear.all()
    assert heard(ear, growing).last_step == 40


def test_a_step_reads_no_more_than_a_chunk_or_one_part_of_a_picture(monkeypatch):
    monkeypatch.setattr(seen, "CPU_PATCHES", 16)  # of a tile
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # there is no core for pictures to be encoded beside
    model = roomy()
    engine = engine_of(model, chunk=10)
    looked, hidden, tower = [], model.hidden, model.image_features
    read = []
    monkeypatch.setattr(model, "image_features", lambda pixels: looked.append(len(pixels)) or tower(pixels))
    monkeypatch.setattr(model, "hidden", lambda ids, *a, **k: read.append(ids.numel()) or hidden(ids, *a, **k))
    for seed in range(3):
        engine.submit(asking(model, words(7, seed), picture(seed, tiles=3), words(4, seed)))
    while engine.busy:
        looked.clear()
        read.clear()
        engine.step()
        assert sum(read) <= 10
        assert sum(looked) <= 1


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_can_never_be_answered_is_refused_at_once():
    model = roomy()
    engine = engine_of(model, per_user=2)
    ok = asking(model, words(4, 1), picture(1), 5)
    for error, match, request in (
        (ContextOverflow, "can have 96", replace(ok, sampling=SamplingConfig(max_new_tokens=88))),
        (UsageError, "beams=1", replace(ok, sampling=SamplingConfig(beams=2))),
        (UsageError, "1 to 2", replace(ok, n=3)),
        (UsageError, "1 to 2", replace(ok, n=0)),
        (UsageError, "no tokens", Request(ids=[])),
        (UsageError, "the id 96", replace(ok, ids=[96], pictures=())),
        (UsageError, "the id -1", replace(ok, ids=[-1], pictures=())),
        (PlaceholderMismatch, "4 image slots", replace(ok, pictures=())),
        (PlaceholderMismatch, "fill 8", replace(ok, pictures=[picture(1, tiles=2)])),
        (PlaceholderMismatch, "0 image slots", replace(ok, ids=[4])),
    ):
        with pytest.raises(error, match=match):
            engine.submit(request)
    assert not engine.busy
    fits = replace(ok, sampling=SamplingConfig(max_new_tokens=87))
    [[answer]] = served(engine, [fits])
    assert answer.ids == alone(model, fits).ids, "to the last place of a slot"


def test_a_full_queue_says_so():
    engine = engine_of(chat_model(), queue=3, max_len=30)
    for _ in range(3):
        engine.submit(Request(ids=[1], sampling=GREEDY))
    with pytest.raises(QueueFull, match="3 requests wait"):
        engine.submit(Request(ids=[1], sampling=GREEDY))
    engine.step()
    engine.submit(Request(ids=[1], sampling=GREEDY))


def test_tiles_that_wait_are_bounded():
    model = roomy()
    engine = engine_of(model, waiting_tiles=5)
    first = engine.submit(asking(model, 3, picture(1, tiles=3)))
    with pytest.raises(UsageError, match="may bring 5"):
        engine.submit(asking(model, 3, picture(1, tiles=6)))
    with pytest.raises(QueueFull, match="3 tiles wait and 3 came"):
        engine.submit(asking(model, 4, picture(2, tiles=3)))
    engine.submit(asking(model, 5, picture(3, tiles=2)))
    engine.cancel(first)
    engine.submit(asking(model, 4, picture(2, tiles=3)))
    assert engine.counters().waiting_tiles == 5
    Ear(engine).all()
    assert engine.counters().waiting_tiles == 0


def test_an_engine_takes_on_only_what_it_can():
    for name in ("slots", "max_len", "chunk", "queue", "waiting_tiles", "per_user", "kept_tiles"):
        with pytest.raises(UsageError, match=name):
            EngineConfig(**{name: 0})
    assert engine_of(chat_model(), max_len=1000).max_len == 64, "what the model reads"
    rope = RopeScaling(kind="dynamic", factor=2.0, per_call=True)
    with pytest.raises(UsageError, match="compat='original'"):
        engine_of(shake(ChatModel(replace(chat_config(), text=replace(TEXTS["llama"], rope=rope)))))


# ---- one alone is cancelled, or fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 3, 6, 9])
def test_a_cancelled_request_says_nothing_more_and_its_slots_are_free_at_once(steps):
    """Queued, half looked at, half read, growing: wherever it is."""
    model = roomy()
    engine, other = engine_of(model, slots=3), asking(model, words(4, 3))
    ear, neighbour = Ear(engine), engine.submit(other)
    id = engine.submit(asking(model, words(9, 1), picture(1, tiles=2), words(9, 2), n=2))
    for _ in range(steps):
        ear.step()
    said = len(ear.answers.get((id, 0), ear.answers.get((neighbour, 0))).ids) if (id, 0) in ear.answers else 0
    assert engine.cancel(id)
    assert engine.counters().free >= 2
    assert not engine.cancel(id)
    ear.all()
    assert (len(heard(ear, id).ids) if said else 0) == said
    assert heard(ear, neighbour).ids == alone(model, other).ids


class Sick:
    """A constraint that breaks."""

    finished = False

    def __init__(self, at: str) -> None:
        if at == "birth":
            raise ValueError(at)
        self.at = at

    def allowed(self) -> torch.Tensor:
        if self.at == "allowed":
            raise ValueError(self.at)
        return torch.full((96,), self.at != "nothing")

    def accept(self, token: int) -> None:
        if self.at == "accept":
            raise ValueError(self.at)


@pytest.mark.parametrize("what", ["pixels", "tower", "hidden", "numbers", "birth", "allowed", "accept", "nothing"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_request_that_fails_fails_alone(what, deterministic, monkeypatch):
    model = roomy("llama")  # whose head is not its embedding
    engine = engine_of(model, deterministic=deterministic)
    texts = [[51 if id == 50 else id for id in words(12, seed)] for seed in range(4)]
    good = [asking(model, text, picture(seed), 4, n=1 + seed % 2) for seed, text in enumerate(texts)]
    bad = asking(model, words(3, 9), picture(9), 50, n=2)
    if what == "pixels":
        bad = replace(bad, pictures=[("odd", np.zeros((1, 3, 3, 3), np.uint8))])
    elif what == "tower":
        right = model.image_features
        breaks = [False, False, True]
        monkeypatch.setattr(model, "image_features", lambda x: 1 / 0 if breaks and breaks.pop(0) else right(x))
    elif what == "hidden":
        hidden = model.hidden
        monkeypatch.setattr(model, "hidden", lambda ids, *a, **k: 1 / 0 if 50 in ids else hidden(ids, *a, **k))
    elif what == "numbers":
        model.language_model.model.embed_tokens.weight.data[50] = float("nan")
        good = [replace(request, stop_ids=(50,)) for request in good]
    else:
        bad = replace(bad, constraint=lambda: Sick(what))
    ear = Ear(engine)
    ids = [engine.submit(request) for request in (*good[:2], bad, *good[2:])]
    ear.all()
    assert list(ear.errors) == [ids.pop(2)]
    assert engine.counters().free == 4
    assert engine.counters().failed == 1
    for request, id in zip(good, ids, strict=True):
        for answer in range(request.n):
            assert ear.answers[id, answer].ids == alone(model, request).ids


def test_numbers_that_break_while_an_answer_grows_end_that_answer_alone(monkeypatch):
    model = roomy()
    engine, step = engine_of(model), model.step

    def breaks(tokens, *, cache):
        logits = step(tokens, cache=cache)
        logits[tokens[:, 0] == 77] = float("nan")
        return logits

    monkeypatch.setattr(model, "step", breaks)
    says_77 = Request(ids=words(9, 1), sampling=GREEDY, constraint=lambda: Only(77))
    ear, ids = Ear(engine), [engine.submit(asking(model, words(9, 2))), engine.submit(says_77)]
    ear.all()
    assert list(ear.errors) == ids[1:]
    assert "float32" in str(ear.errors[ids[1]])
    assert len(heard(ear, ids[0]).ids) == 8


def test_a_step_that_raises_is_repeated_row_by_row(monkeypatch):
    model = roomy()
    engine, step = engine_of(model), model.step
    monkeypatch.setattr(model, "step", lambda t, *, cache: 1 / 0 if 77 in t else step(t, cache=cache))
    ear = Ear(engine)
    good = asking(model, words(9, 2))
    ids = [engine.submit(good), engine.submit(Request(ids=[1, 2], sampling=GREEDY, n=2, constraint=lambda: Only(77)))]
    ear.all()
    assert list(ear.errors) == ids[1:]
    assert heard(ear, ids[0]).ids == alone(model, good).ids
    assert engine.counters().free == 4


# ---- constraints -----------------------------------------------------------------------------------------------------


class Only:
    """One token, as often as it likes; with `least`, no end before so many, with `most`, one after so many."""

    def __init__(self, token: int, most: int = 99, stop: int | None = None, width: int = 96) -> None:
        self.token, self.most, self.stop, self.width = token, most, stop, width
        self.said: list[int] = []

    @property
    def finished(self) -> bool:
        return len(self.said) >= self.most

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(self.width, dtype=torch.bool)
        mask[self.token] = True
        if self.stop is not None and len(self.said) >= 2:
            mask[self.token], mask[self.stop] = False, True
        return mask

    def accept(self, token: int) -> None:
        assert token == self.token
        self.said.append(token)


@pytest.mark.parametrize("sampling", [GREEDY, replace(GREEDY, temperature=1.0, top_p=0.5, seed=1)])
def test_an_answer_is_what_its_constraint_allows(sampling):
    """Each answer has a constraint of its own; a head may have more or fewer rows than the constraint has ids."""
    model = roomy()
    request = Request(ids=words(4, 1), sampling=sampling, stop_ids=(5,), n=2)
    wide, narrow = ((lambda w=w: Only(7, stop=5, width=w)) for w in (200, 50))
    ends, never = (lambda: Only(7, most=3)), (lambda: Only(7))
    answers = served(engine_of(model), [replace(request, constraint=one) for one in (wide, narrow, ends, never)])
    for [first, second], ids, finish in zip(
        answers, ([7, 7, 5], [7, 7, 5], [7] * 3, [7] * 8), ["stop"] * 3 + ["length"], strict=True
    ):
        assert first.ids == second.ids == ids
        assert first.finish == second.finish == finish


def test_a_stop_token_is_silent_and_its_minimum_is_kept():
    model = roomy()
    engine = engine_of(model)
    free = alone(model, asking(model, words(4, 1))).ids
    stop = free[3]
    engine.submit(asking(model, words(4, 1), stop_ids=(stop,)))
    events = [event for _ in range(12) for event in engine.step() if isinstance(event, Spoke)]
    expected = free[: free.index(stop) + 1]
    assert [(event.token.id, event.silent) for event in events] == [(id, id == stop) for id in expected]
    late = asking(model, words(4, 1), stop_ids=(stop,), sampling=replace(GREEDY, min_new_tokens=6))
    [[answer]] = served(engine, [late])
    assert answer.ids == alone(model, late).ids
    assert stop not in answer.ids[:6]


def test_a_draft_says_what_contradicts():
    grown = draft.Draft(SamplingConfig(min_new_tokens=2), stop_ids=(5,), constraint=Only(5))
    with pytest.raises(UsageError, match="contradict"):
        grown.choose(torch.zeros(96), 0)
    assert IMAGE < 96
