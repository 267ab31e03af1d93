"""Models over several devices: how they are cut, and that the parts still compute the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl import zoo
from internvl.errors import UsageError
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel
from internvl.models.pair import PairModel
from internvl.weights import placement
from internvl.weights.load import load
from internvl.weights.placement import GIB, chain, install, plan
from tests.models.tiny import IMAGE, chat_model, random_ids
from tests.weights.folders import checkpoint, tiny

GPUS = [torch.device("cuda", i) for i in range(8)]


def meta(name: str) -> ChatModel | PairModel:
    config = zoo.find(name).config
    with torch.device("meta"):
        return PairModel(config) if hasattr(config, "queries") else ChatModel(config)


def loads(model: torch.nn.Module, placed: placement.Placement, itemsize: int = 2) -> dict[torch.device, int]:
    found = dict.fromkeys(placed.devices, 0)
    for name, parameter in model.named_parameters():
        found[placed.device_of(name)] += parameter.numel() * itemsize
    return found


@pytest.mark.parametrize("name", ["internvl2-llama3-76b", "internvl2.5-26b", "internvl2.5-8b", "internvl-14b-224px"])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_the_weights_are_balanced(name, count):
    model = meta(name)
    placed = plan(model, dict.fromkeys(GPUS[:count], 200 * GIB), itemsize=2)
    found = loads(model, placed)
    whole = sum(found.values())
    biggest = max(sum(p.numel() * 2 for p in layer.parameters()) for _, layer in chain(model))
    fixed = whole - sum(sum(p.numel() * 2 for p in layer.parameters()) for _, layer in chain(model))
    assert sum(found.values()) == sum(p.numel() * 2 for p in model.parameters())
    assert max(found.values()) <= max(whole / count, fixed) + biggest


def test_the_order_of_the_chain_is_kept():
    model = meta("internvl2.5-26b")
    placed = plan(model, dict.fromkeys(GPUS[:4], 200 * GIB), itemsize=2)
    order = [placed.devices.index(placed.where[name]) for name, _ in chain(model)]
    assert all(a <= b for a, b in pairwise(order))
    for name in ("vision_model.embeddings.position_embedding", "mlp1.1.weight", "language_model.lm_head.weight",
                 "language_model.model.embed_tokens.weight", "language_model.model.norm.weight"):  # fmt: skip
        assert placed.device_of(name) == GPUS[0]


def test_a_small_card_gets_less():
    model = meta("internvl2.5-8b")
    capacities = {GPUS[0]: 12 * GIB, GPUS[1]: 6 * GIB}
    found = loads(model, plan(model, capacities, itemsize=2))
    shares = [found[device] / capacity for device, capacity in capacities.items()]
    assert abs(shares[0] - shares[1]) < 0.1


def test_the_processor_takes_what_is_left_over():
    model, cpu = meta("internvl2.5-8b"), torch.device("cpu")
    found = loads(model, plan(model, {GPUS[0]: 10 * GIB, cpu: placement.OVERFLOW}, itemsize=2))
    assert 9 * GIB < found[GPUS[0]] <= 10 * GIB
    found = loads(model, plan(model, {GPUS[0]: 40 * GIB, cpu: placement.OVERFLOW}, itemsize=2))
    assert found[cpu] == 0


def test_what_cannot_fit_says_what_is_needed():
    model = meta("internvl2-llama3-76b")
    with pytest.raises(UsageError, match=r"142\.\d GiB .*do not fit into 72\.0 \+ 40\.0 GiB"):
        plan(model, {GPUS[0]: 72 * GIB, GPUS[1]: 40 * GIB}, itemsize=2)


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=12), count=st.integers(1, 4), fixed=st.integers(0, 50))
def test_no_cut_is_better(sizes, count, fixed):
    """Against every way to cut the chain."""
    model = torch.nn.Module()
    model.fixed = torch.nn.Parameter(torch.zeros(fixed))
    model.layers = torch.nn.ModuleList(torch.nn.ParameterList([torch.zeros(size)]) for size in sizes)
    placed = plan(model, dict.fromkeys(GPUS[:count], 10_000), itemsize=1)
    found = max(loads(model, placed, itemsize=1).values())

    def best(first: int, devices: int, extra: int) -> int:
        if devices == 1:
            return sum(sizes[first:]) + extra
        cuts = range(first, len(sizes) + 1)
        return min(max(sum(sizes[first:cut]) + extra, best(cut, devices - 1, 0)) for cut in cuts)

    assert found <= best(0, count, fixed) + 1e-6 * sum(sizes)


# --- computing --------------------------------------------------------------------------------------------------------

PLACES = [torch.device("cuda", 0), torch.device("cpu")] if torch.cuda.is_available() else [torch.device("cpu")] * 2


def spread(model: torch.nn.Module, cut: int) -> None:
    """The first `cut` layers of the chain on the first device, the others on the second."""
    names = [name for name, _ in chain(model)]
    where = {name: PLACES[0 if i < cut else 1] for i, name in enumerate(names)}
    placed = placement.Placement((PLACES[0], PLACES[1]), where)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(placed.device_of(name))
    install(model, placed)


@pytest.mark.parametrize("name", ["qwen2", "gpt-oss", "internlm2", "qwen3-moe"])
@pytest.mark.parametrize("cut", [0, 2, 4, 6])
@torch.no_grad()
def test_a_spread_model_computes_the_same(name, cut):
    """On a machine without GPU both places are the CPU, and this proves the hooks; with one, the devices too."""
    model, alone = chat_model(name), chat_model(name)
    spread(model, cut)
    slots = alone.config.slots_per_tile
    ids = torch.cat((torch.full((2, slots), IMAGE), random_ids(2, 9)), dim=1)
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    mask = mask.bool()
    here = PLACES[0]
    found = model(ids.to(here), pixels.to(here), attention_mask=mask.to(here))
    assert found.device == here
    # Worst seen: 0 with both parts on one CPU, 4e-7 of the largest logit between a GPU and the CPU.
    scale = float(alone(ids, pixels).abs().max())
    assert float((found.cpu() - alone(ids, pixels, attention_mask=mask))[mask].abs().max()) < 2e-6 * scale

    cache = KVCache(model.config.text, 2, 64, device=here)
    other = KVCache(alone.config.text, 2, 64)
    features, expected = model.image_features(pixels.to(here)), alone.image_features(pixels)
    lengths = mask.sum(1)
    steps = [model.prefill(ids.to(here), features, cache=cache, lengths=lengths.to(here))]
    right = [alone.prefill(ids, expected, cache=other, lengths=lengths)]
    for token in (3, 5, 7):
        chosen = torch.full((2, 1), token)
        steps.append(model.step(chosen.to(here), cache=cache))
        right.append(alone.step(chosen, cache=other))
    for one, another in zip(steps, right, strict=True):
        assert float((one.cpu() - another).abs().max()) < 2e-6 * scale
    assert cache.lengths.tolist() == other.lengths.tolist()


@torch.no_grad()
def test_a_spread_pair_computes_the_same():
    model, alone = (load(checkpoint("internvl-14b"), device="cpu") for _ in range(2))
    assert isinstance(model, PairModel)
    assert isinstance(alone, PairModel)
    spread(model, 5)
    pixels, ids = torch.randn(2, 3, 56, 56), torch.tensor([[1, 5, 6, 2, 0], [1, 9, 8, 7, 2]])
    for mode in ("InternVL-C", "InternVL-G"):
        found, _ = model(pixels.to(PLACES[0]), ids.to(PLACES[0]), mode=mode)
        expected, _ = alone(pixels, ids, mode=mode)
        assert float((found.cpu() - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_loading_over_several_devices(tmp_path, monkeypatch):
    """Where the free memory is too small for one device and enough for two."""
    tiny(tmp_path / "x")
    one = load(tmp_path / "x", device="cpu")
    bytes_ = sum(p.nbytes for p in one.parameters())
    monkeypatch.setattr(
        placement, "free_memory", lambda devices: dict(zip(devices, (bytes_ // 2, bytes_), strict=True))
    )
    model = load(tmp_path / "x", device=("cpu", "meta"), dtype="float32")
    places = {name: parameter.device.type for name, parameter in model.named_parameters()}
    assert set(places.values()) == {"cpu", "meta"}
    assert places["language_model.lm_head.weight" if not one.config.text.tied_head else "mlp1.1.weight"] == "cpu"
    with pytest.raises(UsageError, match="at least one"):
        load(tmp_path / "x", device=())
