"""The world written down: WebDataset shards that one stage of training after another reads.

    write(Path("runs/nano_world"), world, scale=0.1, seed=1)
    runs/nano_world/clock-0000.tar      rows: .json and pictures; clock-0000.tar.json: which fields all of them have
    runs/nano_world/labels.json         meta files: the same shards read as labelled pictures (tower),
                    pairs.json          as picture and caption (contrastive),
                    chat.json           as conversations (fine-tuning),
                    preference.json     as a right answer and a wrong one (MPO)
                    classes.txt         all labels, one a line

A row has the fields of all four kinds as far as its sample knows them. A shard is written whole or not at all, and one
that is there with as many rows is not written again, so that the same call goes on where it was stopped.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from internvl.errors import UsageError
from internvl.nano.sample import Sample
from internvl.nano.world import SKILLS, WIDE_TILES, World

SHARD = 1000
"""Rows of one shard."""
METAS: Mapping[str, tuple[str, str]] = {
    "labels": ("label", "label"), "pairs": ("pair", "caption"), "chat": ("conversation", "conversations"),
    "preference": ("preference", "chosen"),
}  # fmt: skip
"""File: what its rows are read as, and the field that they need for it."""


@dataclass(frozen=True)
class Shard:
    """So many samples of one skill, from number `first` on."""

    skill: str
    index: int
    rows: int

    @property
    def name(self) -> str:
        return f"{self.skill}-{self.index:04d}.tar"


def plan(world: World, *, scale: float, skills: tuple[str, ...] = ()) -> list[Shard]:
    """The shards of a world of this size: each skill's rows times `scale`, at least one."""
    found = []
    for skill in skills or world.skills:
        left = max(1, round(SKILLS[skill].rows * scale))
        for index in range(-(-left // SHARD)):
            found.append(Shard(skill, index, min(SHARD, left - index * SHARD)))
    return found


def write(
    out: Path,
    world: World,
    *,
    scale: float,
    seed: int = 1,
    skills: tuple[str, ...] = (),
    processes: int = 1,
    in_tiles: bool = True,
    progress: Callable[[Shard], None] = lambda shard: None,
) -> list[Shard]:
    """Write the shards that are not there yet or are shorter, then the meta files; returns what was written.

    `in_tiles`: list skills that are to be seen once more in tiles. `progress` is called after each shard. Shards come
    in an order in which every skill has its first ones early. Raises UsageError for a folder of another seed.
    """
    out.mkdir(parents=True, exist_ok=True)
    shards = sorted(plan(world, scale=scale, skills=skills), key=lambda shard: shard.index)
    missing = [shard for shard in shards if rows_there(out, shard, seed) < shard.rows]
    if processes <= 1:
        for shard in missing:
            write_shard(out, world, shard, seed)
            progress(shard)
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            running = [pool.submit(write_shard, out, world, shard, seed) for shard in missing]
            for shard, task in zip(missing, running, strict=True):
                task.result()
                progress(shard)
    write_metas(out, in_tiles=in_tiles)
    return missing


def rows_there(out: Path, shard: Shard, seed: int) -> int:
    """How many samples of a shard are written."""
    about = out / f"{shard.name}.json"
    if not (out / shard.name).exists() or not about.exists():
        return 0
    known = json.loads(about.read_text(encoding="utf-8"))
    if known["seed"] != seed:
        raise UsageError(f"{out / shard.name} was drawn with seed {known['seed']}, not {seed}; give another folder")
    return known["rows"]


def write_shard(out: Path, world: World, shard: Shard, seed: int) -> None:
    """Draw its samples and write them as one tar file, whole or not at all, and beside it what all of them have."""
    first, labels, every = shard.index * SHARD, set[str](), set[str]()
    with tempfile.NamedTemporaryFile(dir=out, suffix=".part", delete=False) as file:
        try:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for number in range(first, first + shard.rows):
                    sample = world.draw(shard.skill, seed=seed, number=number)
                    row = fields(sample, f"{shard.skill}-{seed}-{number}")
                    every = set(row) if number == first else every & set(row)
                    labels |= {row["label"]} if "label" in row else set()
                    for ending, content in members(sample, row):
                        entry = tarfile.TarInfo(f"{number:07d}.{ending}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
            known = {"seed": seed, "rows": shard.rows, "fields": sorted(every), "labels": sorted(labels)}
            write_text(out / f"{shard.name}.json", json.dumps(known, ensure_ascii=False) + "\n")
            os.chmod(file.name, 0o644)
            os.replace(file.name, out / shard.name)
        except BaseException:
            os.unlink(file.name)
            raise


def members(sample: Sample, row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """What the tar file holds of a sample: its fields, and its pictures as JPEG of high quality."""
    yield "json", json.dumps(row, ensure_ascii=False).encode()
    for number, picture in enumerate(sample.pictures):
        yield f"{number}.jpg", as_jpeg(picture, quality=random.Random(row["id"]).randint(88, 97))


def as_jpeg(picture: Image.Image, *, quality: int) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def fields(sample: Sample, name: str) -> dict[str, Any]:
    """A sample as a record of every kind that it can be: see `internvl.data.records`."""
    said = []
    for question, answer in sample.turns:
        said += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    row: dict[str, Any] = {"id": name, "conversations": said}
    alone = len(sample.pictures) == 1
    if sample.label is not None and alone:
        row["label"] = sample.label
    if sample.caption is not None and alone:
        row |= {"caption": sample.caption, "image_id": sample.caption}  # of two equal captions neither is wrong
    if sample.wrong is not None:
        question, answer = sample.turns[0]
        row |= {"question": question, "chosen": answer, "rejected": sample.wrong}
    return row


def write_metas(out: Path, *, in_tiles: bool = True) -> None:
    """The meta files over all shards that are there, one source a skill, with its tiles; and the classes.

    A skill is a source of a stage if every row of it has what that stage needs.
    """
    every: dict[str, set[str]] = {}
    labels = set[str]()
    for path in sorted(out.glob("*-????.tar.json")):
        skill, known = path.name[: -len("-0000.tar.json")], json.loads(path.read_text(encoding="utf-8"))
        every[skill] = every.get(skill, set(known["fields"])) & set(known["fields"])
        labels |= set(known["labels"])
    for meta, (kind, field) in METAS.items():
        entries: dict[str, Any] = {}
        for skill in (skill for skill in SKILLS if field in every.get(skill, ())):
            entry = {"annotation": f"{skill}-*.tar", "kind": kind, "max_dynamic_patch": SKILLS[skill].max_tiles}
            entries[skill] = entry
            if in_tiles and kind == "conversation" and (share := SKILLS[skill].wide):
                entries[f"{skill}, in tiles"] = {**entry, "max_dynamic_patch": WIDE_TILES, "repeat_time": share}
        write_text(out / f"{meta}.json", json.dumps(entries, indent=2) + "\n")
    write_text(out / "classes.txt", "".join(f"{label}\n" for label in sorted(labels)))


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
