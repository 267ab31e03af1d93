"""Flags in renderings, receipts of shops kept apart, things that are not there: what is asked, and that it is true."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.errors import DataError
from internvl.evaluation.benchmark import Marked
from internvl.evaluation.folder import Folder
from internvl.evaluation.lookup import SUITES, spelt_out
from internvl.evaluation.planning import Subset, plan
from internvl.evaluation.tasks import TABLE
from internvl.evaluation.tasks.flag_renderings import RENDERINGS, render
from internvl.evaluation.tasks.own import share
from internvl.evaluation.tasks.own_unseen import RELATED
from internvl.evaluation.tasks.own_unseen import RENDERINGS as NAMES


def tricolour(*colours):
    flag = Image.new("RGB", (225, 150))
    for place, colour in enumerate(colours):
        flag.paste(colour, (75 * place, 0, 75 * place + 75, 150))
    return flag


def folder_of(root, kind, name, rows):
    (root / kind).mkdir(exist_ok=True)
    full = [{"id": str(n), "split": "test", "zip": "images.zip", "image": f"{n}.webp"} | row
            for n, row in enumerate(rows)]  # fmt: skip
    (root / kind / name).write_text("".join(json.dumps(row) + "\n" for row in full), encoding="utf-8")
    out = io.BytesIO()
    tricolour("blue", "white", "red").save(out, "PNG")
    with zipfile.ZipFile(root / kind / "images.zip", "w") as archive:
        for row in full:
            archive.writestr(row["image"], out.getvalue())
    return Folder(root)


def samples_of(folder, name):
    [source] = TABLE[name].sources
    assert all(folder.has(file) for file in source.files)
    return list(source.read(folder))


def marked(name, sample, answer):
    return Marked(sample, answer, TABLE[name].mark(sample, answer, compat=None))


def figures(name, samples, answers):
    rows = [marked(name, sample, answer) for sample, answer in zip(samples, answers, strict=True)]
    return TABLE[name].summarise(rows)


# ---- flags -----------------------------------------------------------------------------------------------------------


def test_every_flag_is_asked_about_in_four_renderings(tmp_path):
    rows = [{"code": code, "country": land, "region": "Europe"} for code, land in (("FR", "France"), ("NL", "Holland"))]
    samples = samples_of(folder_of(tmp_path, "flags", "train.jsonl", rows), "flags-rendered")
    assert [s.id for s in samples] == [f"{code}-{kind}" for code in ("FR", "NL") for kind in NAMES]
    assert {s.prompt for s in samples} == {"Which country's flag is this?"}
    assert samples[0].pictures[0].name == "flags/images.zip/0.webp, waved"
    files = [s.pictures[0].read() for s in samples]
    assert files == [s.pictures[0].read() for s in samples]
    assert len(set(files)) == 8  # though both flags are the same picture: each is drawn in a way of its own
    scores = figures("flags-rendered", samples, ["France"] * 8)
    assert scores.values == {"accuracy": 50, "mentioned": 50}
    assert set(scores.groups["rendering"]) == set(NAMES) == set(RENDERINGS)


@pytest.mark.parametrize("rendering", RENDERINGS)
@pytest.mark.parametrize("seed", range(12))
def test_a_rendering_shows_the_whole_flag_the_right_way_round(rendering, seed):
    """Blue, white and red are all there, in that order from left to right, and no part has gone."""
    picture = render(rendering, tricolour((0, 20, 220), (255, 255, 255), (220, 10, 20)), random.Random(seed))
    pixels = np.asarray(picture).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    parts = {"blue": (blue > red + 70) & (blue > green + 70), "red": (red > green + 90) & (red > blue + 75)}
    places = {name: float(np.nonzero(part)[1].mean()) for name, part in parts.items()}
    assert all(part.mean() > 0.06 for part in parts.values()), {name: part.mean() for name, part in parts.items()}
    assert places["blue"] + 0.2 * picture.width < places["red"]
    between = pixels[:, round(places["blue"]) : round(places["red"])].min(axis=2)
    assert (between > 125).mean() > 0.1  # the white, in whatever light


def edges(picture):
    gray = np.asarray(picture.convert("L"), float)
    return np.abs(np.diff(gray, axis=1)).max()


def test_each_rendering_does_what_it_is_called():
    stripes = Image.new("RGB", (224, 150), "white")
    for x in range(0, 224, 28):
        ImageDraw.Draw(stripes).rectangle((x, 0, x + 13, 150), fill="black")
    for seed in range(6):
        made = {name: render(name, stripes, random.Random(seed)) for name in RENDERINGS}
        assert made["cropped"].width <= 0.9 * 224 + 1
        assert made["cropped"].height <= 0.9 * 150 + 1
        assert edges(made["cropped"]) == 255
        middle = made["blurred"].crop((50, 60, 170, 80))
        assert edges(middle) < 200
        assert made["waved"].height > 150 < made["photographed"].height
    level = Image.new("RGB", (224, 150), "red")
    level.paste("white", (0, 75, 224, 150))
    cloth = np.asarray(render("waved", level, random.Random(3))).astype(int)
    border = [int(np.nonzero(cloth[:, x, 0] > cloth[:, x, 1] + 90)[0].max()) for x in range(80, 240, 4)]
    assert max(border) - min(border) > 6  # a straight line is not straight in the wind


# ---- receipts --------------------------------------------------------------------------------------------------------

HELD, KNOWN = (next(f"SHOP{n}" for n in range(99) if share(f"SHOP{n}", 7) is held) for held in (True, False))


def test_receipts_of_unseen_shops(tmp_path):
    keys = [{"company": "A", "date": "1/2/2018", "address": address, "total": "9.00"} for address in ("B", "")]
    rows = [{"group": shop, "key": key, "lines": []} for shop, key in ((HELD, keys[0]), (KNOWN, keys[0]),
                                                                       (HELD, keys[1]))]  # fmt: skip
    samples = samples_of(folder_of(tmp_path, "sroie", "train.jsonl", rows), "receipts-unseen")
    assert {s.facts["shop"] for s in samples} == {HELD}
    assert [s.id for s in samples] == ["0-company", "0-date", "0-address", "0-total", "2-company", "2-date", "2-total"]
    answers = ["a", "no", "b", "9.00", "no", "no", "9.00"]
    scores = figures("receipts-unseen", samples, answers)
    assert next(iter(scores.values)) == "accuracy"
    # each key weighs the same, though one receipt has no address
    assert scores.values == {"accuracy": 62.5, "address": 100, "company": 50, "date": 0, "total": 100}
    assert figures("receipts-unseen", [], []).withheld


def test_lines_of_any_length(tmp_path):
    texts = ["A", "TOTAL 9.00", "NO 25, JALAN SOMEWHERE FAR, 43300 SELANGOR"]
    lines = [{"box": [2, 2, 200, 14], "text": text} for text in texts]
    folder = folder_of(tmp_path, "sroie", "train.jsonl", [{"group": HELD, "key": {}, "lines": lines}])
    assert [s.answer for s in samples_of(folder, "receipts-lines-all")] == texts[1:]
    assert [s.answer for s in samples_of(folder, "receipts-lines")] == texts[1:2]


# ---- things that are not there ---------------------------------------------------------------------------------------


def photographs(tmp_path, *names):
    rows = [{"label": name.replace(" ", "_"), "name": name} for name in names]
    return folder_of(tmp_path, "caltech101", "test.jsonl", rows)


def test_each_photograph_is_asked_about_what_it_shows_and_what_not(tmp_path):
    there, absent = samples_of(photographs(tmp_path, "ant", "camera"), "absent")[:2]
    end = " in the image?\nAnswer the question using a single word or phrase."
    assert (there.id, there.prompt, there.answer) == ("0-yes", f"Is there an ant{end}", "yes")
    assert (absent.id, absent.prompt, absent.answer) == ("0-no", f"Is there a camera{end}", "no")
    assert [marked("absent", absent, said).mark.score for said in ("No.", "no", "Yes", "yes and no", "camera")] == [
        1, 1, 0, 0, 0]  # fmt: skip


def test_what_is_absent_is_never_what_is_there_or_like_it(tmp_path):
    with pytest.raises(DataError, match="`name` is 'chair'; expected one of several kinds"):
        samples_of(photographs(tmp_path, "chair", "windsor chair"), "absent")


def test_figures_of_absence(tmp_path):
    samples = samples_of(photographs(tmp_path, "ant", "camera"), "absent")
    scores = figures("absent", samples, ["Yes", "Yes", "ant", "No"])
    assert scores.values == {"accuracy": 50, "yes ratio": 50, "F1": 50, "present": 50, "absent": 50}
    always = figures("absent", samples, ["No"] * 4).values
    assert (always["absent"], always["present"], always["accuracy"], always["yes ratio"], always["F1"]) == (
        100, 0, 50, 0, 0)  # fmt: skip


# ---- the real data ---------------------------------------------------------------------------------------------------


def test_the_real_photographs(shared):
    samples = samples_of(Folder(shared / "data"), "absent")
    rows = [json.loads(line) for line in (shared / "data/caltech101/test.jsonl").read_text("utf-8").splitlines()]
    truth = {row["id"]: row["name"] for row in rows}
    sizes = Counter(truth.values())
    frequent = {name for name, _ in sizes.most_common(10)}
    assert len({s.id for s in samples}) == len(samples) == 2 * len(truth) == 4156
    assert {name for group in RELATED for name in group} <= set(sizes)
    absent = [s for s in samples if s.answer == "no"]
    for sample in absent:
        name = truth[sample.id.removesuffix("-no")]
        assert not any({name, sample.facts["thing"]} <= set(group) for group in RELATED)
        assert sample.facts["thing"] != name
        assert sample.facts["category"] == "random" or sizes[sample.facts["thing"]] >= min(map(sizes.get, frequent))
    assert 0.45 < sum(s.facts["category"] == "popular" for s in absent) / len(absent) < 0.55
    assert len({s.facts["thing"] for s in absent if s.facts["category"] == "random"}) == 97


def test_the_real_flags_and_receipts(shared):
    folder = Folder(shared / "data")
    flags, receipts = samples_of(folder, "flags-rendered"), samples_of(folder, "receipts-unseen")
    assert (len(flags), len(receipts)) == (756, 164)
    for sample in flags[::53]:
        assert min(Image.open(io.BytesIO(sample.pictures[0].read())).size) >= 60
    assert all(marked("flags-rendered", s, s.answer).mark.score for s in flags)
    assert len(samples_of(folder, "receipts-lines-all")) == 1838
    every = {s.id: s for s in samples_of(folder, "receipts")}
    assert [s.id for s in receipts] == [s.id for s in every.values() if s.facts["held_out"]]
    assert all(s.prompt == every[s.id].prompt for s in receipts)


# ---- asked together --------------------------------------------------------------------------------------------------


def test_a_suite_is_asked_by_one_name(shared):
    assert spelt_out(["nano-exam", "absent", "pope", "pope"]) == [*SUITES["nano-exam"], "pope"]
    assert not set(SUITES) & set(TABLE)
    for name in SUITES["nano-exam"]:
        assert len(plan(TABLE[name], shared / "data", subset=Subset(drawn=3)).samples) == 3
