"""Scores as the documentation of versions 1.5 and 2.0 and the model cards print them."""

from __future__ import annotations

from collections.abc import Iterator

from internvl.evaluation.benchmark import Published

INTERNVL2 = tuple(f"InternVL2-{size}" for size in ("1B", "2B", "4B", "8B", "26B", "40B", "Llama3-76B"))
DOCUMENTED = "InternVL 2.0 documentation, evaluation"
DOCUMENTED_1_5 = "InternVL 1.5 documentation, evaluation"
MPO = "arXiv:2411.10442"


def internvl2(metric: str, *values: float) -> Iterator[Published]:
    """A score for each size of version 2.0, the smallest first."""
    for model, value in zip(INTERNVL2, values, strict=True):
        yield Published(model, value, metric, DOCUMENTED)


def internvl_1_5(metric: str, value: float, options: str = "") -> Published:
    return Published("InternVL-Chat-V1-5", value, metric, DOCUMENTED_1_5, options)


def model_card(model: str, metric: str, value: float, *, of: str = "") -> Published:
    """of: the model on whose card it stands, where that is another."""
    return Published(model, value, metric, f"{of or model} model card")
