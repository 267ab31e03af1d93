"""Scores that others printed, and where: documentation, model cards, reports. None was computed by this project.

A row of a task names its figure and the numbers; models and sources are written once, here.
"""

from __future__ import annotations

from collections.abc import Mapping

from internvl.evaluation.benchmark import Published

VERSION_2 = tuple(f"InternVL2-{size}" for size in ("1B", "2B", "4B", "8B", "26B", "40B", "Llama3-76B"))
DOCUMENTATION_1_5 = "InternVL 1.5 documentation"
DOCUMENTATION_2 = "InternVL 2.0 documentation"
CARD_2_5 = "InternVL 2.5 model card of December 2024"
CARD_2_5_OF_2 = "InternVL 2.5 model card (column InternVL2)"
MPO = "arXiv:2411.10442"
REPORT_2_5 = "arXiv:2412.05271"

# ---- documentation and model cards -----------------------------------------------------------------------------------


def printed(metric: str, source: str, scores: Mapping[str, float]) -> tuple[Published, ...]:
    """One figure of several models from one place.

    >>> printed("accuracy", DOCUMENTATION_2, {"InternVL2-1B": 20.0})[0].value
    20.0
    """
    return tuple(Published(model, value, metric, source) for model, value in scores.items())


def figures(model: str, source: str, **values: float) -> tuple[Published, ...]:
    """Several figures of one model: `CIDEr=79.3, BLEU4=21.4`."""
    return tuple(Published(model, value, metric, source) for metric, value in values.items())


def version_1_5(metric: str, value: float, options: str = "") -> Published:
    return Published("InternVL-Chat-V1-5", value, metric, f"{DOCUMENTATION_1_5}, evaluation", options)


def version_2(metric: str, *values: float, source: str = f"{DOCUMENTATION_2}, evaluation") -> tuple[Published, ...]:
    """Of each size of InternVL 2.0, the smallest first."""
    return printed(metric, source, dict(zip(VERSION_2, values, strict=True)))


def version_2_5(metric: str, scores: Mapping[str, float]) -> tuple[Published, ...]:
    """InternVL 2.5 by size, as its cards have it: {"1B": 72.0}."""
    return printed(metric, CARD_2_5, {f"InternVL2_5-{size}": value for size, value in scores.items()})


def version_2_later(metric: str, scores: Mapping[str, float]) -> tuple[Published, ...]:
    """InternVL 2.0 by size, as the cards of 2.5 give it for comparison: by VLMEvalKit."""
    return printed(metric, CARD_2_5_OF_2, {f"InternVL2-{size}": value for size, value in scores.items()})


def model_card(model: str, metric: str, value: float, *, of: str = "") -> Published:
    """of: the model on whose card it stands, where that is another."""
    return Published(model, value, metric, f"{of or model} model card")


# ---- the report on InternVL 2.5 --------------------------------------------------------------------------------------

# fmt: off
# Table 7: OCRBench, VCR-EN-Easy exact match and Jaccard.
READING: Mapping[str, tuple[float, float, float]] = {
    "InternVL-Chat-V1-5":   (724, 14.7, 51.4),
    "InternVL2-1B":         (754, 21.5, 48.4), "InternVL2_5-1B":  (785, 91.5, 97.0),
    "InternVL2-2B":         (784, 32.9, 59.2), "InternVL2_5-2B":  (804, 93.2, 97.6),
    "InternVL2-4B":         (788, 33.7, 61.1), "InternVL2_5-4B":  (828, 93.7, 97.8),
    "InternVL2-8B":         (794, 37.9, 61.5), "InternVL2_5-8B":  (822, 92.6, 97.4),
    "InternVL2-26B":        (825, 74.5, 86.7), "InternVL2_5-26B": (852, 94.4, 98.0),
    "InternVL2-40B":        (837, 84.7, 92.6), "InternVL2_5-38B": (842, 94.7, 98.2),
    "InternVL2-Llama3-76B": (839, 83.2, 91.3), "InternVL2_5-78B": (854, 95.7, 94.5),
}
# Table 8: BLINK, Mantis-Eval, MMIU, MuirBench, MIRB.
SEVERAL: Mapping[str, tuple[float, float, float, float, float]] = {
    "InternVL-Chat-V1-5":   (46.6, 66.8, 37.4, 38.5, 50.3),
    "InternVL2-1B":         (38.6, 46.1, 37.3, 29.3, 31.5), "InternVL2_5-1B":  (42.0, 51.2, 38.5, 29.9, 35.6),
    "InternVL2-2B":         (43.8, 48.4, 39.8, 32.5, 32.1), "InternVL2_5-2B":  (44.0, 54.8, 43.5, 40.6, 36.4),
    "InternVL2-4B":         (46.1, 61.3, 43.3, 40.5, 39.9), "InternVL2_5-4B":  (50.8, 62.7, 43.8, 45.2, 51.7),
    "InternVL2-8B":         (50.9, 65.4, 42.0, 48.7, 50.0), "InternVL2_5-8B":  (54.8, 67.7, 46.7, 51.1, 52.5),
    "InternVL2-26B":        (56.2, 69.6, 42.6, 50.6, 53.7), "InternVL2_5-26B": (61.8, 75.6, 49.4, 61.1, 55.7),
    "InternVL2-40B":        (57.2, 71.4, 47.9, 54.4, 55.2), "InternVL2_5-38B": (63.2, 78.3, 55.3, 62.7, 61.2),
    "InternVL2-Llama3-76B": (56.8, 73.7, 44.2, 51.2, 58.2), "InternVL2_5-78B": (63.8, 77.0, 55.8, 63.5, 61.1),
}
# Table 12: Video-MME without and with subtitles, MVBench, MLVU, LongVideoBench.
VIDEO: Mapping[str, tuple[float, float, float, float, float]] = {
    "InternVL2-1B":         (42.9, 45.4, 57.5, 51.6, 43.3), "InternVL2_5-1B":  (50.3, 52.3, 64.3, 57.3, 47.9),
    "InternVL2-2B":         (46.2, 49.1, 60.2, 54.3, 46.0), "InternVL2_5-2B":  (51.9, 54.1, 68.8, 61.4, 52.0),
    "InternVL2-4B":         (53.9, 57.0, 64.0, 59.9, 53.0), "InternVL2_5-4B":  (62.3, 63.6, 71.6, 68.3, 55.2),
    "InternVL2-8B":         (56.3, 59.3, 65.8, 64.0, 54.6), "InternVL2_5-8B":  (64.2, 66.9, 72.0, 68.9, 60.0),
    "InternVL2-26B":        (57.0, 60.2, 67.5, 64.2, 56.1), "InternVL2_5-26B": (66.9, 69.2, 75.2, 72.3, 59.9),
    "InternVL2-40B":        (66.1, 68.6, 72.0, 71.0, 60.6), "InternVL2_5-38B": (70.7, 73.1, 74.4, 75.3, 63.3),
    "InternVL2-Llama3-76B": (64.7, 67.8, 69.6, 69.9, 61.1), "InternVL2_5-78B": (72.1, 74.0, 76.4, 75.7, 63.6),
}
# fmt: on

COLUMNS: Mapping[str, tuple[int, Mapping[str, tuple[float, ...]], int]] = {
    "OCRBench": (7, READING, 0),
    "VCR exact match": (7, READING, 1),
    "VCR Jaccard": (7, READING, 2),
    "BLINK": (8, SEVERAL, 0),
    "Mantis-Eval": (8, SEVERAL, 1),
    "MMIU": (8, SEVERAL, 2),
    "MuirBench": (8, SEVERAL, 3),
    "MIRB": (8, SEVERAL, 4),
    "Video-MME": (12, VIDEO, 0),
    "Video-MME with subtitles": (12, VIDEO, 1),
    "MVBench": (12, VIDEO, 2),
    "MLVU": (12, VIDEO, 3),
    "LongVideoBench": (12, VIDEO, 4),
}


def reported(column: str, metric: str = "accuracy") -> tuple[Published, ...]:
    """A column of the report, as the figure `metric` of a task.

    >>> reported("OCRBench", "score")[0].value
    724
    """
    number, table, place = COLUMNS[column]
    return printed(metric, f"{REPORT_2_5}, table {number}", {model: row[place] for model, row in table.items()})
