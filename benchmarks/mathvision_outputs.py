"""The stored answers of some twenty models to MATH-Vision, scored again, beside the scores published with them.

    git clone https://github.com/mathllm/MATH-V
    python benchmarks/mathvision_outputs.py MATH-V

Each `outputs/**/X.jsonl` of that repository holds a model's 3040 responses and what the authors' scorer said of each;
`X_result.json` holds the accuracies that were published: overall, by subject, by level and by both. Here only the
responses are read, scored by `mathvision_match`, and every figure is compared with the published one.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from internvl.metrics.mathematics import mathvision_answer, mathvision_match


class Compared(NamedTuple):
    """One model: figures as (right, total) by the names of the published file, and the answers marked otherwise."""

    model: str
    ours: dict[str, tuple[int, int]]
    published: dict[str, tuple[int, int]]
    differing: list[str]
    other_answers: list[str]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def names_of(problem: dict[str, Any]) -> tuple[str, ...]:
    """The published figures that a problem counts for."""
    subject, level = problem["subject"], f"-level{problem['level']}"
    return "-all", level, subject, f"{subject}_{level[1:]}", f"{level}_{subject}"


def compare(path: Path, problems: dict[str, dict[str, Any]]) -> Compared:
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    differing, other_answers = [], []
    for line in lines(path):
        problem = problems[line["id"]]
        truth, response = str(problem["answer"]), line["response"]
        hit = mathvision_match(response, truth, problem["options"])
        said = mathvision_answer(response)
        if hit != line["correct"]:
            differing.append(f"{line['id']}: `{said}` for `{truth}`, ours {hit}, stored {line['correct']}")
        if said != line["model_answer"]:
            other_answers.append(f"{line['id']}: ours `{said}`, stored `{line['model_answer']}`")
        for name in names_of(problem):
            right[name] += hit
            total[name] += 1
    published = {}
    for name, text in json.loads(path.with_name(f"{path.stem}_result.json").read_text(encoding="utf-8")).items():
        found, _, of = text.partition("=")[0].partition("/")
        published[name] = int(found), int(of)
    return Compared(
        path.stem, {name: (right[name], total[name]) for name in total}, published, differing, other_answers
    )


def percent(figure: tuple[int, int]) -> str:
    return f"{round(figure[0] / max(figure[1], 1) * 100, 2):.2f}"


def equal(one: Compared, names: list[str]) -> str:
    same = sum(one.ours[name] == one.published[name] for name in names)
    return f"{same} of {len(names)}"


def table(found: list[Compared]) -> Iterator[str]:
    yield "| model | ours | published | answers marked otherwise | by subject | by level | by subject and level |"
    yield "|---|---|---|---|---|---|---|"
    for one in found:
        levels = [name for name in one.ours if name.startswith("-level") and "_" not in name]
        subjects = [name for name in one.ours if not name.startswith("-") and "_level" not in name]
        both = [name for name in one.ours if not name.startswith("-") and "_level" in name]
        yield (
            f"| {one.model} | {percent(one.ours['-all'])} | {percent(one.published['-all'])} | "
            f"{len(one.differing)} of {one.ours['-all'][1]} | {equal(one, subjects)} | {equal(one, levels)} | "
            f"{equal(one, both)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of github.com/mathllm/MATH-V")
    root: Path = parser.parse_args().checkout
    problems = {problem["id"]: problem for problem in lines(root / "data" / "test.jsonl")}
    results = sorted(root.glob("outputs/**/*_result.json"))
    paths = [path.with_name(path.name.replace("_result.json", ".jsonl")) for path in results]
    found = [compare(path, problems) for path in paths if path.exists()]
    print("\n".join(table(found)))
    for path in paths:
        if not path.exists():
            print(f"\nThe checkout has no {path.relative_to(root)}.")
    answers, marked = sum(one.ours["-all"][1] for one in found), sum(len(one.differing) for one in found)
    print(f"\n{answers - marked} of {answers} answers are marked as they were; the others:\n")
    for one in found:
        print("\n".join(f"- {one.model}, {difference}" for difference in one.differing), end="\n" * bool(one.differing))
    print("\nFinal answers that were read otherwise:\n")
    for one in found:
        print("\n".join(f"- {one.model}, {other}" for other in one.other_answers), end="\n" * bool(one.other_answers))


if __name__ == "__main__":
    main()
