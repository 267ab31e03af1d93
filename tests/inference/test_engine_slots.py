"""What slots hold is taken up again: the same answers as without, fewer tokens read; and planted faults are caught."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from internvl.inference import engine as engines
from internvl.inference import slots as slots_of
from internvl.inference.sampling import SamplingConfig
from internvl.inference.schedule import Looking
from internvl.inference.slots import Slot, Slots, SomeRows
from internvl.models.attention import KVCache
from tests.inference.serving import (
    EPSILON,
    GREEDY,
    Ear,
    Heard,
    alone,
    asking,
    engine_of,
    farthest,
    picture,
    roomy,
    served,
    words,
)
from tests.models.tiny import random_ids


def settle(ear: Ear) -> None:
    ear.all()


def assert_right(model, request, heard: Heard, *, reused: int | None = None) -> None:
    assert farthest(heard, alone(model, request)) < EPSILON
    if reused is not None:
        assert heard.reused == reused


def test_the_next_turn_reads_only_what_is_new():
    model = roomy()
    engine, first = engine_of(model), asking(model, words(4, 1), picture(1, tiles=2), words(5, 2))
    [[said]] = served(engine, [first])
    second = asking(model, words(4, 1), picture(1, tiles=2), words(5, 2), said.ids, words(6, 3))
    [[then]] = served(engine, [second])
    assert_right(model, second, then, reused=len(first.ids) + len(said.ids) - 1)
    assert engine.counters().read == len(first.ids) + 1 + 6, "an answer's last token is read with the next question"
    assert engine.counters().picture_misses == 1


def test_nothing_is_taken_up_where_it_is_not_to_be():
    model = roomy()
    engine, request = engine_of(model, reuse=False), asking(model, words(30, 1))
    for [heard] in served(engine, [request] * 3, between=Ear.step):
        assert_right(model, request, heard, reused=0)
    assert engine.counters().read == 3 * len(request.ids)


def test_what_a_request_in_flight_reused_can_be_asked():
    model = roomy()
    engine, request = engine_of(model), asking(model, words(30, 1))
    served(engine, [request])
    id = engine.submit(request)
    assert engine.reused(id) == 0, "it has no slot yet"
    engine.step()
    assert engine.reused(id) == len(request.ids) - 1
    Ear(engine).all()
    assert engine.reused(id) == 0, "it is over"


def test_another_picture_in_the_same_place_is_another_prompt():
    model = roomy()
    engine = engine_of(model)
    prompts = [asking(model, words(4, 1), picture(seed), words(5, 2)) for seed in (1, 2, 1)]
    answers = served(engine, prompts, between=settle)
    for request, [heard], reused in zip(prompts, answers, (0, 4, 12), strict=True):
        assert_right(model, request, heard, reused=reused)


def test_a_picture_that_was_read_in_part_is_read_again():
    model = roomy()
    engine = engine_of(model, chunk=6)
    request = asking(model, words(4, 1), picture(1, tiles=2), words(5, 2))
    ear, id = Ear(engine), engine.submit(request)
    while engine.counters().read == 0:
        ear.step()
    engine.cancel(id)
    assert len(engine._slots.all[0].keys) == 6, "two of the eight slots of the picture"
    [[heard]] = served(engine, [request])
    assert_right(model, request, heard, reused=4)


def test_what_a_running_slot_holds_is_copied():
    model = roomy()
    engine, long = engine_of(model, chunk=32), SamplingConfig(max_new_tokens=40)
    one, two = (asking(model, words(20, 1), words(4, seed), sampling=long) for seed in (2, 3))
    [first], [second] = served(engine, [one, two])
    assert_right(model, one, first, reused=0)
    assert_right(model, two, second, reused=20)


def test_who_asks_the_same_at_the_same_time_waits_for_it_to_be_read():
    model = roomy()
    engine = engine_of(model)
    requests = [asking(model, words(3, 1), picture(5, tiles=4), words(3, seed)) for seed in (2, 3, 4)]
    answers = served(engine, requests, between=lambda ear: None)
    assert [heard.reused for [heard] in answers] == [0, 19, 19]
    assert engine.counters().picture_misses == 1
    for request, [heard] in zip(requests, answers, strict=True):
        assert_right(model, request, heard)


def test_who_waits_for_another_does_not_hold_up_a_third():
    model = roomy()
    engine = engine_of(model)
    slow = [asking(model, words(3, 1), picture(5, tiles=8), words(3, seed), user="a") for seed in (2, 3)]
    hello = asking(model, words(4, 7), user="b")
    ear, ids = Ear(engine), [engine.submit(request) for request in (*slow, hello)]
    ear.all()
    first, second, third = (ear.answers[id, 0].first_step for id in ids)
    assert third < first < second
    assert third <= 3


def test_a_common_beginning_does_not_cost_another_conversation_its_slot():
    model = roomy()
    engine = engine_of(model)
    system, long = words(5, 1), words(30, 2)
    served(engine, [asking(model, system, long), asking(model, system, 7)], between=settle)
    [[heard]] = served(engine, [asking(model, system, long, 9)])
    assert heard.reused >= 35, "the second question was copied elsewhere, though it begins as the first does"


def test_the_slot_that_nobody_asked_for_longest_goes_first():
    model = roomy()
    engine = engine_of(model, slots=2)
    a, b, c = (asking(model, words(9, seed)) for seed in (1, 2, 3))
    served(engine, [a, b, a, c], between=settle)
    assert [heard.reused for [heard] in served(engine, [a, b], between=settle)] == [8, 0]


def test_rope_that_depends_on_length_keeps_nothing_of_longer_prompts():
    model = roomy("internlm2")  # stretched beyond 6 tokens
    engine = engine_of(model)
    requests = [asking(model, random_ids(count, seed=1).tolist()) for count in (4, 5, 9, 12)]
    answers = served(engine, requests, between=settle)
    assert [heard.reused for [heard] in answers] == [0, 4, 0, 0]
    for request, [heard] in zip(requests, answers, strict=True):
        assert_right(model, request, heard)


@pytest.mark.parametrize("text", ["qwen2", "qwen3-moe"])
def test_deterministic_reuse_is_of_whole_chunks_and_to_the_last_bit(text):
    model = roomy(text)
    first = asking(model, words(9, 1), picture(1), words(14, 2))
    second = asking(model, words(9, 1), picture(1), words(14, 2), words(9, 3))
    fresh = [served(engine_of(model, deterministic=True), [request])[0][0] for request in (first, second)]
    engine = engine_of(model, deterministic=True)
    served(engine, [asking(model, 3)])
    again = served(engine, [first, second, first], between=settle)
    assert [heard.reused for [heard] in again] == [0, 21, 21]
    assert [heard.tokens for [heard] in again] == [fresh[0].tokens, fresh[1].tokens, fresh[0].tokens]
    inside = served(engine, [asking(model, words(9, 1), picture(1), 5)])
    assert inside[0][0].reused == 7, "14 would cut the picture"


@torch.inference_mode()
@pytest.mark.parametrize("chosen", [(0, 1), (2,), (0, 2), (2, 0)])
def test_some_rows_are_a_cache_of_their_own(chosen):
    model = roomy()
    slots, lengths = Slots(model, 3, 40), (5, 9, 2)
    whole = [KVCache(model.config.text, 1, 40) for _ in range(3)]
    for slot, length, cache in zip(slots.all, lengths, whole, strict=True):
        ids = random_ids(1, length, seed=length)
        model.prefill(ids, cache=cache)
        model.prefill(ids, cache=SomeRows(slots.cache, [slot]))
        slot.keys, slot.started = ids[0].tolist(), length
    before = [tensor.clone() for tensor in slots.cache.keys]
    tokens = random_ids(len(chosen), 1, seed=9)
    ours = model.step(tokens, cache=SomeRows(slots.cache, [slots.all[i] for i in chosen]))
    theirs = torch.cat([model.step(tokens[row : row + 1], cache=whole[i]) for row, i in enumerate(chosen)])
    assert (ours - theirs).abs().max() < EPSILON
    for tensor, old in zip(slots.cache.keys, before, strict=True):
        changed = (tensor != old).any(dim=(1, 3)).nonzero().tolist()
        assert changed == sorted([i, lengths[i]] for i in chosen), "one place of each row, and no other"


# ---- planted faults --------------------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def takes_over_one_token_too_many(patch: pytest.MonkeyPatch) -> None:
    right = slots_of.shared_prefix
    patch.setattr(slots_of, "shared_prefix", lambda keys, held: min(right(keys, held) + 1, len(keys) - 1, len(held)))


def does_not_cut_a_slot(patch: pytest.MonkeyPatch) -> None:
    def occupy(self, slot, keys, *, started, exact):
        slot.keys = [*keys, *slot.keys[len(keys) :]]
        slot.started, slot.exact, slot.free = started, exact, False

    patch.setattr(Slots, "_occupy", occupy)


def copies_a_token_too_few(patch: pytest.MonkeyPatch) -> None:
    right = Slots._copy
    patch.setattr(Slots, "_copy", lambda self, source, target, tokens: right(self, source, target, tokens - 1))


def takes_all_pictures_for_the_same(patch: pytest.MonkeyPatch) -> None:
    right = engines.keys_of

    def keys_of(*args):
        return [("", key[1]) if isinstance(key, tuple) else key for key in right(*args)]

    patch.setattr(engines, "keys_of", keys_of)


def fills_slots_from_one_too_early(patch: pytest.MonkeyPatch) -> None:
    right = Looking.fill

    def fill(self, start, stop):
        shift = 1 if start else 0
        return right(self, start - shift, stop - shift)

    patch.setattr(Looking, "fill", fill)


def chooses_rope_by_the_first_chunk(patch: pytest.MonkeyPatch) -> None:
    right = Slots.take

    def take(self, keys):
        slot, common = right(self, keys)
        slot.started = min(slot.started, 7)
        return slot, common

    patch.setattr(Slots, "take", take)


def lets_idle_rows_write_where_they_like(patch: pytest.MonkeyPatch) -> None:
    right = SomeRows.__init__

    def init(self, cache, slots, *, whole=False):
        right(self, cache, [replace(slot, keys=[]) if slot.free and whole else slot for slot in slots], whole=whole)

    patch.setattr(SomeRows, "__init__", init)


def forgets_a_failed_slot_without_erasing_it(patch: pytest.MonkeyPatch) -> None:
    def wipe(self, slot: Slot) -> None:
        slot.keys, slot.exact, slot.started = [], 0, 0

    patch.setattr(Slots, "wipe", wipe)


def talk(deterministic: bool = False) -> None:
    """Conversations that share, continue, overlap and fail; every answer must be what it is alone."""
    for text in ("qwen2", "internlm2"):
        model = roomy(text)
        engine = engine_of(model, slots=3, deterministic=deterministic)
        start = words(9, 1)
        requests = [
            asking(model, start, picture(1, tiles=2), words(8, 2)),
            asking(model, start, picture(2, tiles=2), words(8, 2)),
            asking(model, start, picture(1, tiles=2), words(8, 2), n=2),
            asking(model, start, words(3, 4)),
            asking(model, start, words(20, 4), sampling=replace(GREEDY, max_new_tokens=20)),
            asking(model, start, picture(1, tiles=2), words(3, 5)),
        ]
        for between in (Ear.step, settle):
            for request, answers in zip(requests, served(engine, requests, between), strict=True):
                for heard in answers:
                    assert_right(model, request, heard)


def fall_ill() -> None:
    """After a request whose numbers break, its slot serves others, shorter ones than their neighbours too."""
    model = roomy()
    engine = engine_of(model, slots=2)
    embedding = model.language_model.model.embed_tokens.weight
    good = embedding[50].clone()
    embedding.data[50] = float("nan")
    ear = Ear(engine)
    engine.submit(asking(model, [1, 2, 3, 50, 4, 5]))
    ear.all()
    assert list(ear.errors) == [0]
    embedding.data[50] = good
    requests = [asking(model, words(20, 1)), asking(model, [6])]
    for request, [heard] in zip(requests, served(engine, requests, between=lambda ear: None), strict=True):
        assert_right(model, request, heard)


FAULTS: list[tuple[Plant, Callable[[], None]]] = [
    (takes_over_one_token_too_many, talk),
    (does_not_cut_a_slot, talk),
    (copies_a_token_too_few, talk),
    (takes_all_pictures_for_the_same, talk),
    (fills_slots_from_one_too_early, talk),
    (chooses_rope_by_the_first_chunk, talk),
    (lets_idle_rows_write_where_they_like, lambda: talk(deterministic=True)),
    (forgets_a_failed_slot_without_erasing_it, fall_ill),
]


@pytest.mark.parametrize("check", [talk, lambda: talk(deterministic=True), fall_ill], ids=["talk", "steady", "ill"])
def test_all_is_well_without_faults(check):
    check()


@pytest.mark.parametrize(("plant", "check"), FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_a_planted_fault_is_caught(plant, check, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()
