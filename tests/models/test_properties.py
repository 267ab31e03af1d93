"""What must hold for every decoder of the family, whatever its weights: the same tokens, the same logits.

Tolerances are relative to the largest logit; the worst difference seen over all configurations stands beside each.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from internvl.errors import ConfigError, PlaceholderMismatch, UsageError
from internvl.models.attention import KVCache, Packing, Sight, attend
from internvl.models.config import ChatConfig
from internvl.models.layers import LoraLinear, add_adapter
from tests.models.tiny import IMAGE, LLAMA, TEXTS, VISIONS, chat_config, chat_model, random_ids

SAME = 5e-6
"""Worst seen: 1.5e-6 (cached)."""


def difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(params=TEXTS)
def model(request: pytest.FixtureRequest):
    with torch.no_grad():
        yield chat_model(request.param)


def test_cached_equals_uncached(model):
    ids = random_ids(1, 14)
    whole = model(ids)
    cache = chosen_for(14, KVCache(model.config.text, 1, 16))
    first = model.prefill(ids[:, :9], cache=cache)
    stepped = torch.stack([first] + [model.step(ids[:, i : i + 1], cache=cache) for i in range(9, 14)], dim=1)
    assert difference(stepped, whole[:, 8:]) < SAME


def chosen_for(length: int, cache: KVCache) -> KVCache:
    """Choose length-dependent rope as a row of that length would: what whoever prefills in chunks has to do."""
    cache.started = torch.full_like(cache.started, length)
    return cache


def test_prefill_in_chunks_equals_at_once(model):
    ids = random_ids(2, 14)
    cache = chosen_for(14, KVCache(model.config.text, 2, 16))
    for chunk in ids.split(5, dim=1):
        last = model.prefill(chunk, cache=cache)
    assert difference(last, model(ids)[:, -1]) < SAME


def test_packed_equals_separate(model):
    samples = [random_ids(1, n, seed=n) for n in (5, 9, 5, 1)]
    packed = model(torch.cat(samples, dim=1), packing=Packing((5, 9, 5, 1)))
    assert difference(packed, torch.cat([model(sample) for sample in samples], dim=1)) < SAME


def test_packed_equals_separate_under_autocast(model):
    """Weights in fp32, products in bf16, as training runs. Worst seen over all configurations: 0."""
    samples = [random_ids(1, n, seed=n) for n in (5, 9)]
    with torch.autocast("cpu", torch.bfloat16):
        packed = model(torch.cat(samples, dim=1), packing=Packing((5, 9)))
        separate = torch.cat([model(sample) for sample in samples], dim=1)
    assert difference(packed, separate) < SAME


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side):
    long, short = random_ids(1, 11), random_ids(1, 6, seed=1)
    real = slice(5, None) if side == "left" else slice(None, 6)
    ids, mask = torch.zeros(2, 11, dtype=torch.long), torch.zeros(2, 11, dtype=torch.bool)
    ids[0], mask[0] = long, True
    ids[1, real], mask[1, real] = short, True
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    both = model(ids, attention_mask=mask, positions=positions)
    assert torch.isfinite(both).all()
    assert difference(both[:1], model(long)) < SAME
    assert difference(both[1:, real], model(short)) < SAME


def test_rows_of_unequal_length_decode_as_if_alone(model):
    rows = [random_ids(1, n, seed=n) for n in (9, 4, 6)]
    ids = torch.zeros(3, 9, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : row.shape[1]] = row
    lengths = torch.tensor([9, 4, 6])
    cache = KVCache(model.config.text, 3, 20)
    together = [model.prefill(ids, cache=cache, lengths=lengths)]
    more = random_ids(3, 6, seed=7)
    together += [model.step(more[:, i : i + 1], cache=cache) for i in range(6)]
    assert cache.lengths.tolist() == [15, 10, 12]
    for b, row in enumerate(rows):
        alone = KVCache(model.config.text, 1, 20)
        logits = [model.prefill(row, cache=alone)] + [model.step(more[b, i][None, None], cache=alone) for i in range(6)]
        assert difference(torch.stack(together, 1)[b], torch.cat(logits)) < SAME


def test_a_truncated_row_goes_on_as_if_the_rest_had_never_been(model):
    ids = random_ids(1, 10)
    cache = chosen_for(10, KVCache(model.config.text, 1, 20))
    model.prefill(ids, cache=cache)
    cache.truncate(torch.tensor([6]))
    assert difference(model.prefill(ids[:, 6:], cache=cache), model(ids)[:, -1]) < SAME


def test_reordered_rows_carry_their_past(model):
    ids, after = random_ids(3, 7), random_ids(3, 1, seed=3)
    cache = KVCache(model.config.text, 3, 12)
    model.prefill(ids, cache=cache)
    rows = torch.tensor([2, 2, 0])
    cache.reorder(rows)
    fresh = KVCache(model.config.text, 3, 12)
    model.prefill(ids[rows], cache=fresh)
    assert difference(model.step(after, cache=cache), model.step(after, cache=fresh)) < SAME


def test_every_parameter_gets_a_gradient_with_and_without_checkpointing():
    for text in TEXTS:
        gradients = []
        for checkpointing in (False, True):
            model = chat_model(text).train()
            model.language_model.checkpointing = model.vision_model.checkpointing = checkpointing
            slots = model.config.slots_per_tile
            ids = torch.cat((random_ids(1, 40), torch.full((1, slots), IMAGE), random_ids(1, 40, seed=1)), dim=1)
            pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
            model.token_logprobs(ids, ids.clone(), pixels, chunk=7).sum().backward()
            missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert not missing, f"{text}: {missing}"
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert difference(gradients[1], gradients[0]) < 1e-6, text


def test_token_logprobs_are_those_of_the_whole_logits(model):
    ids = random_ids(2, 12)
    targets = ids.clone()
    targets[0, :5] = -100
    ours = model.token_logprobs(ids, targets, chunk=3)
    theirs = model(ids)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    theirs = theirs.masked_fill(targets[:, 1:] == -100, 0.0)
    assert (ours[:, 0] == 0).all()
    assert difference(ours[:, 1:], theirs) < SAME


def test_a_sample_of_a_pack_is_not_predicted_from_its_neighbour(model):
    parts = [random_ids(1, 5), random_ids(1, 7, seed=1)]
    ids = torch.cat(parts, dim=1)
    packed = model.token_logprobs(ids, ids.clone(), packing=Packing((5, 7)))
    separate = torch.cat([model.token_logprobs(part, part.clone()) for part in parts], dim=1)
    assert difference(packed, separate) < SAME


def test_slots_and_tiles_are_counted_before_the_tower_runs():
    model = chat_model()
    model.image_features = None  # calling it would fail with another error
    ids = torch.cat((random_ids(1, 3), torch.full((1, 5), IMAGE)), dim=1)
    with pytest.raises(PlaceholderMismatch, match="5 image slots but 1 tiles fill 4"):
        model(ids, torch.zeros(1, 3, 56, 56))
    with pytest.raises(PlaceholderMismatch, match="5 image slots but 0 tiles fill 0"):
        model(ids)
    with pytest.raises(PlaceholderMismatch, match="0 image slots but 1 tiles fill 4"):
        model(random_ids(1, 3), torch.zeros(1, 3, 56, 56))


def test_tiles_fill_the_slots_of_their_own_row():
    with torch.no_grad():
        model = chat_model()
        slots = torch.full((1, model.config.slots_per_tile), IMAGE)
        one, two = random_ids(1, 4), random_ids(1, 4, seed=1)
        pixels = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
        rows = torch.cat((torch.cat((one, slots, slots), 1), torch.cat((two, slots, random_ids(1, 4)), 1)))
        together = model(rows, pixels)
        assert difference(together[:1], model(rows[:1], pixels[:2])) < SAME
        assert difference(together[1:], model(rows[1:], pixels[2:])) < SAME
        assert difference(together[:1], model(rows[:1], pixels[[1, 0]])) > 1e-3


@pytest.mark.parametrize("vision", VISIONS)
def test_collected_states_are_those_of_shorter_towers(vision):
    with torch.no_grad():
        model = chat_model(vision=vision)
        pixels = torch.randn(2, 3, 56, 56)
        tower = model.vision_model
        states = tower(pixels, collect=(0, 1, 2, -1))
        assert torch.equal(states[0], tower.embeddings(pixels))
        assert torch.equal(states[3], tower(pixels))
        assert torch.equal(states[2], tower(pixels, collect=(-2,))[0])
        with pytest.raises(UsageError, match="hidden states are 0 to 3"):
            tower(pixels, collect=(4,))


def test_select_layer_takes_the_state_it_names():
    with torch.no_grad():
        model = chat_model(select_layer=-3)
        pixels = torch.randn(1, 3, 56, 56)
        short = chat_model(select_layer=-3)
        del short.vision_model.encoder.layers[1:]  # the layers after the chosen one do not matter
        assert torch.equal(model.image_features(pixels), short.image_features(pixels))


def test_stochastic_depth_scales_survivors_and_rests_in_eval():
    model = chat_model()
    drop = model.vision_model.encoder.layers[0].drop_path
    drop.rate = 0.25
    x = torch.ones(4000, 2, 3)
    assert torch.equal(drop(x), x)
    drop.train()
    kept = drop(x)[:, 0, 0]
    assert sorted(set(kept.tolist())) == [0.0, pytest.approx(4 / 3)]
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)


def test_a_new_adapter_changes_nothing_until_b_is_set():
    with torch.no_grad():
        model, ids = chat_model(), random_ids(1, 6)
        before = model(ids)
        layer = add_adapter(model, "language_model.model.layers.1.mlp.up_proj", rank=2, alpha=4)
        assert isinstance(layer, LoraLinear)
        assert "language_model.model.layers.1.mlp.up_proj.lora_A.default.weight" in model.state_dict()
        layer.lora_B["default"].weight.zero_()
        assert torch.equal(model(ids), before)
        layer.lora_B["default"].weight.fill_(0.5)
        merged = layer.base_layer.weight + 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        ours = model(ids)
        model.language_model.model.layers[1].mlp.up_proj = layer.base_layer
        layer.base_layer.weight.copy_(merged)
        assert difference(ours, model(ids)) < SAME
        with pytest.raises(UsageError, match="only a linear layer"):
            add_adapter(model, "language_model.model.norm", rank=2, alpha=4)


@pytest.mark.parametrize("sight", ["causal", "window", "keys", "prefix", "cached"])
@pytest.mark.parametrize("sinks", [False, True])
def test_attend_equals_plain_softmax_over_what_may_be_seen(sight, sinks):
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 6, 8, generator=draw)
    k, v = torch.randn(2, 2, 2, 9, 8, generator=draw)
    logits = torch.randn(4, generator=draw) if sinks else None
    at = (
        torch.tensor([[3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5]]) if sight == "cached" else torch.arange(3, 9).expand(2, 6)
    )
    keys = torch.ones(2, 9, dtype=torch.bool)
    if sight == "keys":
        keys[1, :3] = False
    window = 2 if sight == "window" else None
    seen = Sight(
        aligned=sight in ("causal", "window"),
        keys=keys if sight == "keys" else None,
        positions=at if sight == "cached" else None,
        prefix=8 if sight == "prefix" else 0,
    )
    ours, worst = attend(q, k, v, seen, window=window, sinks=logits), 0.0
    for b in range(2):
        for h in range(4):
            for t in range(6):
                reach = [
                    s for s in range(9)
                    if keys[b, s] and (s <= at[b, t] or (sight == "prefix" and s < 8))
                    and (window is None or s > at[b, t] - window)
                ]  # fmt: skip
                scores = q[b, h, t] @ k[b, h // 2, reach].T / 8**0.5
                weights = scores.exp() / (scores.exp().sum() + (logits[h].exp() if sinks else 0))
                worst = max(worst, (ours[b, h, t] - weights @ v[b, h // 2, reach]).abs().max().item())
    assert worst < 2e-6  # worst seen: 4.8e-7


def test_a_row_is_read_in_one_way_only():
    model = chat_model()
    with pytest.raises(UsageError, match="packing excludes"):
        model(random_ids(1, 4), packing=Packing((4,)), attention_mask=torch.ones(1, 4))
    with pytest.raises(UsageError, match=r"expected \(rows, tokens\)"):
        model(random_ids(4))
    with pytest.raises(UsageError, match="each sample needs at least one token"):
        Packing((3, 0))
    cache = KVCache(model.config.text, 1, 4)
    with pytest.raises(UsageError, match="the cache holds 4 tokens"):
        model(random_ids(1, 5), cache=cache)
    with pytest.raises(UsageError, match="padded on the right"):
        model(random_ids(1, 3), cache=cache, attention_mask=torch.tensor([[False, True, True]]))


def test_length_dependent_rope_does_not_depend_on_neighbours():
    """The original lets the longest row of a call decide for all (`RopeScaling.per_call`)."""
    with torch.no_grad():
        for text in ("internlm2", "phi3"):
            model = chat_model(text)
            ids = torch.zeros(2, 20, dtype=torch.long)
            ids[0], ids[1, :5] = random_ids(1, 20), random_ids(1, 5, seed=1)
            mask = torch.arange(20) < torch.tensor([[20], [5]])
            both = model(ids, attention_mask=mask)[1:, :5]
            assert difference(both, model(ids[1:, :5])) < SAME


def test_configs_refuse_what_no_model_can_be():
    for mistake, message in [
        (lambda: chat_config(downsample=0.25, image_size=42), "cannot fold"),
        (lambda: chat_config(select_layer=-9), "select_layer -9"),
        (lambda: replace(LLAMA, kv_heads=3), "multiple of kv_heads"),
        (lambda: replace(LLAMA, vocab=0), "vocab is 0; expected 1 to"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            mistake()
    assert isinstance(chat_config(), ChatConfig)
