"""What nano-c can do, on pictures that it never learnt from: classes without further training, and retrieval.

    python benchmarks/nano_c.py --data ../shared/data

writes benchmarks/results/nano_c.md. Pictures are the test splits and the held-out drawings that the project's own tasks
ask about (`internvl.evaluation.tasks.own`), and scenes drawn with the seed that training never uses.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from internvl.evaluation.benchmark import Sample
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks import own
from internvl.inference.embed import Embedder
from internvl.metrics.statistics import wilson
from internvl.nano.fonts import LEARNT, find_fonts
from internvl.nano.sample import Kit
from internvl.nano.shapes import draw_scene

RESULT = Path(__file__).parent / "results" / "nano_c.md"
PHOTO = ("a photo of a {c}", "a picture of a {c}", "a {c}", "{c}")
RUBBISH = ("a photo of {c}", "a piece of {c}", "{c} waste", "rubbish made of {c}")
FLAG = ("the flag of {c}", "flag of {c}", "the national flag of {c}")
ICON = ("an emoji of {c}", "an icon of {c}", "{c} emoji")
SCENES = 200


def classified(look: Embedder, samples: Sequence[Sample], names: Sequence[str], templates: Sequence[str]) -> str:
    """Cells: pictures, classes, top 1 with its interval, top 5."""
    pictures = [Image.open(io.BytesIO(sample.pictures[0].read())).convert("RGB") for sample in samples]
    best = (look.images(pictures) @ look.classifier(names, templates)).topk(5, dim=1).indices
    hit = best == torch.tensor([names.index(sample.answer) for sample in samples])[:, None]
    first, any_of = int(hit[:, 0].sum()), int(hit.any(dim=1).sum())
    low, high = (100 * end for end in wilson(first, len(hit)))
    return f"{len(hit)} | {len(names)} | {first / len(hit):.1%} ({low:.1f} to {high:.1f}) | {any_of / len(hit):.1%}"


def retrieved(look: Embedder) -> list[str]:
    """Rows: scenes with all different captions look for their captions, and the other way round."""
    kit, found = Kit(fonts=find_fonts(LEARNT)), {}
    for number in range(10 * SCENES):
        sample = draw_scene(random.Random(f"scene 0 {number}"), kit)
        if sample.caption is not None and len(found) < SCENES:
            found.setdefault(sample.caption, sample.pictures[0])
    scores = look.images(list(found.values())) @ look.texts(list(found)).T
    rows = []
    for way, table in (("picture to caption", scores), ("caption to picture", scores.T)):
        place = (table > table.diagonal()[:, None]).sum(dim=1)
        cells = " | ".join(f"{(place < k).float().mean():.1%}" for k in (1, 5, 10))
        rows.append(f"| {way} | {len(table)} | {cells} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="nano-c")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    folder = Folder(args.data)
    photos, rubbish = list(own.read_photographs(folder)), list(own.read_rubbish(folder))
    flags, icons = list(own.read_flags(folder, everything=False)), list(own.read_icons(folder, everything=False))
    countries = [row["country"] for row in read(args.data / "flags" / "train.jsonl")]
    emoji = dict.fromkeys(row["name"] for row in read(args.data / "emoji" / "train.jsonl"))
    emoji = [name for name in emoji if not name.startswith("flag: ")]
    look = Embedder.load(args.model, fit="crop", dtype="float32", device="cpu")
    rows = [
        f"| {what} | {classified(look, samples, names, templates)} |"
        for what, samples, names, templates in (
            ("Caltech-101, test split", photos, sorted({sample.answer for sample in photos}), PHOTO),
            ("TrashNet, test split", rubbish, list(own.RUBBISH), RUBBISH),
            ("flags, drawings held out", flags, countries, FLAG),
            ("emoji, drawings held out", icons, emoji, ICON),
        )
    ]
    args.out.write_text("\n".join([
        "# nano-c on pictures it never learnt from", "",
        "Zero-shot: a class is the mean of its prompts' vectors. In brackets the 95 % interval.", "",
        "| pictures | n | classes | top 1 | top 5 |", "|---|---|---|---|---|", *rows, "",
        f"Retrieval among {SCENES} drawn scenes with different captions:", "",
        "| way | n | at 1 | at 5 | at 10 |", "|---|---|---|---|---|", *retrieved(look), "",
        "`python benchmarks/nano_c.py --data ../shared/data`.", "",
    ]), encoding="utf-8")  # fmt: skip
    print(args.out.read_text(encoding="utf-8"))


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
