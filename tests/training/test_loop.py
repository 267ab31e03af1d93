"""The loop: steps are exact however they are divided, and what cannot be learnt from is said."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from internvl.data.batch import Batch, ChatBatch, PreparedChat, Segment
from internvl.data.packing import collate_chat
from internvl.errors import DataError, TrainingError
from internvl.training.chat_objectives import Sft
from internvl.training.config import Aim, Optim
from internvl.training.loop import Step, Trainer, blank, held_out_loss, seed_step, steps
from internvl.training.optim import adamw, scaler_for
from tests.models.tiny import IMAGE
from tests.training.steps import tiny

PLAIN = Optim(lr=1e-3, schedule="constant", warmup=0.0, eps=1e-4)


def sample(number: int, *, learnt: bool = True) -> PreparedChat:
    """Even ones have a picture, odd ones are text alone; lengths differ."""
    draw = np.random.default_rng(number)
    ids = draw.integers(5, 60, 10 + 3 * (number % 4))
    if number % 2 == 0:
        ids[1:5] = IMAGE
    targets = np.where(np.arange(len(ids)) < 6, -100, ids) if learnt else np.full(len(ids), -100)
    tiles = draw.integers(0, 256, (1 - number % 2, 56, 56, 3), dtype=np.uint8)
    return PreparedChat(number, 0, (Segment(ids, targets),), tiles)


def pack(*numbers: int) -> ChatBatch:
    return collate_chat([sample(number) for number in numbers], packed=True)


def trainer(*, accumulate: int = 1, optim: Optim = PLAIN, dtype: str = "fp32", drop: float = 0.0) -> Trainer:
    model = tiny(drop=drop)
    return Trainer(
        model=model, objective=Sft(Aim(kind="sft")), optimizer=adamw(model, optim), optim=optim,
        scaler=scaler_for(dtype), dtype=dtype, accumulate=accumulate, seed=1,
    )  # fmt: skip


def ran(trainer: Trainer, batches: Sequence[Batch]) -> list[Step]:
    return list(steps(trainer, iter(batches), lambda step: step / 10))


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_accumulated_is_at_once():
    at_once, accumulated = trainer(), trainer(accumulate=3)
    one = ran(at_once, [pack(0, 1, 2, 3, 4)] * 2)
    three = ran(accumulated, [pack(0, 1), pack(2), pack(3, 4)] * 2)
    assert [step.learnt for step in one] == [step.learnt for step in three]
    for a, b in zip(one, three, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-6)
        assert a.norm == pytest.approx(b.norm, rel=1e-5)
    assert float((weights(at_once) - weights(accumulated)).abs().max()) < 3e-5  # 2.1e-6 was the most seen


def test_micro_batches_of_unequal_weight_count_by_it():
    """A mean of means would give the few tokens of one micro-batch the weight of the many of the other."""
    found = ran(trainer(accumulate=2), [pack(0, 1, 2, 3), pack(4)])
    whole = ran(trainer(), [pack(0, 1, 2, 3, 4)])
    assert found[0].loss == pytest.approx(whole[0].loss, rel=1e-6)


def test_a_last_step_with_fewer_micro_batches_is_exact_too():
    found = ran(trainer(accumulate=3), [pack(0, 1), pack(2)])
    whole = ran(trainer(), [pack(0, 1, 2)])
    assert [step.samples for step in found] == [3]
    assert (found[0].tokens, found[0].tiles) == (whole[0].tokens, whole[0].tiles)
    assert found[0].loss == pytest.approx(whole[0].loss, rel=1e-6)


def test_a_step_says_what_it_did():
    [step] = ran(trainer(), [pack(0, 1, 2)])
    batch = pack(0, 1, 2)
    assert (step.number, step.samples, step.tokens, step.tiles) == (1, 3, batch.tokens, 2)
    assert step.learnt == batch.learnt
    assert step.seconds >= step.waited >= 0
    assert step.memory > 0


def test_random_numbers_follow_from_seed_step_and_rank():
    seed_step(1, 2, 3)
    first = torch.rand(4)
    seed_step(1, 2, 3)
    assert torch.equal(torch.rand(4), first)
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        seed_step(*other)
        assert not torch.equal(torch.rand(4), first)


def test_a_run_that_begins_at_a_later_step_drops_the_same_paths():
    whole = trainer(drop=0.5)
    losses = [step.loss for step in ran(whole, [pack(0, 2)] * 3)]
    again = trainer(drop=0.5)
    first = ran(again, [pack(0, 2)])
    torch.rand(100)  # whatever happens between: an evaluation, a save
    rest = ran(again, [pack(0, 2)] * 2)
    assert [step.loss for step in (*first, *rest)] == losses
    assert torch.equal(weights(whole), weights(again))


def test_nothing_to_learn_is_an_error_that_says_what_to_do():
    masked = collate_chat([sample(0, learnt=False)], packed=True)
    with pytest.raises(DataError, match=r"step 1 has no trained token.*internvl lint"):
        ran(trainer(), [masked])


def test_steps_that_are_not_finite_leave_the_weights_and_end_the_run():
    broken = trainer()
    with torch.no_grad():
        broken.model.mlp1[1].weight[0, 0] = float("nan")
    before = weights(broken)
    seen = []

    def go() -> Iterator[Step]:
        yield from steps(broken, iter([pack(0)] * 9), lambda step: step / 10)

    with pytest.raises(TrainingError, match="3 steps in a row"):
        seen.extend(go())
    assert torch.equal(weights(broken).nan_to_num(), before.nan_to_num())


def test_one_step_that_is_not_finite_is_passed_over():
    one = trainer()
    normal = one.objective.loss

    def poisoned(model, batch, totals):
        loss = normal(model, batch, totals)
        return replace(loss, value=loss.value * float("inf")) if one.number == 2 else loss

    one.objective.loss = poisoned
    assert [step.skipped for step in ran(one, [pack(0, 1)] * 4)] == [False, True, False, False]


def test_fp16_scales_the_loss_and_not_the_step():
    half, full = trainer(dtype="fp16"), trainer()
    assert half.scaler.scale == 2**16
    a, b = ran(half, [pack(0, 1, 2)])[0], ran(full, [pack(0, 1, 2)])[0]
    assert not a.skipped
    assert a.loss == pytest.approx(b.loss, rel=5e-3)  # 4.5e-4 was seen
    assert a.norm == pytest.approx(b.norm, rel=2e-2)


def test_held_out_rows_teach_nothing_and_are_averaged_over_all_tokens():
    one = trainer(accumulate=1)
    before = weights(one)
    apart = held_out_loss(one, lambda: iter([pack(0, 1), pack(2), pack(3, 4)]))
    together = held_out_loss(one, lambda: iter([pack(0, 1, 2, 3, 4)]))
    assert apart["loss"] == pytest.approx(together["loss"], rel=1e-6)
    assert torch.equal(weights(one), before)
    assert one.model.training


def test_a_blank_batch_teaches_nothing():
    one = trainer()
    empty = blank(pack(0, 1))
    assert one.objective.totals(empty) == dict.fromkeys(one.objective.totals(pack(0, 1)), 0.0)
    loss = one.objective.loss(one.model, empty, one.objective.totals(pack(0, 1)))
    loss.value.backward()
    assert float(loss.value.detach()) == 0.0
    assert all(p.grad is None or not p.grad.abs().max() for p in one.model.parameters())
