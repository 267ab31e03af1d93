"""A cached reference is the live one, bit for bit; no reference learns, drops a path or is mixed with another."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from internvl.data.batch import ChatBatch
from internvl.data.packing import collate_chat
from internvl.errors import ConfigError, TrainingError
from internvl.models.chat import ChatModel
from internvl.training.chat_objectives import Preferences
from internvl.training.config import Aim, Learn
from internvl.training.learn import choose
from internvl.training.loop import blank
from internvl.training.lora import without_adapters
from internvl.training.reference import (
    AdapterOffReference,
    CachedReference,
    ModelReference,
    OwnReference,
    Reference,
    fingerprint,
    segment_keys,
)
from internvl.training.world import World
from tests.models.tiny import VISION, chat_config, chat_model, shake
from tests.training.chats import preference

LAID = 5e-7
"""Relative to the largest, between batches of different shapes. Worst seen: 7e-8."""

PAIRS = [
    preference(0, tiles=2),
    preference(1, tiles=0, asked=8, answered=(2, 9)),
    preference(2, tiles=1, answered=(11, 1)),
    preference(3, tiles=1, asked=1, answered=(4, 4)),
]


class Counted:
    """A reference that says how often it was asked."""

    def __init__(self, inner: Reference) -> None:
        self.inner, self.asked = inner, 0

    def logprobs(self, model: nn.Module, batch: ChatBatch) -> Tensor:
        self.asked += 1
        return self.inner.logprobs(model, batch)


class Never:
    def logprobs(self, model: nn.Module, batch: ChatBatch) -> Tensor:
        raise AssertionError("everything was known")


def packed(*which: int) -> ChatBatch:
    return collate_chat([PAIRS[at] for at in which], packed=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "reference"


def bits(tensor: Tensor) -> list[int]:
    return tensor.view(torch.int32).tolist()


# ---- live ------------------------------------------------------------------------------------------------------------


def test_a_second_model_does_not_learn_and_drops_nothing():
    other = dropping().train()
    reference = ModelReference(other)
    first, again = (reference.logprobs(chat_model(), packed(0, 1)) for _ in range(2))
    assert bits(first) == bits(again)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in other.parameters())


def dropping() -> ChatModel:
    """Its tower drops paths while it trains."""
    return shake(ChatModel(replace(chat_config(), vision=replace(VISION, drop_path=0.9))))


def test_adapters_off():
    """The same as a second model, with nothing dropped; afterwards every part is as it was."""
    model, begun = dropping(), dropping()

    @contextmanager
    def off(learner: nn.Module) -> Iterator[None]:
        learnt = {name: parameter.detach().clone() for name, parameter in learner.named_parameters()}
        learner.load_state_dict(begun.state_dict())
        yield
        learner.load_state_dict(learnt)

    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter += 0.1
    model.train()
    model.mlp1.eval()
    flags = [module.training for module in model.modules()]
    model.requires_grad_(False)
    told = AdapterOffReference(off).logprobs(model, packed(0, 2))
    assert bits(told) == bits(ModelReference(begun).logprobs(model, packed(0, 2)))
    assert [module.training for module in model.modules()] == flags
    assert not told.requires_grad


# ---- on disk ---------------------------------------------------------------------------------------------------------


def test_cached_is_live(folder):
    """Bit for bit for a batch of the same shape: loss, metrics and gradients too; and after reading it again."""
    live = Counted(ModelReference(chat_model(seed=1)))
    batch = packed(0, 1, 2)

    def learnt(reference: Reference) -> list[Tensor]:
        model = chat_model()
        objective = Preferences(Aim(kind="mpo"), reference)
        loss = objective.loss(model, batch, objective.totals(batch))
        loss.value.backward()
        return [loss.value, *loss.metrics.values(), *(p.grad for p in model.parameters() if p.grad is not None)]

    wanted = learnt(live)
    cached = CachedReference(folder, identity="a", live=live)
    assert live.asked == 1
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(learnt(cached), wanted, strict=True))
    assert live.asked == 2
    for others in (Never(), None):
        again = CachedReference(folder, identity="a", live=others)
        assert all(torch.equal(a, b) for a, b in zip(learnt(again), wanted, strict=True))
    assert len(cached) == len(CachedReference(folder, identity="a")) == 6


def test_in_another_batch_it_is_the_measured_difference(folder):
    model, live = chat_model(), ModelReference(chat_model(seed=1))
    cached = CachedReference(folder, identity="a")
    assert cached.fill(model, [packed(0, 1), packed(2, 3)], live) == 8
    for batch in (packed(3, 1, 0, 2), collate_chat(PAIRS, packed=False)):
        told, wanted = cached.logprobs(model, batch), live.logprobs(model, batch)
        assert (told - wanted).abs().max().item() < LAID * wanted.abs().max().item()


def test_before_the_first_step_the_model_fills_its_own_cache(folder):
    """So that a full fine-tune needs no second model in memory; then it learns, and the cache stays what it was."""
    model, batch = chat_model().train(), packed(0, 1)
    wanted = ModelReference(chat_model()).logprobs(model, batch)
    cached = CachedReference(folder, identity="a")
    assert cached.fill(model, [batch, batch], OwnReference()) == 4
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    assert bits(cached.logprobs(model, batch)) == bits(wanted)
    assert cached.fill(model, [], Never()) == 4


def test_adapters_switched_off_are_the_model_that_training_began_with():
    model = chat_model()
    wanted = ModelReference(chat_model()).logprobs(model, packed(0, 1))
    choose(model, Learn(language_lora=4, vision_lora=2, lora_dropout=0.5, projector=False))
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    told = AdapterOffReference(without_adapters).logprobs(model, packed(0, 1))
    assert bits(told) == bits(wanted)
    assert (ModelReference(model).logprobs(model, packed(0, 1)) - wanted).abs().max() > 1


def test_adapters_off_is_refused_where_more_than_adapters_learns():
    model = chat_model()
    choose(model, Learn(language_lora=4, vision=False))
    with pytest.raises(ConfigError, match=r"6 parameters that are no adapters learn too, the first mlp1\.0\.weight"):
        AdapterOffReference(without_adapters).logprobs(model, packed(0, 1))


def test_only_what_is_missing_is_computed(folder):
    live = Counted(ModelReference(chat_model(seed=1)))
    cached, model = CachedReference(folder, identity="a", live=live), chat_model()
    first = cached.logprobs(model, packed(0, 1))
    grown = cached.logprobs(model, packed(0, 1, 2))
    assert bits(grown[:4]) == bits(first)
    cached.logprobs(model, packed(2, 0))
    assert live.asked == 2


def test_what_is_not_known_is_an_error_that_names_it(folder):
    cached = CachedReference(folder, identity="a")
    cached.fill(chat_model(), [packed(0)], ModelReference(chat_model(seed=1)))
    with pytest.raises(TrainingError, match=r"4 of 6 answers of the samples 2, 0, 3 are not in the reference cache"):
        cached.logprobs(chat_model(), packed(2, 0, 3))


@pytest.mark.parametrize("laid", [True, False], ids=["packed", "padded"])
def test_a_segment_without_targets_is_worth_nothing_and_not_looked_up(folder, laid):
    batch = collate_chat([PAIRS[0], PAIRS[2]], packed=laid)
    live = ModelReference(chat_model(seed=1))
    cached = CachedReference(folder, identity="a", live=Never())
    assert (
        bits(cached.logprobs(chat_model(), blank(batch))) == bits(live.logprobs(chat_model(), blank(batch))) == [0] * 4
    )
    assert len(cached) == 0
    assert segment_keys(blank(batch), chat_model()) == [None] * 4
    targets = batch.targets.clone()  # of the first answer nothing is learnt, as of a pair that is shown for the other
    targets[0, : batch.lengths[0] if laid else None] = -100
    told = CachedReference(folder, identity="a", live=live).logprobs(chat_model(), replace(batch, targets=targets))
    assert told[0] == 0
    assert all(told[1:] < 0)
    assert len(CachedReference(folder, identity="a")) == 3


def test_filling_is_left_between_batches_and_taken_up_again(folder):
    model, live = chat_model(), Counted(ModelReference(chat_model(seed=1)))
    cached = CachedReference(folder, identity="a")
    assert cached.fill(model, [packed(0), packed(1), packed(2)], live, stop=lambda: live.asked == 2) is None
    assert (len(cached), live.asked, cached.live) == (4, 2, None)
    again = CachedReference(folder, identity="a")
    assert not again.covers("three batches")
    assert again.fill(model, [packed(0), packed(1), packed(2)], live, stop=lambda: False) == 6
    assert live.asked == 3
    again.cover("three batches")
    third = CachedReference(folder, identity="a")
    assert third.covers("three batches")
    assert not third.covers("four batches")
    assert not CachedReference(folder, identity="b").covers("three batches")


def test_every_difference_makes_another_key():
    model, batch = chat_model(), packed(0, 2)
    keys = segment_keys(batch, model)
    assert len(set(keys)) == 4
    assert segment_keys(collate_chat([PAIRS[0], PAIRS[2]], packed=False), model) == keys
    tiles = batch.tiles.clone()
    tiles[1, 0, 0, 0] ^= 1  # of the first pair
    ids, targets = batch.input_ids.clone(), batch.targets.clone()
    ids[0, -1] ^= 1  # of the last answer
    targets[0, -1] = -100
    for changed, which in (
        (replace(batch, tiles=tiles), {0, 1}),
        (replace(batch, input_ids=ids), {3}),
        (replace(batch, targets=targets), {3}),
    ):
        told = segment_keys(changed, model)
        assert {at for at in range(4) if told[at] != keys[at]} == which


def test_two_references_never_mix(folder):
    model = chat_model()
    first, second = ModelReference(chat_model(seed=1)), ModelReference(chat_model(seed=2))
    names = [fingerprint(reference.reference) for reference in (first, second)]
    assert len({*names, fingerprint(chat_model(seed=1))}) == 2
    for name, live in zip(names, (first, second), strict=True):
        told = CachedReference(folder, identity=name, live=live).logprobs(model, packed(0))
        assert bits(told) == bits(live.logprobs(model, packed(0)))


@pytest.mark.parametrize("torn", [1, 23, 24, 25, 47])
def test_a_torn_end_is_forgotten_and_written_again(folder, torn):
    model, live = chat_model(), Counted(ModelReference(chat_model(seed=1)))
    wanted = CachedReference(folder, identity="a", live=live).logprobs(model, packed(0, 1))
    [file] = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-torn])
    again = CachedReference(folder, identity="a", live=live)
    assert len(again) == 4 - math.ceil(torn / 24)
    assert bits(again.logprobs(model, packed(0, 1))) == bits(wanted)
    assert live.asked == 2
    assert bits(CachedReference(folder, identity="a", live=Never()).logprobs(model, packed(0, 1))) == bits(wanted)


def test_zeros_after_a_power_cut_are_not_numbers(folder):
    model, live = chat_model(), ModelReference(chat_model(seed=1))
    wanted = CachedReference(folder, identity="a", live=live).logprobs(model, packed(0))
    [file] = folder.iterdir()
    file.write_bytes(file.read_bytes() + bytes(48))
    again = CachedReference(folder, identity="a", live=live)
    assert len(again) == 2
    assert bits(again.logprobs(model, packed(0))) == bits(wanted)


def test_ranks_write_apart_and_read_together(folder, monkeypatch):
    """Each rank has a file of its own; the next run, of whatever many ranks, knows them all."""
    monkeypatch.setattr(World, "gather_json", lambda self, value: [value] * self.size)
    model, live = chat_model(), ModelReference(chat_model(seed=1))
    for rank in range(2):
        world = World(rank=rank, size=2)
        CachedReference(folder, identity="a", live=live, world=world).logprobs(model, packed(rank))
    assert len(list(folder.iterdir())) == 2
    together = CachedReference(folder, identity="a", live=Never())
    assert bits(together.logprobs(model, packed(0))) == bits(live.logprobs(model, packed(0)))
    assert bits(together.logprobs(model, packed(1))) == bits(live.logprobs(model, packed(1)))


def test_a_rank_that_knows_everything_computes_with_one_that_does_not(folder, monkeypatch):
    """A sharded reference needs all ranks; what was known stays as it was."""
    model, live = chat_model(), Counted(ModelReference(chat_model(seed=1)))
    cached = CachedReference(folder, identity="a", live=live)
    wanted = cached.logprobs(model, packed(0))
    monkeypatch.setattr(World, "any", lambda self, flag: True)
    assert bits(cached.logprobs(model, packed(0))) == bits(wanted)
    assert live.asked == 2
    assert len(cached) == len(CachedReference(folder, identity="a")) == 2
