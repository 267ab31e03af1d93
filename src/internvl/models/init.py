"""Starting values of every parameter, in one place.

| parameter                                  | value                                  |
|--------------------------------------------|----------------------------------------|
| linear and convolution weights, embeddings | normal, 0.02                           |
| last linear of each residual branch        | normal, 0.02 / sqrt(2 * layers)        |
| last linear of a probe                     | normal, 0.01                           |
| biases                                     | 0                                      |
| norms                                      | weight 1, bias 0                       |
| layer scales                               | `VisionConfig.layer_scale`             |
| class token, positions, queries            | normal, 0.02                           |
| scale of cosines                           | ln(1 / 0.07)                           |
"""

from __future__ import annotations

import torch
from torch import nn

RESIDUAL = (
    ".proj.weight",
    ".fc2.weight",
    ".o_proj.weight",
    "down_proj.weight",
    "down_proj",
)
PROBE_STD = 0.01
NORMS = ("norm", "mlp1.0.")


def initialise(model: nn.Module, *, seed: int = 0, std: float = 0.02) -> None:
    """Fill every parameter, reproducibly on any device that draws on the CPU.

    >>> initialise(ChatModel(config), seed=1)  # doctest: +SKIP
    """
    draw = torch.Generator().manual_seed(seed)
    depth = {name.rpartition(".")[0]: len(m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    for name, parameter in model.named_parameters():
        layers = next((n for prefix, n in depth.items() if name.startswith(f"{prefix}.")), 1)
        _fill(name, parameter.data, layers, std, draw)


def _fill(name: str, values: torch.Tensor, layers: int, std: float, draw: torch.Generator) -> None:
    if name.endswith((".ls1", ".ls2", "logit_scale")):
        return  # set when the module was made
    if any(norm in name for norm in NORMS) and values.ndim == 1:
        values.fill_(1.0 if name.endswith("weight") else 0.0)
    elif values.ndim == 1 or name.endswith("bias"):
        values.zero_()
    else:
        scale = PROBE_STD if f".{name}".endswith(".head.weight") else std
        scale = std / (2 * layers) ** 0.5 if name.endswith(RESIDUAL) else scale
        values.copy_(torch.empty(values.shape).normal_(0.0, scale, generator=draw))
