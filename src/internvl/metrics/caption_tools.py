"""The Java programs of the COCO caption evaluation: the PTB tokeniser, METEOR and SPICE, as pycocoevalcap ships them.

    if missing("tokenizer") is None: tokens = ptb_tokenise(captions)

Each needs Java and the package pycocoevalcap (`pip install internvl[eval]`), of which only the .jar files are used.
They are started with a list of arguments; captions go in through standard input or a file, and no shell reads them.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from internvl.errors import DataError, MissingExtra
from internvl.metrics.captions import References, Tokens

JARS = {
    "tokenizer": "tokenizer/stanford-corenlp-3.4.1.jar",
    "meteor": "meteor/meteor-1.5.jar",
    "spice": "spice/spice-1.0.jar",
}
SPICE_MODELS = "spice/lib/stanford-corenlp-3.6.0-models.jar"
"""Which pycocoevalcap does not ship: 340 MB of https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip."""

Counts = tuple[float, ...]
"""Of a caption and its reference: words, function words, matches by stage and kind, chunks, matched words."""
COUNTED = 23
ALPHA, BETA, GAMMA, DELTA, STAGES = 0.85, 0.2, 0.6, 0.75, (1.0, 0.6, 0.8, 0.6)
"""METEOR's parameters for English; the stages are exact, stem, synonym, paraphrase."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that are dropped. The published list also has `-LRB-` and its like, which lower-cased text never holds."""


def missing(tool: str) -> str | None:
    """Why a tool cannot run here, in one line that says how to get it; None: it can.

    >>> missing("meteor")  # doctest: +SKIP
    'Java is not installed (apt-get install default-jre-headless)'
    """
    if shutil.which("java") is None:
        return "Java is not installed (apt-get install default-jre-headless)"
    package = _package()
    if package is None or not (package / JARS[tool]).is_file():
        return "pycocoevalcap is not installed (pip install 'internvl[eval]')"
    if tool == "spice" and not (package / SPICE_MODELS).is_file():
        return f"the parser's models are not at pycocoevalcap/{SPICE_MODELS} (of stanford-corenlp-full-2015-12-09)"
    return None


def ptb_tokenise(captions: Sequence[str]) -> list[Tokens]:
    """The tokens of Stanford's PTB tokeniser 3.4.1, lower-cased, without punctuation, as for the published scores.

    A bracket becomes `-lrb-`, which the published list of punctuation misses: it stays, and counts as a word.
    """
    lines = [" ".join(caption.split()) for caption in captions]  # a line break inside a caption would shift the rest
    if not lines:
        return []
    options = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8")
    done = _run(["-cp", JARS["tokenizer"], *options], "tokenizer", "\n".join(lines) + "\n")
    found = done.removesuffix("\n").split("\n")
    if len(found) != len(lines):
        raise DataError(f"the PTB tokeniser gave {len(found)} lines for {len(lines)} captions; expected one for each")
    return [tuple(token for token in line.split() if token not in PUNCTUATION) for line in found]


def meteor(counts: Sequence[Counts]) -> float:
    """METEOR 1.5 of a set, 0..1, from the counts of its captions (Denkowski and Lavie 2014, WMT), English defaults.

    Counts are added and then weighed, so a part of a set costs no second start of Java. A caption that is its reference
    to the letter adds no chunk; alone, it is worth 1.
    """
    rows = [(*row[:20], 0.0, *row[21:]) if _perfect(row) and len(counts) > 1 else row for row in counts]
    total = [sum(column) for column in zip(*rows, strict=True)]
    said, known, said_function, known_function, *matched, chunks, said_matched, known_matched = total
    precision = recall = 0.0
    for weight, place in zip(STAGES, range(0, 16, 4), strict=True):
        content, known_content, function, known_words = matched[place : place + 4]
        precision += weight * (DELTA * content + (1 - DELTA) * function)
        recall += weight * (DELTA * known_content + (1 - DELTA) * known_words)
    if not precision or not recall:
        return 0.0
    precision /= DELTA * (said - said_function) + (1 - DELTA) * said_function
    recall /= DELTA * (known - known_function) + (1 - DELTA) * known_function
    fragments = 0.0 if len(rows) == 1 and _perfect(rows[0]) else 2 * chunks / (said_matched + known_matched)
    return (1 - GAMMA * fragments**BETA) / ((1 - ALPHA) / precision + ALPHA / recall)


def _perfect(row: Counts) -> bool:
    said, known, chunks, said_matched, known_matched = row[0], row[1], row[20], row[21], row[22]
    return chunks == 1 and said_matched == said and known_matched == known


def meteor_counts(candidates: Sequence[Tokens], references: Sequence[References]) -> list[Counts]:
    """What METEOR counted of each caption, made of PTB tokens, beside the reference that is best for it.

    Starting takes ten seconds: it reads a table of paraphrases.
    """
    command = [_java(), "-jar", "-Xmx2G", str(_jar("meteor")), "-", "-", "-stdio", "-l", "en", "-norm"]
    found: list[Counts] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for tokens, known in zip(candidates, references, strict=True):
            texts = [" ".join(row).replace("|||", "") for row in (*known, tokens)]
            process.stdin.write(" ||| ".join(["SCORE", *texts]) + "\n")
            process.stdin.flush()
            found.append(_counts(process.stdout.readline()))
        process.stdin.close()
    return found


def _counts(line: str) -> Counts:
    try:
        row = tuple(float(word) for word in line.split())
    except ValueError:
        row = ()
    if len(row) != COUNTED:
        raise DataError(f"METEOR answered {line.strip()[:60]!r}; expected {COUNTED} numbers")
    return row


def spice(candidates: Sequence[Tokens], references: Sequence[References]) -> float:
    """SPICE 1.0, 0..1: the mean over pictures (Anderson et al. 2016, arXiv:1607.08822). It takes 8 GB.

    This project has not run it with its models, only the exchange of files around it.
    """
    rows = [
        {"image_id": place, "test": " ".join(tokens), "refs": [" ".join(row) for row in known]}
        for place, (tokens, known) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "in.json", Path(folder) / "out.json"
        asked.write_text(json.dumps(rows), encoding="utf-8")
        _run(["-Xmx8G", "-jar", JARS["spice"], str(asked), "-out", str(answered), "-subset", "-silent"], "spice", "")
        found: list[dict[str, Any]] = json.loads(answered.read_text(encoding="utf-8"))
    scores = [float(row["scores"]["All"]["f"]) for row in found]
    if len(scores) != len(rows):
        raise DataError(f"SPICE gave {len(scores)} scores for {len(rows)} captions; expected one for each")
    return sum(scores) / len(scores)


# ---- starting them ---------------------------------------------------------------------------------------------------


def _package() -> Path | None:
    """Where pycocoevalcap lies; it is not imported."""
    found = importlib.util.find_spec("pycocoevalcap")
    places = list(found.submodule_search_locations or []) if found else []
    return Path(places[0]) if places else None


def _java() -> str:
    if (java := shutil.which("java")) is None:
        raise MissingExtra("Java is not installed; get it with `apt-get install default-jre-headless`")
    return java


def _jar(tool: str) -> Path:
    package = _package()
    if package is None or not (path := package / JARS[tool]).is_file():
        raise MissingExtra("pycocoevalcap is not installed; get it with `pip install 'internvl[eval]'`")
    return path


def _run(arguments: Sequence[str], tool: str, text: str) -> str:
    """What a program writes, having read `text`. A .jar among the arguments is that of the tool."""
    jar = str(_jar(tool))
    command = [_java(), *(jar if argument == JARS[tool] else argument for argument in arguments)]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DataError(f"{Path(jar).name} ended with status {done.returncode}: {last[:200]}")
    return done.stdout
