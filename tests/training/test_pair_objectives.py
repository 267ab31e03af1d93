"""ITM, ITC and ITG are those of the original code, and do not depend on how a batch is divided over ranks."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from internvl.data.batch import LabelBatch, PairBatch
from internvl.data.image import normalise
from internvl.errors import ConfigError, UsageError
from internvl.models.attention import KVCache
from internvl.models.classifier import Classifier
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.training import pair_objectives
from internvl.training.config import Aim
from internvl.training.pair_objectives import Classify, PairLoss, contrast, one_of, same_picture
from internvl.training.world import World
from internvl.weights.load import load
from tests.conftest import golden
from tests.models.tiny import VISION, shake
from tests.training.launch import launch
from tests.training.pairs import AIMS, PRETRAIN, RETRIEVAL, batch_of, pair_model

LOSSES = 2e-6
"""Relative. Worst seen against the golden losses: 2.6e-7."""
GRADIENTS = 1e-5
"""Relative to the norm of each parameter; norms below a millionth of all together are noise. Worst seen: 1.3e-6."""
RANKS = 2e-6
"""Two ranks beside one. Worst seen: 1.8e-7 of a value, 5.3e-7 of the largest gradient."""
TOGETHER = 2e-6
"""One pass for all tasks beside one for each. Worst seen: 4.8e-7."""


# ---- against the original code ---------------------------------------------------------------------------------------


@cache
def vectors() -> dict[str, Tensor]:
    return load_file(golden("vectors/internvl-14b.safetensors"))


@cache
def losses():
    return json.loads(golden("vectors/internvl-14b.json").read_text())["losses"]


def case(name: str, image_ids: list[int]) -> PairBatch:
    told = {key.split(".")[2]: rows.long() for key, rows in vectors().items() if key.startswith(f"train.{name}.")}
    return PairBatch(
        tiles=torch.zeros(len(image_ids), 56, 56, 3, dtype=torch.uint8),
        summary=told["summarize_input_ids"],
        caption=told["positive_input_ids"],
        negative=told["negative_input_ids"],
        generation=told["input_ids"],
        generation_targets=told["labels"],
        image_ids=torch.tensor(image_ids),
        positions=tuple(range(len(image_ids))),
    )


@pytest.fixture
def original(monkeypatch):
    """The golden checkpoint; the pictures of its cases are given as pixels, not as bytes."""
    monkeypatch.setattr(pair_objectives, "normalise", lambda tiles: vectors()["pixel_values"])
    return load(golden("checkpoints/internvl-14b"), dtype="float32")


@pytest.mark.parametrize("name", ["plain", "one_empty", "label_smoothing"])
def test_pretraining_agrees_with_the_original(original, name):
    known = losses()[f"stage2.{name}"]
    objective = PairLoss(replace(PRETRAIN, label_smoothing=known["label_smoothing"]), World())
    agrees(original, objective, case(name, [0, 1, 2, 3]), known, ("itm", "itc", "itg"))


@pytest.mark.parametrize("name", ["plain", "one_empty", "label_smoothing"])
def test_retrieval_agrees_with_the_original(original, name):
    known = losses()[f"retrieval.{name}"]
    agrees(original, PairLoss(RETRIEVAL, World()), case(name, known["image_ids"]), known, ("itm", "itc"))


def agrees(model: PairModel, objective: PairLoss, batch: PairBatch, known, terms: tuple[str, ...]) -> None:
    found = objective.loss(model, batch, objective.totals(batch))
    assert found.value.item() == pytest.approx(known["loss"], rel=LOSSES)
    for term in terms:
        assert found.metrics[term].item() == pytest.approx(known[f"loss_{term}"], rel=LOSSES), term
    if known["grad_norms"] is None:
        return
    found.value.backward()
    norms = {name: None if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms.keys() == known["grad_norms"].keys()
    total = sum(norm**2 for norm in norms.values() if norm is not None) ** 0.5
    for name, norm in known["grad_norms"].items():
        assert norms[name] == (None if norm is None else pytest.approx(norm, rel=GRADIENTS, abs=1e-6 * total)), name


def test_planted_faults_are_caught(original):
    """The golden cases would notice captions that see each other's sight, a half rounded down, targets of one row."""
    batch, objective = case("one_empty", [7, 7, 8, 9]), PairLoss(RETRIEVAL, World())
    known = losses()["retrieval.one_empty"]["loss"]
    wrong = replace(batch, image_ids=torch.arange(4))
    assert objective.loss(original, wrong, objective.totals(batch)).value.item() != pytest.approx(known, rel=1e-3)
    pretrain, known = PairLoss(PRETRAIN, World()), losses()["stage2.one_empty"]["loss"]
    full = replace(batch, caption=torch.where(batch.caption == 0, 5, batch.caption))
    assert pretrain.loss(original, batch, pretrain.totals(full)).value.item() != pytest.approx(known, rel=1e-3)


# ---- properties ------------------------------------------------------------------------------------------------------


def summed(objective: PairLoss, *batches: PairBatch) -> dict[str, float]:
    found = [objective.totals(batch) for batch in batches]
    return {name: sum(totals[name] for totals in found) for name in found[0]}


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    launch("tests.training.pairs", 2, folder)
    return folder


@pytest.mark.parametrize("name", AIMS)
def test_two_ranks_are_one_with_all_rows(name, of_two_ranks):
    """Values, metrics, totals and gradients, over gloo; ranks may differ in rows."""
    two = load_file(of_two_ranks / f"{name}.safetensors")
    model, objective, batch = pair_model(), PairLoss(AIMS[name], World()), batch_of(6, empty=(4,))
    totals = objective.totals(batch)
    assert {f"totals.{key}": value for key, value in totals.items()} == {
        key: value.item() for key, value in two.items() if key.startswith("totals.")
    }
    loss = objective.loss(model, batch, totals)
    loss.value.backward()
    for key, value in {"loss": loss.value.detach(), **loss.metrics}.items():
        assert two[f"told.{key}"].item() == pytest.approx(float(value), rel=RANKS), key
    grads = {f"grad.{key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == {key for key in two if key.startswith("grad.")}
    largest = max(grad.abs().max().item() for grad in grads.values())
    for key, grad in grads.items():
        assert (grad - two[key]).abs().max().item() < RANKS * largest, key


def test_together_is_one_by_one():
    """One pass for all tasks gives what a pass for each does: nobody sees another task's tokens."""
    model, batch = pair_model(), batch_of(4)
    pixels = normalise(batch.tiles)
    together = model.pair_outputs(
        pixels, batch.summary, matching=torch.cat((batch.negative, batch.caption)), generation=batch.generation,
        targets=batch.generation_targets, picture=True,
    )  # fmt: skip
    negative = model.pair_outputs(pixels, matching=batch.negative).matching
    written = model.pair_outputs(pixels, generation=batch.generation, targets=batch.generation_targets).captions
    close(together.matching[:4], negative)
    close(together.captions, written)
    close(together.text, F.normalize(model.encode_text(batch.summary), dim=-1))
    close(together.picture, F.normalize(model.encode_image(pixels), dim=-1))
    seen = model.clip_projector2(model.query_features(model.vision_model(pixels)))
    close(together.queries, F.normalize(seen, dim=-1))


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max().item() < TOGETHER * theirs.abs().max().item()


def test_captions_are_what_the_model_writes():
    """The log-probabilities that are learnt are those with which captions are generated, step by step."""
    model, batch = pair_model(), batch_of(1)
    known = int((batch.generation != 0).sum())
    learnt = model.pair_outputs(
        normalise(batch.tiles), generation=batch.generation, targets=batch.generation_targets
    ).captions
    with torch.no_grad():
        cache = KVCache(model.config.text, 1, 32)
        logits = model.prefill(batch.generation[:, :2], model.vision_model(normalise(batch.tiles)), cache=cache)
        for place in range(2, known):
            wanted = batch.generation[:, place : place + 1]
            close(learnt[:, place : place + 1], logits.log_softmax(-1).gather(1, wanted))
            logits = model.step(wanted, cache=cache)


@pytest.mark.parametrize("aim", [PRETRAIN, RETRIEVAL])
def test_micro_batches_add_up(aim):
    """Each micro-batch gives its share: the sum is the mean over all rows, and over all learnt tokens."""
    model, objective = pair_model(), PairLoss(replace(aim, contrastive=0.0), World())
    batches = [batch_of(4, 1, empty=(3,)), batch_of(2, 2)]
    totals = summed(objective, *batches)
    value = sum(objective.loss(model, batch, totals).value.item() for batch in batches)
    alone = [(objective.totals(batch), objective.loss(model, batch, objective.totals(batch))) for batch in batches]
    rows = [own["negatives"] + own["positives"] for own, _ in alone]
    expected = sum(n * loss.metrics["itm"].item() for n, (_, loss) in zip(rows, alone, strict=True)) / sum(rows)
    if aim.captioning:
        words = [own["caption_tokens"] for own, _ in alone]
        expected += sum(n * loss.metrics["itg"].item() for n, (_, loss) in zip(words, alone, strict=True)) / sum(words)
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["pretrain_pair", "retrieval"])
def test_recomputed_layers_give_the_same_gradients(kind):
    batch, aim = batch_of(4), PRETRAIN if kind == "pretrain_pair" else RETRIEVAL
    grads = []
    for checkpointing in (False, True):
        model, objective = pair_model().train(), PairLoss(aim, World())
        model.qllama.checkpointing = model.vision_model.checkpointing = checkpointing
        objective.loss(model, batch, objective.totals(batch)).value.backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        assert (grad is None) == (grads[1][name] is None), name
        assert grad is None or torch.equal(grad, grads[1][name]), name


@pytest.mark.parametrize("aim", [PRETRAIN, RETRIEVAL, AIMS["first stage"]])
def test_sixteen_bits(aim):
    """Under autocast and with weights in bf16 the losses are those of fp32 within its precision. Worst seen: 0.0033."""
    batch, found = batch_of(6), []
    for dtype, autocast in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        model, objective = pair_model().to(dtype), PairLoss(aim, World())
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = objective.loss(model, batch, objective.totals(batch))
        loss.value.backward()
        assert loss.value.dtype == torch.float32
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        found.append(loss.value.item())
    assert found[1:] == pytest.approx([found[0]] * 2, rel=0.01)


def test_every_parameter_learns_where_it_has_a_part():
    """Retrieval leaves the head that writes captions alone, pretraining the pool of the tower alone."""
    for aim, spared in ((PRETRAIN, "clip_projector."), (RETRIEVAL, "qllama.lm_head.")):
        model, objective, batch = pair_model(), PairLoss(aim, World()), batch_of(4)
        objective.loss(model, batch, objective.totals(batch)).value.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == name.startswith(spared), name


def test_a_plain_internvl_c_learns_by_contrast_alone():
    batch, plain = batch_of(4), pair_model(queries=0)
    for aim in (AIMS["first stage"], replace(RETRIEVAL, matching=0.0)):
        objective = PairLoss(aim, World())
        loss = objective.loss(plain, batch, objective.totals(batch))
        per_image, _ = plain(normalise(batch.tiles), batch.summary)
        targets = same_picture(batch.image_ids, batch.image_ids) if aim.kind == "retrieval" else torch.eye(4)
        expected = sum(F.cross_entropy(logits, targets) for logits in (per_image, per_image.T)) / 2
        assert loss.value.item() == pytest.approx(expected.item(), rel=1e-6)
    for aim in (PRETRAIN, RETRIEVAL):
        objective = PairLoss(aim, World())
        with pytest.raises(ConfigError, match="plain InternVL-C"):
            objective.loss(plain, batch, objective.totals(batch))


def test_a_batch_that_shows_one_picture_has_nothing_to_match_with():
    batch = batch_of(4)
    batch = replace(batch, negative=torch.zeros(4, 9, dtype=torch.long), image_ids=torch.zeros(4, dtype=torch.long))
    model, objective = pair_model(), PairLoss(RETRIEVAL, World())
    totals = objective.totals(batch)
    assert (totals["negatives"], totals["positives"]) == (0, 4)
    objective.loss(model, batch, totals).value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_contrast_is_cross_entropy():
    draw = torch.Generator().manual_seed(0)
    rows, candidates = torch.randn(3, 8, generator=draw), torch.randn(5, 8, generator=draw)
    targets = one_of(torch.tensor([4, 0, 2]), 5, 0.3)
    theirs = F.cross_entropy(2.0 * rows @ candidates.T, torch.tensor([4, 0, 2]), label_smoothing=0.3, reduction="none")
    close(contrast(rows, candidates, torch.tensor(2.0), targets), theirs)


@pytest.mark.parametrize(
    ("aim", "said"),
    [
        (Aim(kind="retrieval"), "captioning is 1.0; retrieval trains no captions"),
        (replace(RETRIEVAL, label_smoothing=0.1), "targets of retrieval are not smoothed"),
        (Aim(kind="sft"), "kind is sft, expected pretrain_pair or retrieval"),
        (replace(PRETRAIN, matching=-1.0), "matching is -1.0, expected 0 or more"),
        (replace(RETRIEVAL, matching=0.0, contrastive=0.0), "all 0, expected one above"),
    ],
)
def test_what_cannot_be_honoured_is_refused(aim, said):
    with pytest.raises(ConfigError, match=said):
        PairLoss(aim, World())


def test_other_models_and_batches_are_refused():
    labels = LabelBatch(tiles=torch.zeros(1, 56, 56, 3, dtype=torch.uint8), labels=torch.tensor([0]))
    with pytest.raises(UsageError, match="learns from pairs"):
        PairLoss(RETRIEVAL, World()).totals(labels)
    with pytest.raises(UsageError, match="this is a Linear"):
        PairLoss(RETRIEVAL, World()).check(nn.Linear(1, 1))
    with pytest.raises(UsageError, match="learns from labelled pictures"):
        Classify(Aim(kind="classify"), World()).totals(batch_of(1))


# ---- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_is_cross_entropy_over_all_micro_batches(smoothing):
    model = Classifier.of(shake(VisionTransformer(VISION)), 5).eval()
    draw = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (5, 56, 56, 3), generator=draw, dtype=torch.uint8)
    labels = torch.tensor([0, 4, 2, 2, 1])
    objective = Classify(Aim(kind="classify", label_smoothing=smoothing), World())
    batches = [LabelBatch(tiles=tiles[a:b], labels=labels[a:b]) for a, b in ((0, 3), (3, 5))]
    totals = {"pictures": sum(objective.totals(batch)["pictures"] for batch in batches)}
    found = [objective.loss(model, batch, totals) for batch in batches]
    logits = model(normalise(tiles))
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing).item()
    assert sum(loss.value.item() for loss in found) == pytest.approx(expected, rel=1e-6)
    right = (logits.argmax(1) == labels).float().mean().item()
    assert sum(float(loss.metrics["top1"]) for loss in found) == pytest.approx(right)
