"""The heads of a tower: the names and sizes of the published probes, and gradients where they should be."""

from dataclasses import replace

import pytest
import torch

from internvl.errors import NoSuchName, UsageError
from internvl.models.classifier import Classifier
from internvl.models.config import VisionConfig
from internvl.models.heads import POOLINGS, Probe
from internvl.models.vit import VisionTransformer
from tests.models.tiny import VISIONS, shake

TOWER = replace(VISIONS["6b"], pool_dim=24, pool_heads=4)
INTERNVIT_6B = VisionConfig(
    image_size=224, dim=3200, layers=48, heads=25, mlp_dim=12800, norm="rms_norm", qkv_bias=False, qk_norm=True
)


@pytest.mark.parametrize(("pooling", "parameters"), [("linear", 6_413_800), ("attention", 44_199_400)])
def test_sizes_and_names_of_the_published_probes(pooling, parameters):
    with torch.device("meta"):
        probe = Probe(INTERNVIT_6B, 1000, pooling=pooling)
    assert sum(p.numel() for p in probe.parameters()) == parameters
    names = {
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
        *("head.weight", "head.bias"),
    }
    if pooling == "attention":
        parts = ("q.weight", "k.weight", "v.weight", "q_bias", "k_bias", "v_bias", "proj.weight", "proj.bias")
        names |= {f"attn_pooling.norm1_{part}.{kind}" for part in "qkv" for kind in ("weight", "bias")}
        names |= {f"attn_pooling.cross_attn.{part}" for part in parts}
    assert probe.state_dict().keys() == names


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("frozen", [True, False])
def test_what_learns_gets_a_gradient(pooling, frozen):
    model = Classifier.of(shake(VisionTransformer(TOWER)), 5, pooling=pooling)
    model.tower.requires_grad_(not frozen)
    logits = model(torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 5)
    (logits * torch.randn(4, 5, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in model.named_parameters():
        unused = name.startswith("tower.clip_projector") and pooling != "clip_projector"
        assert (parameter.grad is None) == (unused or (frozen and name.startswith("tower."))), name


def test_the_linear_probe_sees_the_class_token_and_the_mean_of_the_patches():
    probe = Probe(TOWER, 3).eval()
    states = torch.randn(2, 17, TOWER.dim)
    features = torch.cat((states[:, 0], states[:, 1:].mean(1)), 1)
    assert (probe(states) - probe.head(features / (1 + 1e-6) ** 0.5)).abs().max() < 1e-6  # 0 was seen


def test_a_new_head_is_drawn_from_its_seed():
    tower = shake(VisionTransformer(TOWER))
    one, same, other = (Classifier.of(tower, 200, pooling="attention", seed=seed).head for seed in (1, 1, 2))
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == (a.ndim == 1), name
    assert one.head.weight.std().item() == pytest.approx(0.01, rel=0.05)  # 6400 draws: 0.0100 was seen
    assert not one.head.bias.any()


def test_what_cannot_be_pooled():
    plain = VisionTransformer(replace(TOWER, pool_dim=0))
    with pytest.raises(UsageError, match="no clip_projector"):
        Classifier(plain, Probe(TOWER, 3, pooling="clip_projector"))
    with pytest.raises(NoSuchName, match="Did you mean 'attention'"):
        Probe(TOWER, 3, pooling="atention")
