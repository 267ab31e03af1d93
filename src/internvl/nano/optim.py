"""The optimiser of nano's training: orthogonalised momentum for matrices, Adam for everything else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial

import torch
from torch import Tensor, nn

MATRIX = ("attn.", "mlp.", "mlp1.", "self_attn.")


class Muon:
    """Momentum whose singular values are all made one (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    Matrices of one shape are orthogonalised together; a fused qkv counts as three matrices.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], *, momentum: float, decay: float) -> None:
        self.momentum, self.decay = momentum, decay
        self.groups: dict[tuple[int, int], list[tuple[nn.Parameter, int]]] = defaultdict(list)
        for name, parameter in parameters:
            parts = 3 if name.endswith("qkv.weight") else 1
            rows, columns = parameter.shape
            self.groups[rows // parts, columns].append((parameter, parts))
        self.buffers = {
            shape: torch.zeros(sum(parts for _, parts in members), *shape) for shape, members in self.groups.items()
        }

    def step(self, rate: float, pool: Executor) -> None:
        """Move every matrix that has a gradient; each shape is one piece of work for the pool."""
        list(pool.map(partial(self._move, rate), self.groups))

    @torch.no_grad()
    def _move(self, rate: float, shape: tuple[int, int]) -> None:
        (rows, columns), members = shape, self.groups[shape]
        buffer = self.buffers[rows, columns]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p, _ in members]
        gradient = torch.cat([g.view(-1, rows, columns) for g in gradients])
        buffer.mul_(self.momentum).add_(gradient)
        update = orthogonal(gradient.add_(buffer, alpha=self.momentum))
        update *= rate * max(1.0, rows / columns) ** 0.5
        for (parameter, parts), change in zip(members, update.split([n for _, n in members]), strict=True):
            if parameter.grad is not None:  # what does not learn does not decay either
                parameter.mul_(1 - rate * self.decay).sub_(change.reshape(parts * rows, columns))


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly U V^T of each matrix U S V^T in (N, rows, columns), by a quintic Newton-Schulz iteration in bf16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon moves it: the weights of linear layers, without word embeddings, head and patch embedding."""
    return parameter.ndim == 2 and any(part in name for part in MATRIX) and not name.startswith("heads.")
