"""SFT, DPO and MPO of whole models are the original's, and do not depend on how samples are laid out or divided."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from internvl.data.batch import ChatBatch, LabelBatch, PreparedChat, Segment
from internvl.data.image import tile, to_rgb
from internvl.data.packing import collate_chat
from internvl.errors import ConfigError, UsageError
from internvl.models.chat import ChatModel
from internvl.training.chat_objectives import Preferences, Sft
from internvl.training.config import Aim
from internvl.training.objective import Objective
from internvl.training.objectives import RunningMean
from internvl.training.reference import ModelReference
from internvl.training.world import World
from internvl.weights.load import load
from tests.conftest import golden, golden_names
from tests.models.tiny import chat_model
from tests.training.chats import conversation, preference

LOSSES = 1e-6
"""Relative. Worst seen: 1.9e-7."""
GRADIENTS = 1.5e-5
"""Relative to the largest gradient of a parameter, or to a millionth of all. Worst seen: 1.9e-6."""
GOLDEN_LOSSES = 2e-6
"""Relative, of losses and log-probabilities. Worst seen: 2.4e-7."""
GOLDEN_DELTAS = 5e-6
"""Absolute, of rewards and delta: a tenth of differences of sums near 100. Worst seen: 9.6e-7."""
GOLDEN_NORMS = 5e-6
"""Relative. Worst seen: 5.5e-7."""


# ---- one step, however it is divided ---------------------------------------------------------------------------------


def step(objective: Objective, model: nn.Module, batches: Sequence[ChatBatch]) -> tuple[float, dict[str, float]]:
    """What the loop does: totals of all micro-batches, then each forward and backward. Loss and metrics."""
    model.zero_grad(set_to_none=True)
    totals: dict[str, float] = {}
    for batch in batches:
        for name, value in objective.totals(batch).items():
            totals[name] = totals.get(name, 0.0) + value
    whole, metrics = 0.0, dict[str, float]()
    for batch in batches:
        loss = objective.loss(model, batch, totals)
        loss.value.backward()
        whole += float(loss.value.detach())
        for name, value in loss.metrics.items():
            assert not value.requires_grad
            metrics[name] = metrics.get(name, 0.0) + float(value)
    return whole, metrics


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def far(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The worst difference of any gradient, relative to its largest value."""
    assert ours.keys() == theirs.keys()
    least = 1e-6 * max(float(grad.abs().max()) for grad in theirs.values())
    return max(
        float((ours[name] - grad).abs().max() / max(float(grad.abs().max()), least)) for name, grad in theirs.items()
    )


def same(objective: Objective, model: nn.Module, one: Sequence[ChatBatch], other: Sequence[ChatBatch]) -> None:
    """Two ways to lay out and divide the same samples give one loss, the same metrics and the same gradients."""
    before = objective.state()
    loss, metrics = step(objective, model, one)
    wanted = gradients(model)
    objective.restore(before)
    again, also = step(objective, model, other)
    assert abs(again - loss) < LOSSES * abs(loss)
    assert metrics.keys() == also.keys()
    for name, value in metrics.items():
        assert abs(also[name] - value) < LOSSES * max(abs(value), 10.0), name  # rewards are small differences
    assert far(gradients(model), wanted) < GRADIENTS


def batches(samples: Sequence[PreparedChat], cuts: Sequence[int], **how: object) -> list[ChatBatch]:
    """The samples in micro-batches that end at the cuts."""
    ends = sorted({0, len(samples), *(cut % len(samples) for cut in cuts)})
    return [collate_chat(samples[a:b], **how) for a, b in pairwise(ends)]  # type: ignore[arg-type]


TALKS = [
    conversation(0, tiles=2, answered=7),
    conversation(1, tiles=0, asked=9, answered=1),
    conversation(2, tiles=1, answered=12),
    conversation(3, tiles=0, answered=4),
    conversation(4, tiles=1, asked=2, answered=3),
]
PAIRS = [
    preference(0, tiles=2),
    preference(1, tiles=0, asked=8, answered=(2, 9)),
    preference(2, tiles=1, answered=(11, 1)),
    preference(3, tiles=1, asked=1, answered=(4, 4)),
]
SOME_CUTS = st.lists(st.integers(0, 100), max_size=4)


@cache
def learner() -> ChatModel:
    return chat_model()


@cache
def preferences(kind: str = "mpo", **aim: float) -> Preferences:
    return Preferences(Aim(kind=kind, **aim), ModelReference(chat_model(seed=1)))  # type: ignore[arg-type]


@settings(max_examples=5)
@given(SOME_CUTS, SOME_CUTS, st.permutations(range(len(TALKS))), st.booleans())
@pytest.mark.parametrize("weighting", ["token", "sample", "square"])
def test_sft_does_not_depend_on_how_a_step_is_divided(weighting, cuts, others, order, packed):
    """Accumulated = at once, packed = padded, and the order of samples does not matter."""
    one = batches(TALKS, cuts, packed=True, weighting=weighting)
    other = batches([TALKS[at] for at in order], others, packed=packed, weighting=weighting)
    same(Sft(Aim(weighting=weighting)), learner(), one, other)


@settings(max_examples=5)
@given(SOME_CUTS, SOME_CUTS, st.permutations(range(len(PAIRS))), st.booleans())
@pytest.mark.parametrize("kind", ["dpo", "mpo"])
def test_preferences_do_not_depend_on_how_a_step_is_divided(kind, cuts, others, order, packed):
    """But for delta, which is moved once a micro-batch: without BCO here, with it below."""
    objective = preferences(kind, quality=0.0, label_smoothing=0.1)
    one = batches(PAIRS, cuts, packed=True)
    other = batches([PAIRS[at] for at in order], others, packed=packed)
    same(objective, learner(), one, other)


@pytest.mark.parametrize("weighting", ["token", "square"])
def test_mpo_packed_is_padded(weighting):
    objective = Preferences(Aim(kind="mpo", weighting=weighting), ModelReference(chat_model(seed=1)))
    packed, padded = (batches(PAIRS, (), packed=packed, weighting=weighting) for packed in (True, False))
    same(objective, learner(), packed, padded)


def test_weights_say_what_a_sample_counts():
    """`sample`: the mean of the means of all samples; `token`: the mean of all tokens."""
    model = learner()
    alone = [step(Sft(Aim()), model, batches([talk], (), packed=True))[0] for talk in TALKS]
    counts = [talk.segments[0].learnt for talk in TALKS]
    for weighting, weights in {
        "token": counts,
        "sample": [1.0] * len(TALKS),
        "square": [count**0.5 for count in counts],
    }.items():
        loss, metrics = step(Sft(Aim()), model, batches(TALKS, (2,), packed=True, weighting=weighting))
        wanted = sum(w * each for w, each in zip(weights, alone, strict=True)) / sum(weights)
        assert loss == pytest.approx(wanted, rel=LOSSES)
        tokens = sum(n * each for n, each in zip(counts, alone, strict=True)) / sum(counts)
        assert metrics["nll"] == pytest.approx(tokens, rel=LOSSES)


def test_a_batch_that_weighs_nothing_moves_nothing():
    model = chat_model()
    for objective, samples in ((Sft(Aim()), TALKS), (preferences("dpo"), PAIRS), (preferences("mpo"), PAIRS)):
        [batch] = batches(samples, (), packed=True)
        nothing = replace(batch, weights=torch.zeros_like(batch.weights))
        before = objective.state()
        assert not objective.totals(nothing)["pairs" if samples is PAIRS else "weight"]
        loss, _ = step(objective, model, [nothing])
        assert loss == 0
        assert not any(grad.any() for grad in gradients(model).values())
        assert objective.state() == before
        same(objective, model, [batch], [nothing, batch])
        other = collate_chat(samples[:2], packed=False)
        same(objective, model, [batch], [batch, replace(other, weights=torch.zeros_like(other.weights))])


def test_a_model_that_is_its_reference_begins_at_ln_2():
    objective = Preferences(Aim(kind="mpo", generation=0.0), ModelReference(chat_model()))
    loss, metrics = step(objective, chat_model(), batches(PAIRS, (), packed=True))
    assert loss == pytest.approx((0.8 + 0.4) * 0.6931471805599453, rel=1e-6)
    assert metrics["rewards/margins"] == metrics["rewards/accuracies"] == objective.delta.mean == 0


def test_figures_that_are_losses_are_the_better_the_smaller():
    """Said of each objective, whatever its figures are called; all that are no loss are the better the larger."""
    for objective, batch in (
        (Sft(Aim()), batches([conversation(0)], [1], packed=True)[0]),
        (preferences(), batches([preference(0)], [1], packed=True)[0]),
    ):
        metrics = objective.loss(learner(), batch, objective.totals(batch)).metrics
        assert {"nll"} == objective.losses & metrics.keys()
    assert {name for name in metrics if "reward" in name}.isdisjoint(Preferences.losses)


def test_ranks_move_delta_together(monkeypatch):
    """Means of ranks are averaged, whatever their sizes; a rank that has nothing is left out."""
    objective = Preferences(Aim(kind="mpo"), ModelReference(chat_model(seed=1)), world=World())
    told: list[float | None] = []
    monkeypatch.setattr(World, "gather_json", lambda _, value: (told.append(value), [value, 3.0, None])[1])
    step(objective, learner(), batches(PAIRS, (), packed=True))
    assert told[0] is not None
    assert objective.delta.mean == pytest.approx((told[0] + 3.0) / 2)
    assert objective.delta.count == 2


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_honoured_is_refused():
    for aim, said in (
        (Aim(kind="dpo"), "expected sft"),
        (Aim(label_smoothing=0.1), "not smoothed"),
    ):
        with pytest.raises(ConfigError, match=said):
            Sft(aim)
    for aim, said in (
        (Aim(), "expected dpo or mpo"),
        (Aim(kind="mpo", preference=0.0, quality=0.0, generation=0.0), "all 0"),
        (Aim(kind="mpo", quality=-0.1), "0 or more"),
        (Aim(kind="dpo", router=0.1), "sft alone"),
    ):
        with pytest.raises(ConfigError, match=said):
            Preferences(aim, ModelReference(chat_model()))
    [talks], [pairs] = batches(TALKS, (), packed=True), batches(PAIRS, (), packed=True)
    labels = LabelBatch(tiles=torch.zeros(1, 56, 56, 3, dtype=torch.uint8), labels=torch.zeros(1, dtype=torch.long))
    for objective, batch in (
        (Sft(Aim()), pairs),
        (Sft(Aim()), labels),
        (preferences("dpo"), talks),
        (preferences("dpo"), labels),
    ):
        with pytest.raises(UsageError, match=r"choose another objective\.kind"):
            objective.totals(batch)


# ---- experts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_experts_are_balanced(packed):
    model = chat_model("qwen3-moe")
    talks = batches(TALKS, (), packed=packed)
    plain, _ = step(Sft(Aim()), model, talks)
    before = gradients(model)
    balanced, metrics = step(Sft(Aim(router=0.5)), model, talks)
    assert balanced == pytest.approx(plain + 0.5 * metrics["balance"], rel=1e-6)
    assert metrics["balance"] > 2  # as many as are active, at least
    routers = [name for name in before if "router" in name]
    assert routers
    assert all(not torch.allclose(gradients(model)[name], before[name]) for name in routers)
    assert not any(layer.mlp.router._forward_hooks for layer in model.language_model.model.layers[1:])
    model.train()
    model.language_model.checkpointing = True
    same(Sft(Aim(router=0.5)), model, talks, talks)
    recomputed = gradients(model)
    model.language_model.checkpointing = False
    step(Sft(Aim(router=0.5)), model, talks)
    assert far(recomputed, gradients(model)) < GRADIENTS


def test_balance_is_refused_without_experts():
    with pytest.raises(ConfigError, match="has no experts"):
        step(Sft(Aim(router=0.1)), learner(), batches(TALKS, (), packed=True))


# ---- against the original code ---------------------------------------------------------------------------------------

CHATS = [name for name in golden_names("checkpoints/*") if not name.startswith(("internvit", "internvl"))]


@pytest.fixture
def given_pixels(monkeypatch):
    """Tiles of golden batches are normalised already."""
    monkeypatch.setattr("internvl.training.reference.normalise", lambda tiles, kind: tiles)


def agrees(model: ChatModel, batch: ChatBatch, loss: float) -> None:
    objective = Sft(Aim())
    with torch.no_grad():
        ours = objective.loss(model, batch, objective.totals(batch)).value.item()
    assert abs(ours - loss) < GOLDEN_LOSSES * loss


@pytest.mark.parametrize("name", CHATS)
def test_weighted_losses_padded_and_packed(name, given_pixels):
    told = json.loads(golden(f"vectors/{name}.json").read_text())
    rows = load_file(golden(f"vectors/{name}.safetensors"))
    model = load(golden(f"checkpoints/{name}"), dtype="float32", compat="original")
    mask, targets = rows["batch.attention_mask"].bool(), rows["batch.labels"].long()
    padded = ChatBatch(
        input_ids=rows["batch.input_ids"].long(),
        targets=targets,
        weights=torch.zeros(targets.shape),
        tiles=rows["pixel_values"][rows["batch.image_flags"].bool()],
        attention_mask=mask,
    )
    packed = replace(
        padded,
        input_ids=padded.input_ids[mask][None],
        targets=targets[mask][None],
        attention_mask=None,
        lengths=tuple(mask.sum(1).tolist()),
    )
    if not (targets != -100).any():
        assert told["samples_fully_masked"] == [0, 1, 2]
        return
    losses = {**told["loss_weighted"], "alike": told["loss"]}
    assert losses.keys() == {"token", "sample", "square", "alike"}
    for kind, loss in losses.items():
        weights = (targets != -100).float() if kind == "alike" else rows[f"batch.loss_weight.{kind}"]
        agrees(model, replace(padded, weights=weights), loss)
        agrees(model, replace(packed, weights=weights[mask][None]), loss)


def test_packed_losses(given_pixels):
    expected = load_file(golden("training/packed_forward.safetensors"))
    for name, told in json.loads(golden("training/packed_forward.json").read_text()).items():
        model = load(golden(f"checkpoints/{name}"), dtype="float32", compat="original")
        rows = {key: expected[f"{name}.{key}"][None] for key in ("input_ids", "labels", "loss_weight_square")}
        vectors = load_file(golden(f"vectors/{name}.safetensors"))
        slots = int((rows["input_ids"] == model.config.image_token).sum())
        batch = ChatBatch(
            input_ids=rows["input_ids"].long(),
            targets=rows["labels"].long(),
            weights=rows["loss_weight_square"],
            tiles=vectors["pixel_values"][vectors["batch.image_flags"].bool()][: slots // model.config.slots_per_tile],
            lengths=tuple(told["lengths"]),
        )
        agrees(model, batch, told["packed_loss_square"])


def pairs_of(case, model: ChatModel) -> list[PreparedChat]:
    """The preference records of a case, with the pictures they name cut as it says."""
    records = [json.loads(line) for line in golden("training/preference_records.jsonl").read_text().splitlines()]
    samples: list[PreparedChat] = []
    for position, (record, told) in enumerate(zip(records, case["features"], strict=True)):
        named = record.get("image", [])
        named = [named] if isinstance(named, str) else named
        size, most = model.config.tile_size, max(1, case["max_dynamic_patch"] // max(1, len(named)))
        photos = [to_rgb(Image.open(golden(f"preprocess/images/{file}")), compat="original") for file in named]
        cuts = [tile(photo, tile_size=size, max_tiles=most, thumbnail=case["use_thumbnail"]) for photo in photos]
        tiles = np.concatenate([np.zeros((0, size, size, 3), np.uint8), *cuts])
        assert len(tiles) == sum(told["image_flags"])
        segments = [
            Segment(
                *(
                    np.array(told[f"{side}_{row}"])[: sum(told[f"{side}_attention_mask"])]
                    for row in ("input_ids", "labels")
                )
            )
            for side in ("chosen", "rejected")
        ]
        samples.append(PreparedChat(position, 0, tuple(segments), tiles))
    return samples


@pytest.mark.parametrize("packed", [True, False])
def test_mpo_of_two_models_over_two_steps(packed):
    """Plain descent between the steps, as the cases say; the reference keeps its own weights."""
    for case in json.loads(golden("training/mpo_model.json").read_text()):
        two_steps(case, packed)


def two_steps(case, packed: bool) -> None:
    folder = golden(f"checkpoints/{case['checkpoint']}")
    model, other = (load(folder, dtype="float32", compat="original") for _ in range(2))
    with torch.no_grad():
        for parameter in other.language_model.parameters():
            parameter *= 0.95
    aim = Aim(
        kind="mpo",
        beta=case["beta"],
        preference=case["sigmoid_loss_weight"],
        quality=case["bco_pair_loss_weight"],
        generation=case["rpo_alpha"],
    )
    objective = Preferences(aim, ModelReference(other))
    batch = collate_chat(pairs_of(case, model), packed=packed)
    for told in case["steps"]:
        loss, metrics = step(objective, model, [batch])
        assert abs(loss - told["loss"]) < GOLDEN_LOSSES * told["loss"]
        for name, value in told["metrics"].items():
            if not name.startswith("logits/"):
                ours = metrics["nll" if name == "nll_loss" else name]
                assert abs(ours - value) < (GOLDEN_DELTAS if "rewards" in name else GOLDEN_LOSSES * abs(value)), name
        assert abs(objective.delta.mean - told["running_mean_after"]) < GOLDEN_DELTAS
        found = gradients(model)
        for name, norm in told["grad_norms"].items():
            assert abs(found[name].norm().item() - norm) < GOLDEN_NORMS * norm
        total = sum(float(grad.norm()) ** 2 for grad in found.values()) ** 0.5
        assert abs(total - told["grad_norm_total"]) < GOLDEN_NORMS * total
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= 0.05 * found[name]


def test_planted_faults_are_caught(monkeypatch):
    """The golden steps would notice a delta that is moved after the loss, and a tower that learns from one answer."""
    [case, *_] = json.loads(golden("training/mpo_model.json").read_text())
    update, features = RunningMean.update, ChatModel.image_features

    def halved(self: ChatModel, pixels: Tensor) -> Tensor:
        found = features(self, pixels)
        return (found + found.detach()) / 2

    with monkeypatch.context() as patch:
        patch.setattr(RunningMean, "update", lambda self, *told: (self.mean, update(self, *told))[0])
        with pytest.raises(AssertionError):
            two_steps(case, packed=True)
    with monkeypatch.context() as patch:
        patch.setattr(ChatModel, "image_features", halved)
        with pytest.raises(AssertionError):
            two_steps(case, packed=True)
