"""The list of `internvl eval --list`."""

from __future__ import annotations

import json
from pathlib import Path

from internvl.cli.scores import columns


def listing(data: Path, as_json: bool) -> str:
    """Every benchmark, and whether its data is there."""
    from internvl.evaluation.folder import Folder
    from internvl.evaluation.planning import source_of
    from internvl.evaluation.tasks import TABLE

    folder = Folder(data)
    found = [(benchmark, source_of(benchmark, folder)) for benchmark in TABLE.values()]
    if as_json:
        return json.dumps(
            [
                {
                    "name": benchmark.name,
                    "title": benchmark.title,
                    "group": benchmark.group,
                    "paper": benchmark.paper,
                    "judge": benchmark.judging is not None,
                    "data": None if source is None else source.layout,
                    "files": {s.layout: [file.path for file in s.files] for s in benchmark.sources},
                    "from": {f.path: f.url or f.hint for s in benchmark.sources for f in s.files if f.url or f.hint},
                }
                for benchmark, source in found
            ],
            ensure_ascii=False,
        )
    rows = [("benchmark", "title", "group", f"data in {data}")]
    for benchmark, source in found:
        judged = ", judged" if benchmark.judging is not None else ""
        there = "-" if source is None else source.layout
        rows.append((benchmark.name, benchmark.title, benchmark.group + judged, there))
    return columns(rows)
