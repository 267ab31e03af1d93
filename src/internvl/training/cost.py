"""What a forward and backward pass keeps in memory and computes, from shapes alone.

`KEPT` formulas list the tensors that autograd saves in one layer, for one token, in the order in which they are made;
`tests/training/test_plan.py` counts what is really saved. Words: E width, Q and K all query and key heads together, M
inner width of the MLP, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl.models.config import ChatConfig, Experts, PairConfig, TextConfig, VisionConfig

FP32 = 4
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# fmt: off
ADAM = 2 * FP32
"""Two moments for each parameter that learns (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
STEP = FP32
"""Temporaries of the optimiser on a GPU for each parameter that learns: what PyTorch says of `foreach`, its default."""
QUANTISED = {"int8": 1.0, "int4": 0.53}
"""Bytes of a weight: `models/quantized.py`."""
LOGIT_CHUNK = 1024
"""Tokens whose logits exist at one time: `ChatModel.token_logprobs`."""
LOGIT_BYTES = 3 * FP32
"""Of one logit: in fp32, its gradient, and what log-sum-exp leaves; beside these one in the type of the products."""
WORKING = 3
"""Gradients of its own widest tensors that a layer holds while it goes backward. Measured: see the test."""

RATES = {
    # operations a second, dense, bf16 with fp32 sums; as the maker's data sheet gives them
    "A100":     312e12,
    "H100 SXM": 989e12,
    "H200":     989e12,
    "L40S":     362e12,
    "RTX 4090": 165e12,
}
CPU_RATES = {"2 cores of AMD Zen 3, fp32": 182e9}
"""Measured, products of large fp32 matrices."""
UTILISATION = 0.35
"""Assumed share of the rate. Published runs of large models: 0.21 to 0.46 (Chowdhery et al. 2022, arXiv:2204.02311)."""
# fmt: on


@dataclass(frozen=True)
class Keeps:
    """What of a part learns, and in which types it is computed."""

    products: int
    """Bytes of a number that a product takes and gives."""
    residual: int
    """Bytes of a number of the residual stream."""
    whole: bool
    """The part's own weights learn."""
    adapters: bool = False
    dropout: int = 0
    """Bytes of a number of the mask that the dropout before an adapter keeps: 1 on a GPU, 4 on a CPU; 0: none."""
    packed: bool = False

    def inputs(self, widths: list[int], layers: int) -> float:
        """Kept inputs of linear layers that read one tensor, `layers` of them for each width."""
        total = 0.0
        for width in widths:
            if self.whole:
                total += width * self.products * (1 if self.products == self.residual else layers)
            if self.adapters:
                total += width * layers * (self.products + self.dropout)
        return total

    def norm(self, width: int) -> float:
        """RMSNorm: its input in fp32, and what its weight is multiplied with, if that learns."""
        return width * FP32 + FP32 + (width * self.residual if self.whole else 0)


def text_layer(c: TextConfig, keeps: Keeps, layer: int = 0) -> float:
    """KEPT of one decoder layer, bytes for one token."""
    assert c.head_dim is not None
    p, e, q, k = keeps.products, c.dim, c.heads * c.head_dim, c.kv_heads * c.head_dim
    total = keeps.norm(e) + keeps.inputs([e], 3)
    if c.qk_norm:
        total += (q + k) * (FP32 + (p if keeps.whole else 0)) + FP32 * (c.heads + c.kv_heads)
    total += (2 * q + 2 * k) * p + FP32 * c.heads  # queries, keys, values, what was seen; log-sum-exp
    if keeps.packed and keeps.whole:
        total += q * p  # segments laid end to end again
    if keeps.adapters:
        total += q * (p + keeps.dropout)
    total += keeps.norm(e) + keeps.inputs([e], 2)
    if c.experts is not None and c.is_sparse(layer):
        return total + _experts(c.experts, e, p)
    total += 3 * c.mlp_dim * p  # gate, silu of it, up
    return total + (c.mlp_dim * p if keeps.whole else 0) + (c.mlp_dim * (p + keeps.dropout) if keeps.adapters else 0)


def _experts(experts: Experts, e: int, p: int) -> float:
    """Every active expert keeps its rows of the input, its inner tensors, and what it answers."""
    return experts.active * (4 * experts.dim + 3 * e) * p


def vision_layer(c: VisionConfig, keeps: Keeps) -> float:
    """KEPT of one block of the tower, bytes for one patch."""
    p, r, e, m = keeps.products, keeps.residual, c.dim, c.mlp_dim

    def norm() -> float:
        if c.norm != "layer_norm":
            return keeps.norm(e)
        return e * r + 2 * FP32

    total = norm() + keeps.inputs([e], 1) + 3 * e * p + FP32 * c.heads
    if c.qk_norm:  # both in fp32 where that is another type, normalised, and scaled
        total += 2 * (FP32 + e * ((FP32 if p != FP32 else 0) + (p if keeps.whole else 0) + p))
    total += e * p  # what was seen
    total += e * p if keeps.whole else 0  # before the first layer scale
    total += norm() + keeps.inputs([e], 1) + m * p
    total += (m + e) * p if keeps.whole else 0  # after the activation; before the second layer scale
    return total + ((e + m) * (p + keeps.dropout) if keeps.adapters else 0)


def projector(c: ChatConfig, keeps: Keeps) -> float:
    """KEPT of the projector, bytes for one slot."""
    folded = c.vision.dim * round(1 / c.downsample) ** 2
    return folded * (keeps.residual + keeps.products) + 3 * c.text.dim * keeps.products


def logits(vocab: int, products: int) -> float:
    """Bytes of the logits that exist at one time."""
    return LOGIT_CHUNK * vocab * (LOGIT_BYTES + products)


# --- operations -------------------------------------------------------------------------------------------------------


def text_products(c: TextConfig) -> int:
    """Weights that a token is multiplied with on its way through the decoder, head included; active experts only."""
    assert c.head_dim is not None
    attention = c.dim * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    total = c.vocab * c.dim
    for layer in range(c.layers):
        total += attention
        if c.experts is not None and c.is_sparse(layer):
            total += 3 * c.dim * c.experts.dim * c.experts.active + c.dim * c.experts.count
        else:
            total += 3 * c.dim * c.mlp_dim
    return total


def vision_products(c: VisionConfig) -> int:
    """Weights that a patch is multiplied with on its way through the tower."""
    return c.layers * (4 * c.dim**2 + 2 * c.dim * c.mlp_dim) + 3 * c.patch_size**2 * c.dim


def text_attention(c: TextConfig, length: int) -> float:
    """Operations of attention for one token in a segment of this length, forward: half of the square is seen."""
    assert c.head_dim is not None
    return 2.0 * length * c.heads * c.head_dim * c.layers


def vision_attention(c: VisionConfig, patches: int) -> float:
    """Operations of attention for one patch, forward."""
    return 4.0 * patches * c.dim * c.layers


def patches_of(config: ChatConfig | PairConfig | VisionConfig) -> int:
    """Patches of one tile, class token included."""
    vision = config if isinstance(config, VisionConfig) else config.vision
    side = config.image_size if isinstance(config, VisionConfig) else config.tile_size
    return (side // vision.patch_size) ** 2 + 1
