"""Zero-shot classification and retrieval with InternVL-C and -G: benchmarks that no question is asked for.

A `Probe` is a `Benchmark` whose "answers" are rankings by similarity, so that a run, its scores and its report are
those of any other benchmark. Only who answers is another:

    responder = PairResponder(Embedder.load("OpenGVLab/InternVL-14B-224px"), name="InternVL-14B-224px")
    answer_all([plan(probe, data)], responder, out)      # asks `responder_of` who answers this benchmark

Each picture and each text is embedded once, whatever the number of questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as Photo

from internvl.data.media import open_clip, open_image
from internvl.data.pair import CAPTION_PROMPT
from internvl.data.video import frame_indices
from internvl.errors import DataError, InternVLError, UsageError
from internvl.evaluation.benchmark import (
    Benchmark,
    Footage,
    Picture,
    Sample,
    Source,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rankings import BEST, KS, Probe
from internvl.evaluation.responders import Asked, Reply, Responder, fingerprint
from internvl.evaluation.zeroshot_data import ClassSource
from internvl.inference.embed import CAPTION, Embedder
from internvl.metrics.retrieval import dual_softmax, first

Vectors = NDArray[np.float32]


# ---- who answers -----------------------------------------------------------------------------------------------------


def responder_of(responder: Responder, benchmark: Benchmark, data: Path) -> Responder:
    """Who answers this benchmark: a model of pairs in its own way, everybody else as they are."""
    check_kind(benchmark, pair=isinstance(responder, PairResponder))
    return responder.of(benchmark, Folder(data)) if isinstance(responder, PairResponder) else responder


def check_kind(benchmark: Benchmark, *, pair: bool) -> None:
    """Refuse questions to a model of pairs, and probes to anybody else; needs no model."""
    if isinstance(benchmark, Probe) and not pair:
        raise UsageError(
            f"{benchmark.name} compares embeddings and asks no questions; use an InternVL-14B or InternVL-C checkpoint"
        )
    if pair and not isinstance(benchmark, Probe) and benchmark.group != "captions":
        raise UsageError(f"{benchmark.name} asks questions, and a model of pairs answers none; use a chat model")


class PairResponder:
    """InternVL-C or -G in this process: ranks for probes, writes captions, and answers no questions."""

    def __init__(self, embedder: Embedder, *, name: str, path: Path | None = None, batch_size: int = 16) -> None:
        """path: where its weights are, to take their fingerprint."""
        if embedder.tokenizer is None:
            raise UsageError(f"{name} has no text side; expected an InternVL-14B or InternVL-C checkpoint")
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
        self._look, self._name, self._path, self._size = embedder, name, path, batch_size

    def describe(self) -> dict[str, Any]:
        weight = next(self._look.model.parameters())
        model = {
            "kind": "pair",
            "name": self._name,
            "fingerprint": None if self._path is None else fingerprint(self._path),
            "dtype": str(weight.dtype).removeprefix("torch."),
            "mode": self._look.mode,
        }
        return {"model": model, "device": str(weight.device), "batch_size": self._size}

    def of(self, benchmark: Benchmark, folder: Folder) -> Responder:
        if isinstance(benchmark, Probe):
            return EmbeddingResponder(benchmark, self._look, folder, batch_size=self._size)
        return CaptionResponder(self._look, batch_size=self._size)

    def answer(self, questions: Iterable[Asked]) -> Iterator[Reply]:
        raise UsageError(f"{self._name} answers a benchmark, not single questions; see responder_of")


class EmbeddingResponder:
    """Answers a probe's samples by similarity. For retrieval every process embeds all candidates."""

    def __init__(self, probe: Probe, embedder: Embedder, folder: Folder, *, batch_size: int = 16) -> None:
        self._probe, self._folder, self._size = probe, folder, batch_size
        self._look = Embedder(
            embedder.model, embedder.tokenizer, mode=embedder.mode, fit=probe.fit, limits=embedder.limits
        )

    def describe(self) -> dict[str, Any]:
        return {"mode": self._look.mode, "fit": self._look.fit}

    def answer(self, questions: Iterable[Asked]) -> Iterator[Reply]:
        if self._probe.kind == "classification":
            yield from self._classified(iter(questions))
        elif asked := list(questions):
            yield from self._found(asked)

    def _source(self) -> Source:
        for source in self._probe.sources:
            if all(map(self._folder.has, source.files)):
                return source
        raise DataError(f"{self._probe.name}: its data is not in {self._folder.root}")

    # ---- classes -----------------------------------------------------------------------------------------------------

    def _classified(self, questions: Iterator[Asked]) -> Iterator[Reply]:
        source = self._source()
        assert isinstance(source, ClassSource)  # those of a classification are
        weights: Vectors | None = None
        classes = source.classes(self._folder)
        while batch := list(islice(questions, self._size)):
            if weights is None:  # only once there is something to classify: a thousand classes take their time
                weights = self._look.classifier(classes.names, classes.templates).float().cpu().numpy()
            for asked in batch:
                _check_labels(asked.sample, len(classes.names))
            scores = self._pictures([asked.sample for asked in batch], batch[0].settings.frames) @ weights
            for asked, row, best in zip(batch, scores, first(scores, BEST), strict=True):
                if isinstance(asked.sample.answer, list):
                    said: dict[str, Any] = {"scores": [round(float(score), 6) for score in row]}
                else:
                    said = {"ranked": best}
                said["names"] = [classes.names[label] for label in best]
                said["templates"] = f"{len(classes.templates)}, {classes.origin}"
                yield Reply(asked, json.dumps(said, ensure_ascii=False))

    # ---- retrieval ---------------------------------------------------------------------------------------------------

    def _found(self, questions: Sequence[Asked]) -> Iterator[Reply]:
        pool = list(self._source().read(self._folder))
        texts = [sample for sample in pool if sample.facts["side"] == "text"]
        shown = [sample for sample in pool if sample.facts["side"] != "text"]
        videos = any(sample.footage is not None for sample in shown)
        said = self._texts([sample.prompt for sample in texts])
        seen = self._every_picture(shown, questions[0].settings.frames)
        for side, queries, others, candidates in (("text", texts, shown, seen), ("shown", shown, texts, said)):
            vectors = said if side == "text" else seen
            places = {sample.id: place for place, sample in enumerate(queries)}
            ids = [sample.id for sample in others]
            asked = [one for one in questions if (one.sample.facts["side"] == "text") == (side == "text")]
            dual = dual_softmax(vectors @ candidates.T) if videos and asked else None
            for start in range(0, len(asked), 1024):
                part = asked[start : start + 1024]
                rows = [places[one.sample.id] for one in part]
                rankings = {"ranked": first(vectors[rows] @ candidates.T, KS[-1])}
                if dual is not None:
                    rankings["dual_softmax"] = first(dual[rows], KS[-1])
                for place, one in enumerate(part):
                    named = {how: [ids[best] for best in found[place]] for how, found in rankings.items()}
                    yield Reply(one, json.dumps(named, ensure_ascii=False))

    def _texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors; a text that stands several times is embedded once."""
        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = self._look.texts(list(place)).cpu().numpy()
        return vectors[[place[text] for text in texts]]

    def _every_picture(self, samples: Sequence[Sample], frames: int) -> Vectors:
        parts = range(0, len(samples), self._size)
        return np.concatenate([self._pictures(samples[start : start + self._size], frames) for start in parts])

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def _pictures(self, samples: Sequence[Sample], frames: int) -> Vectors:
        """(N, dim): unit vectors of what the samples show."""
        if any(sample.footage is not None for sample in samples):
            return np.concatenate([self._video(_footage(sample), frames) for sample in samples])
        photos = [_opened(picture, self._look) for sample in samples for picture in sample.pictures]
        return self._look.images(photos, batch=self._size).cpu().numpy()

    def _video(self, footage: Footage, frames: int) -> Vectors:
        """(1, dim)"""
        try:
            clip = open_clip(footage.path, partial(frame_numbers, count=frames), self._look.limits)
        except InternVLError as error:
            raise DataError(f"{footage.name}: {str(error).removeprefix(f'{footage.path}: ')}") from None
        return self._look.frames(clip.frames)[None].cpu().numpy()


class CaptionResponder:
    """Answers caption benchmarks with InternVL-14B as published: `English caption:`, five beams, one stretched tile."""

    def __init__(self, embedder: Embedder, *, batch_size: int = 8) -> None:
        self._look, self._size = embedder, batch_size

    def describe(self) -> dict[str, Any]:
        return {"prompt": CAPTION_PROMPT, "beams": CAPTION.beams}

    def answer(self, questions: Iterable[Asked]) -> Iterator[Reply]:
        source = iter(questions)
        while batch := list(islice(source, self._size)):
            photos = [_opened(picture, self._look) for asked in batch for picture in asked.sample.pictures]
            captions = self._look.captions(photos, batch=self._size)
            yield from (Reply(asked, caption.strip()) for asked, caption in zip(batch, captions, strict=True))


def frame_numbers(frames: int, fps: float, *, count: int) -> list[int]:
    """Every so many frames, from the middle of the first part: the rule of the published MSR-VTT program.

    It has no answer where that gives another number of frames; there the middles of equal parts are taken.

    >>> frame_numbers(100, 25.0, count=8), frame_numbers(100, 25.0, count=1)
    ([6, 19, 32, 45, 58, 71, 84, 97], [50])
    """
    step = -(-frames // count)
    found = [place + step // 2 for place in range(0, frames, step)]
    return found if len(found) == count and found[-1] < frames else frame_indices(frames, fps, count)


def _opened(picture: Picture, look: Embedder) -> Photo:
    try:
        return open_image(picture.read(), look.limits)
    except InternVLError as error:
        raise DataError(f"{picture.name}: {str(error).removeprefix('the picture: ')}") from None


def _footage(sample: Sample) -> Footage:
    if sample.footage is None:
        raise DataError(f"sample {sample.id} has no video, though others of its kind have")
    return sample.footage


def _check_labels(sample: Sample, classes: int) -> None:
    labels: list[int] = sample.answer if isinstance(sample.answer, list) else [sample.answer]
    if any(not 0 <= label < classes for label in labels):
        raise DataError(f"sample {sample.id}: its class is number {max(labels)}, but there are names for {classes}")
