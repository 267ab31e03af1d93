"""Every benchmark, by name.

>>> from internvl.evaluation.tasks import TABLE
>>> TABLE["pope"].title
'POPE'
"""

from __future__ import annotations

from collections.abc import Mapping

from internvl.evaluation.benchmark import Benchmark
from internvl.evaluation.tasks import (
    captions,
    charts,
    code,
    documents,
    domains,
    general,
    grounding,
    hallucination,
    judged,
    long_context,
    mathematics,
    mmbench,
    mme,
    mme_realworld,
    mmmu,
    multi_image,
    own,
    own_puzzles,
    own_unseen,
    perception,
    problems,
    retrieval,
    science,
    video,
    vqa,
    zeroshot,
)

FILES = (
    captions,
    charts,
    code,
    documents,
    domains,
    general,
    grounding,
    hallucination,
    judged,
    long_context,
    mathematics,
    mmbench,
    mme,
    mme_realworld,
    mmmu,
    multi_image,
    own,
    own_puzzles,
    own_unseen,
    perception,
    problems,
    retrieval,
    science,
    video,
    vqa,
    zeroshot,
)

TABLE: Mapping[str, Benchmark] = {benchmark.name: benchmark for file in FILES for benchmark in file.TASKS}
"""In the order in which they are listed. That no name occurs twice is a test's business."""
