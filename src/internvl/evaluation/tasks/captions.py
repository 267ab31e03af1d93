"""Captions of COCO, Flickr30k and NoCaps, in the original repository's layout; COCO also as VLMEvalKit asks it.

The figures are those of the COCO caption evaluation, times 100. Where Java is, captions are tokenised by the PTB
tokeniser, as for the published scores; elsewhere by the plain one, and the scores say so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Marked,
    Sample,
    Scores,
    Settings,
    Source,
    Summarise,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.published import figures
from internvl.metrics.caption_tools import Counts, meteor, meteor_counts, missing, ptb_tokenise, spice
from internvl.metrics.captions import References, Tokens, bleu, cider, rouge_l, rouge_l_of, tokenise

PROMPT = "Provide a one-sentence caption for the provided image."
VLMEVALKIT_PROMPT = (
    "Please describe this image in general. Directly provide the description, do not include prefix like "
    '"This image depicts". '
)
VLMEVALKIT_TABLE = "https://opencompass.openxlab.space/utils/VLMEval/COCO_VAL.tsv"
SETTINGS = Settings(max_new_tokens=30, min_new_tokens=8)
RELEASE = "https://github.com/OpenGVLab/InternVL/releases/download/data"
Pair = tuple[Tokens, References]
"""A caption and what it is compared with."""
COCO_IMAGES = File("coco/val2014", hint="http://images.cocodataset.org/zips/val2014.zip, unpacked")


# ---- the figures -----------------------------------------------------------------------------------------------------


def mark_caption(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """A caption's mark is its ROUGE-L with plain tokens: the only one of the figures that a single caption has."""
    known = tuple(tokenise(text) for text in sample.answer)
    return Mark(rouge_l_of(tokenise(answer), known), answer.strip(), {"words": len(answer.split())})


class Tokeniser:
    """Tokens of captions, and what METEOR counts of them; each is asked for once, however often figures are made."""

    def __init__(self) -> None:
        self.why_plain = missing("tokenizer")
        self._tokens: dict[str, Tokens] = {}
        self._counts: dict[Pair, Counts] = {}

    def tokens(self, captions: Iterable[str]) -> list[Tokens]:
        wanted = list(captions)
        new = [caption for caption in dict.fromkeys(wanted) if caption not in self._tokens]
        if new:
            found = [tokenise(caption) for caption in new] if self.why_plain else ptb_tokenise(new)
            self._tokens.update(zip(new, found, strict=True))
        return [self._tokens[caption] for caption in wanted]

    def counts(self, pairs: Sequence[Pair]) -> list[Counts]:
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in self._counts]:
            self._counts.update(zip(new, meteor_counts(*zip(*new, strict=True)), strict=True))
        return [self._counts[pair] for pair in pairs]


def caption_figures(by: str | None = None) -> Summarise:
    """CIDEr first, then the others. by: a fact of the samples by which CIDEr is also given, each part on its own."""
    tools: list[Tokeniser] = []

    def summarise(rows: Sequence[Marked]) -> Scores:
        if not rows:
            return Scores(values={}, withheld={"CIDEr": "there is no answer"})
        if not tools or tools[0].why_plain != missing("tokenizer"):
            tools[:] = [Tokeniser()]
        pairs = _pairs(rows, tools[0])
        said, known = [tokens for tokens, _ in pairs], [references for _, references in pairs]
        values = {"CIDEr": 100 * cider(said, known)}
        values |= {f"BLEU{n}": 100 * value for n, value in enumerate(bleu(said, known), start=1)}
        values["ROUGE_L"] = 100 * rouge_l(said, known)
        withheld = _with_java(values, pairs, tools[0])
        values["words"] = sum(row.mark.parts["words"] for row in rows) / len(rows)
        return Scores(values=values, withheld=withheld, groups={} if by is None else {by: _parts(rows, pairs, by)})

    return summarise


def _pairs(rows: Sequence[Marked], tools: Tokeniser) -> list[Pair]:
    """Each answer's tokens and those of its references; Java is started once for all of them."""
    texts = [text for row in rows for text in (row.answer, *row.sample.answer)]
    tokens = iter(tools.tokens(texts))
    return [(next(tokens), tuple(next(tokens) for _ in row.sample.answer)) for row in rows]


def _with_java(values: dict[str, float], pairs: Sequence[Pair], tools: Tokeniser) -> dict[str, str]:
    """Adds METEOR, and SPICE where its models are; returns why one is withheld."""
    withheld = {} if tools.why_plain is None else {"PTB tokens": f"{tools.why_plain}: words were split by a plain rule"}
    if (why := tools.why_plain or missing("meteor")) is None:
        values["METEOR"] = 100 * meteor(tools.counts(pairs))
    else:
        withheld["METEOR"] = why
    if (why := missing("spice")) is None:
        values["SPICE"] = 100 * spice(*zip(*pairs, strict=True))
    else:
        withheld["SPICE"] = why
    return withheld


def _parts(rows: Sequence[Marked], pairs: Sequence[Pair], by: str) -> dict[str, float]:
    members: dict[str, list[Pair]] = defaultdict(list)
    for row, pair in zip(rows, pairs, strict=True):
        if by in row.sample.facts:
            members[str(row.sample.facts[by])].append(pair)
    return {name: 100 * cider(*zip(*part, strict=True)) for name, part in sorted(members.items())}


# ---- the data --------------------------------------------------------------------------------------------------------


def captions_of(folder: Folder, name: str) -> Mapping[str, list[str]]:
    """By picture, the captions of a file in COCO's form: {"annotations": [{"image_id", "caption"}, ...]}."""
    known: dict[str, list[str]] = defaultdict(list)
    for row in folder.json_rows(name, "annotations"):
        known[str(row["image_id"])].append(row.text("caption"))
    return known


def _sample(row: Row, id: str, picture: str, known: Mapping[str, list[str]], folder: Folder) -> Sample:
    if id not in known:
        raise DataError(f"{row.where}: picture {id} has no caption among the annotations; expected at least one")
    facts = {"domain": row.text("domain")} if "domain" in row else {}
    return Sample(id=id, prompt=PROMPT, pictures=(folder.picture(picture, row=row),), answer=known[id], facts=facts)


def _once(samples: Iterable[tuple[Row, Sample]]) -> Iterator[Sample]:
    seen: set[str] = set()
    for row, sample in samples:
        if sample.id in seen:
            raise DataError(f"{row.where}: picture {sample.id} a second time; expected each once")
        seen.add(sample.id)
        yield sample


def read_coco(folder: Folder) -> Iterator[Sample]:
    """A list of pictures; their captions stand in a second file, by the number at the end of a picture's name."""
    known = captions_of(folder, "coco/annotations/coco_karpathy_test_gt.json")

    def samples() -> Iterator[tuple[Row, Sample]]:
        for row in folder.json_rows("coco/annotations/coco_karpathy_test.json"):
            name = row.text("image")
            if (number := re.search(r"(\d+)\.jpg$", name)) is None:
                raise row.wrong("image", "a name that ends in a number, such as COCO_val2014_000000391895.jpg")
            yield row, _sample(row, str(int(number[1])), f"coco/{name}", known, folder)

    return _once(samples())


def read_coco_form(folder: Folder, *, name: str, pictures: str) -> Iterator[Sample]:
    """Pictures and captions in one file of COCO's form; a picture's file is its `file_name`, or its `image`."""
    known = captions_of(folder, name)

    def samples() -> Iterator[tuple[Row, Sample]]:
        for row in folder.json_rows(name, "images"):
            file = row.text("file_name" if "file_name" in row else "image")
            yield row, _sample(row, str(row["id"]), f"{pictures}/{file}", known, folder)

    return _once(samples())


def read_table(folder: Folder) -> Iterator[Sample]:
    for row in folder.table("COCO_VAL.tsv"):
        prompt = row.text("question") if row.get("question") else VLMEVALKIT_PROMPT
        known = row.items_of("answer")
        if not known:
            raise row.wrong("answer", "at least one caption")
        yield Sample(id=str(row["index"]), prompt=prompt, pictures=row.pictures(), answer=known)


# ---- the benchmarks --------------------------------------------------------------------------------------------------


_INTERNVL_G = partial(figures, "InternVL-14B-224px", "InternVL 1.0 repository, internvl_g")


def _benchmark(name: str, title: str, paper: str, source: Source, *, by: str | None = None, **other: Any) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        paper=paper,
        group="captions",
        sources=(source,),
        mark=mark_caption,
        summarise=caption_figures(by),
        settings=SETTINGS,
        **other,
    )


def _source(read: Callable[[Folder], Iterator[Sample]], *files: File) -> Source:
    return Source("original", files, read)


COCO = _benchmark(
    "caption-coco",
    "COCO captions, Karpathy test",
    "arXiv:1504.00325",
    _source(
        read_coco,
        File("coco/annotations/coco_karpathy_test.json", hint=f"{RELEASE}/coco_karpathy_test.json"),
        File("coco/annotations/coco_karpathy_test_gt.json", hint=f"{RELEASE}/coco_karpathy_test_gt.json"),
        COCO_IMAGES,
    ),
    published=(
        *figures(
            "InternVL2-2B", "InternVL 2.0 documentation, fine-tuning", CIDEr=79.3, BLEU4=21.4, METEOR=26.7, ROUGE_L=50.4
        ),
        *_INTERNVL_G(
            CIDEr=128.18, BLEU1=78.76, BLEU2=63.54, BLEU3=49.11, BLEU4=37.06, METEOR=30.11, ROUGE_L=58.98, words=10.597
        ),
    ),
    note="InternVL-14B captions with `English caption:`, five beams and the whole picture as one tile.",
)

FLICKR30K = _benchmark(
    "caption-flickr30k",
    "Flickr30k captions, Karpathy test",
    "arXiv:1505.04870",
    _source(
        partial(read_coco_form, name="flickr30k/flickr30k_test_karpathy.json", pictures="flickr30k"),
        File("flickr30k/flickr30k_test_karpathy.json", hint=f"{RELEASE}/flickr30k_test_karpathy.json"),
        File("flickr30k/Images", hint="the pictures, from https://bryanplummer.com/Flickr30kEntities/"),
    ),
    published=_INTERNVL_G(
        CIDEr=79.20, BLEU1=71.83, BLEU2=53.53, BLEU3=38.34, BLEU4=27.02, METEOR=25.26, ROUGE_L=53.06, words=10.666
    ),
)

NOCAPS = _benchmark(
    "caption-nocaps",
    "NoCaps, validation",
    "arXiv:1812.08658",
    _source(
        partial(read_coco_form, name="nocaps/nocaps_val_4500_captions.json", pictures="nocaps/images"),
        File(
            "nocaps/nocaps_val_4500_captions.json", hint="https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json"
        ),
        File("nocaps/images", hint="the pictures, from https://nocaps.org/download"),
    ),
    by="domain",
    published=_INTERNVL_G(
        CIDEr=113.72, BLEU1=85.18, BLEU2=71.65, BLEU3=57.34, BLEU4=44.27, METEOR=30.08, ROUGE_L=60.70, words=10.463
    ),
)

COCO_VAL = _benchmark(
    "caption-coco-val",
    "COCO captions as VLMEvalKit asks for them",
    "arXiv:1504.00325",
    Source(
        "vlmevalkit",
        (File("COCO_VAL.tsv", hint="https://opencompass.openxlab.space/utils/VLMEval/COCO_VAL.tsv"),),
        read_table,
    ),
    note="VLMEvalKit scores untokenised words; here they are tokenised.",
)

TASKS: tuple[Benchmark, ...] = (COCO, FLICKR30K, NOCAPS, COCO_VAL)
