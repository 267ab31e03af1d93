"""Benchmarks that are answered by ranking, and what rankings are worth.

An answer is JSON: {"ranked": [class numbers, or ids of samples, the best first]}, for several labels a picture
{"scores": [one for each class]}; {"names": [...]} says for people what the best classes are called.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from internvl.evaluation.benchmark import Benchmark, Compat, Mark, Marked, Sample, Scores, Summarise
from internvl.metrics.classification import mean_average_precision, mean_per_class_recall

BEST = 5
"""Classes that an answer names."""
KS = (1, 5, 10)
OWN_TEMPLATES = "the package's own"
"""Where templates are from that nobody published."""


@dataclass(frozen=True, kw_only=True)
class Probe(Benchmark):
    """A benchmark that is answered by comparing embeddings; `internvl.evaluation.zeroshot` does it."""

    kind: Literal["classification", "retrieval"]
    fit: Literal["crop", "stretch"]
    """How pictures become tiles: `crop` for classification, `stretch` for retrieval, as published."""


# ---- classification --------------------------------------------------------------------------------------------------


def _said(answer: str) -> Mapping[str, Any]:
    """An answer as its responder wrote it; what anybody else says is no ranking."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _name(said: Mapping[str, Any]) -> str | None:
    names = said.get("names")
    return str(cast("list[object]", names)[0]) if isinstance(names, list) and names else None


def mark_class(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right where the best class is the picture's; `acc5` where it is among five, which needs five classes."""
    said = _said(answer)
    ranked = cast("list[Any]", said.get("ranked") or [])
    if not ranked:
        return Mark(None)
    parts = {"acc5": float(sample.answer in ranked[:BEST])} if len(ranked) >= BEST else {}
    return Mark(float(ranked[0] == sample.answer), _name(said), parts)


def mark_classes(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Of a picture with several classes: right where the best is one of them. The figure is made of all scores."""
    said = _said(answer)
    scores = cast("list[float]", said.get("scores") or [])
    if not scores:
        return Mark(None)
    original = {"original": 1.0} if compat == "original" else {}  # the figure of the whole set needs to know
    return Mark(float(int(np.argmax(scores)) in sample.answer), _name(said), original)


def mark_found(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right where the best candidate belongs to the query; `recall@k` where one of k does.

    compat="original" reads the ranking after the dual softmax where there is one: the published MSR-VTT program always
    ranks by it, though it makes use of all other queries.
    """
    said = _said(answer)
    ranked = cast("list[str]", said.get("dual_softmax" if compat == "original" else "ranked", said.get("ranked")) or [])
    if not ranked:
        return Mark(None)
    hits = {f"recall@{k}": float(any(one in sample.answer for one in ranked[:k])) for k in KS}
    return Mark(hits["recall@1"], ranked[0], hits)


def _unmarked(rows: Sequence[Marked], name: str) -> Scores | None:
    bare = sum(row.mark.score is None for row in rows)
    if rows and not bare:
        return None
    why = f"{bare} of {len(rows)} answers are no rankings" if rows else "there is no answer"
    return Scores(values={}, withheld={name: why})


def class_figures(rows: Sequence[Marked]) -> Scores:
    """acc1, acc5 and the mean recall of the classes, in percent."""
    if (nothing := _unmarked(rows, "acc1")) is not None:
        return nothing
    values = {"acc1": 100 * _mean(row.mark.score for row in rows)}
    withheld = _own_templates(rows)
    if all("acc5" in row.mark.parts for row in rows):
        values["acc5"] = 100 * _mean(row.mark.parts["acc5"] for row in rows)
    else:
        withheld["acc5"] = "there are fewer than five classes"
    predicted = [row.sample.answer if row.mark.score else None for row in rows]
    values["mean_per_class_recall"] = 100 * mean_per_class_recall(predicted, [row.sample.answer for row in rows])
    return Scores(values=values, withheld=withheld)


def _own_templates(rows: Sequence[Marked]) -> dict[str, str]:
    """What a reader must know where the published templates were not there."""
    templates = str(_said(rows[0].answer).get("templates", ""))
    if not templates.endswith(OWN_TEMPLATES):
        return {}
    return {
        "published templates": f"classes were named with {templates}: CLIP_benchmark's file is not in the data folder"
    }


def video_figures(rows: Sequence[Marked]) -> Scores:
    """Of Kinetics the mean of acc1 and acc5 comes first: that is what was printed."""
    found = class_figures(rows)
    if "acc5" not in found.values:
        return found
    mean = (found.values["acc1"] + found.values["acc5"]) / 2
    return Scores(values={"mean of acc1 and acc5": mean, **found.values}, withheld=found.withheld)


def classes_figures(rows: Sequence[Marked]) -> Scores:
    """Mean average precision over the classes, in percent."""
    if (nothing := _unmarked(rows, "mean_average_precision")) is not None:
        return nothing
    scores = np.array([_said(row.answer)["scores"] for row in rows])
    truth = np.zeros_like(scores, dtype=bool)
    for place, row in enumerate(rows):
        truth[place, row.sample.answer] = True
    compat: Compat = "original" if "original" in rows[0].mark.parts else None
    return Scores(values={"mean_average_precision": 100 * mean_average_precision(scores, truth, compat=compat)})


def found_figures(shown: str = "text_retrieval", text: str = "image_retrieval", *, lead: int = 1) -> Summarise:
    """Recall at 1, 5 and 10 in both directions, in percent; `shown` and `text` name those from pictures and from texts.

    lead: which k comes first.
    """

    def summarise(rows: Sequence[Marked]) -> Scores:
        if (nothing := _unmarked(rows, f"{shown}_recall@{lead}")) is not None:
            return nothing
        values: dict[str, float] = {}
        withheld: dict[str, str] = {}
        for k in (lead, *(k for k in KS if k != lead)):
            for name, side in ((shown, False), (text, True)):
                hits = [row.mark.parts[f"recall@{k}"] for row in rows if (row.sample.facts["side"] == "text") == side]
                if hits:
                    values[f"{name}_recall@{k}"] = 100 * sum(hits) / len(hits)
                else:
                    withheld[f"{name}_recall@{k}"] = "no sample of this direction was asked"
        return Scores(values=values, withheld=withheld)

    return summarise


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
