"""Benchmarks that are answered by ranking, and what rankings are worth.

An answer is JSON: {"ranked": [class numbers, or ids of samples, the best first]}, for several labels a picture
{"scores": [one for each class]}; {"names": [...]} says for people what the best classes are called. What is anything
else has no mark; such answers are counted and named, and no figure is made of the rest.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from internvl.evaluation.benchmark import Benchmark, Compat, Mark, Marked, Sample, Scores, Summarise
from internvl.metrics.classification import mean_average_precision, mean_per_class_recall

BEST = 5
"""Classes that an answer names."""
KS = (1, 5, 10)
SHOWN = 5
"""Answers that are named where they are no rankings."""
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


def _listed(said: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> list[Any]:
    """A list of such values and of nothing else; empty where it is anything else."""
    found = said.get(key)
    if not isinstance(found, list):
        return []
    values = cast("list[Any]", found)
    return values if all(isinstance(value, kind) and not isinstance(value, bool) for value in values) else []


def _numbers(said: Mapping[str, Any]) -> list[float]:
    """The scores of all classes; none where one is no finite number."""
    scores = _listed(said, "scores", (int, float))
    try:
        return scores if all(map(math.isfinite, scores)) else []
    except OverflowError:  # a whole number that no float holds
        return []


def _name(said: Mapping[str, Any]) -> str | None:
    names = said.get("names")
    return str(cast("list[object]", names)[0]) if isinstance(names, list) and names else None


def mark_class(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right where the best class is the picture's; `acc5` where it is among five, which needs five classes."""
    said = _said(answer)
    ranked = _listed(said, "ranked", (int, str))
    if not ranked:
        return Mark(None)
    parts = {"acc5": float(sample.answer in ranked[:BEST])} if len(ranked) >= BEST else {}
    return Mark(float(ranked[0] == sample.answer), _name(said), parts)


def mark_classes(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Of a picture with several classes: right where the best is one of them. The figure is made of all scores."""
    said = _said(answer)
    scores = _numbers(said)
    if not scores or len(scores) <= max(sample.answer, default=0):
        return Mark(None)
    original = {"original": 1.0} if compat == "original" else {}  # the figure of the whole set needs to know
    return Mark(float(int(np.argmax(scores)) in sample.answer), _name(said), original)


def mark_found(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right where the best candidate belongs to the query; `recall@k` where one of k does.

    compat="original" reads the ranking after the dual softmax where there is one: the published MSR-VTT program always
    ranks by it, though it makes use of all other queries.
    """
    said = _said(answer)
    ranked = _listed(said, "dual_softmax" if compat == "original" and "dual_softmax" in said else "ranked", str)
    if not ranked:
        return Mark(None)
    hits = {f"recall@{k}": float(any(one in sample.answer for one in ranked[:k])) for k in KS}
    return Mark(hits["recall@1"], ranked[0], hits)


def _unmarked(rows: Sequence[Marked], name: str) -> Scores | None:
    bare = [row.sample.id for row in rows if row.mark.score is None]
    if rows and not bare:
        return None
    why = f"{len(bare)} of {len(rows)} answers are no rankings: {_few(bare)}" if rows else "there is no answer"
    return Scores(values={}, withheld={name: why})


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


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
    return Scores(values=values, withheld=withheld, means={"acc1": 100.0})


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
    return replace(found, values={"mean of acc1 and acc5": mean, **found.values})


def classes_figures(rows: Sequence[Marked]) -> Scores:
    """Mean average precision over the classes, in percent."""
    if (nothing := _unmarked(rows, "mean_average_precision")) is not None:
        return nothing
    listed = [_numbers(_said(row.answer)) for row in rows]
    classes = Counter(map(len, listed)).most_common(1)[0][0]
    odd = [row.sample.id for row, found in zip(rows, listed, strict=True) if len(found) != classes]
    if odd:
        why = f"{len(odd)} of {len(rows)} answers have scores for another number of classes than {classes}: {_few(odd)}"
        return Scores(values={}, withheld={"mean_average_precision": why})
    scores = np.array(listed)
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
