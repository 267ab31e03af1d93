"""The table of all benchmarks: what every row of it must have."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest

from internvl.evaluation.download import CHECKSUM
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks import FILES, TABLE

GROUPS = {"captions", "vqa", "documents", "grounding", "general", "hallucination", "reasoning", "perception", "code",
          "multi-image", "video", "long-context", "domains", "own", "embeddings"}  # fmt: skip
METRICS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,@+_()/-]*")
ALL = pytest.mark.parametrize("benchmark", TABLE.values(), ids=TABLE)


def test_names_are_unique():
    names = Counter(benchmark.name for file in FILES for benchmark in file.TASKS)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(TABLE) == sum(len(file.TASKS) for file in FILES)


def test_no_title_stands_twice():
    assert [title for title, count in Counter(b.title for b in TABLE.values()).items() if count > 1] == []


@ALL
def test_it_says_what_it_is(benchmark):
    assert re.fullmatch(r"[a-z0-9][A-Za-z0-9.+—-]*", benchmark.name)  # one published key has a dash of its own
    assert benchmark.title.strip()
    assert re.match(r"arXiv:\d{4}\.\d{5}$|https?://\S+$", benchmark.paper), benchmark.paper
    assert benchmark.group in GROUPS


@ALL
def test_its_data_can_be_found(benchmark, tmp_path):
    assert benchmark.sources
    for source in benchmark.sources:
        assert source.files
        for file in source.files:
            Folder(tmp_path).find(file.path)  # refuses what leads out of the folder
            assert file.url or file.hint, f"{file.path}: nobody knows where to get it"
            if file.url:
                assert file.url.startswith(("https://", "http://"))
            if file.checksum:
                assert CHECKSUM.fullmatch(file.checksum)
                assert file.url


@ALL
def test_its_published_scores_are_plausible(benchmark):
    for score in benchmark.published:
        assert METRICS.fullmatch(score.metric), score.metric
        assert score.model
        assert score.source
        assert 0 <= score.value <= 3000  # MME's sums go to 2,800
    assert len(set(benchmark.published)) == len(benchmark.published)


@ALL
def test_its_settings_can_be_met(benchmark):
    settings = benchmark.settings
    assert 1 <= settings.min_new_tokens <= settings.max_new_tokens <= 16384
    assert 1 <= settings.max_tiles <= 40
    assert settings.frame_line.count("{}") <= 1


def test_listing_them_loads_nothing_heavy():
    heavy = "{'torch', 'pyarrow', 'PIL', 'av'}"
    code = f"import sys, internvl.evaluation.tasks; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
