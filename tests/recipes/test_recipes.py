"""Every recipe against the fact sheet's own tables, and finding one by name or in a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from internvl import recipes, zoo
from internvl.errors import NoSuchName, UsageError
from internvl.recipes import internvl2_5, internvl3_5, mini_internvl, mpo, retrieval, second_finetune
from internvl.recipes.lookup import GROUPS
from internvl.training.config import TrainConfig
from internvl.training.override import as_python, override, render

NAMES = sorted(recipes.table())
OURS = {*GROUPS["any model, any data"], *GROUPS["the embedded nano"]}
"""Recipes that reproduce nothing published."""
Row = dict[str, str]


def tables(shared: Path) -> list[tuple[str, Row]]:
    """The rows of section 6.6 of the fact sheet that name a script, each with its heading."""
    text = (shared / "reference" / "chat_spec.md").read_text(encoding="utf-8")
    section = text[text.index("## 6.6 ") : text.index("## 6.7 ")]
    rows, heading, columns = [], "", []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("*"):
            heading = line
        elif line.startswith("| ") and cells[0] in ("script", "domain"):
            columns = cells
        elif line.startswith("| ") and columns and len(cells) == len(columns):
            rows.append((heading, dict(zip(columns, cells, strict=True))))
        elif not line.startswith("|"):
            columns = []
    return rows


def scripts(shared: Path) -> dict[str, Row]:
    """The rows of the wide tables: one script of the first code base each."""
    return {row["script"]: row for _, row in tables(shared) if "DeepSpeed" in row}


def by_script() -> dict[str, recipes.Recipe]:
    return {recipe.script: recipe for recipe in recipes.table().values() if recipe.script}


def test_every_script_of_the_fact_sheet_has_a_recipe_and_no_other(shared):
    there = scripts(shared)
    assert len(there) > 80
    assert set(by_script()) == set(there)


def told(row: Row) -> dict[str, object]:
    """What a row says, in our words; what it leaves out is not there."""
    batch, micro, _ = (int(n) for n in row["global/micro/accum"].split("/"))
    flags, trains = row["flags"].split(), row["trains"]
    packed, tiled = "packed" in flags, "dyn" in flags
    steps = re.fullmatch(r"steps (\d+)", row["length"])
    said: dict[str, object] = {
        "gpus": int(row["GPUs"]),
        "run.batch": batch,
        "data.rows": 1 if packed else micro,
        "optim.lr": float(row["lr"]),
        "optim.weight_decay": float(row["wd"]),
        "optim.warmup": float(row["warm-up"][1:]),
        "data.max_length": int(row["seq"]),
        "data.dynamic": tiled,
        "data.thumbnail": tiled,
        "data.max_tiles": (12 if tiled else 1) if row["tiles"] == "-" else int(row["tiles"]),
        "run.steps": int(steps[1]) if steps else None,
        "run.epochs": 1.0,
        "run.save_every": int(row["save"]),
        "data.batching": "packed" if packed else "grouped" if "gbl" in flags else "plain",
        "data.path": f"data/{flags[-1]}",
        "learn.language_lora": int(trains.removeprefix("loraL")) if trains.startswith("lora") else 0,
        "learn.vision": "V" in trains,
        "parallel.offload": "offload" in row["DeepSpeed"],
    }
    if trains.startswith("lora"):
        return said | {"learn.projector": False}
    return said | {
        "learn.projector": "M" in trains,
        "learn.language": "L" in trains,
        # Nothing reads it where the tower is frozen, and it is left out there.
        "start.drop_path": float(row["drop-path"]) if "V" in trains else 0.0,
    }


def value(config: TrainConfig, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def differences(recipe: recipes.Recipe, row: Row) -> dict[str, tuple[object, object]]:
    config = recipe.make()
    ours = {key: recipe.gpus if key == "gpus" else value(config, key) for key in told(row)}
    return {key: (ours[key], said) for key, said in told(row).items() if ours[key] != said}


WRITTEN_ANOTHER_WAY = {
    # The sheet's data.json is one name for several unpublished files.
    "v1_5_hermes2_yi34b_pretrain", "v1_5_internlm2_1_8b_pretrain", "v1_5_internlm2_20b_pretrain",
    "v1_5_phi3_3_8b_pretrain", "v1_5_hermes2_yi34b_finetune", "v1_5_internlm2_1_8b_finetune",
    "v1_5_internlm2_20b_finetune", "v1_5_phi3_3_8b_finetune",
}  # fmt: skip


def test_every_number_is_that_of_the_fact_sheet(shared):
    wrong = {}
    for script, row in scripts(shared).items():
        found = differences(by_script()[script], row)
        if script in WRITTEN_ANOTHER_WAY:
            assert found.pop("data.path")[1] == "data/data.json"
        if found:
            wrong[script] = found
    assert not wrong


def test_one_changed_number_would_be_seen(shared):
    row = scripts(shared)["internvl2_5_8b_2nd_finetune_full"]
    for column, other in {
        "lr": "2e-5",
        "wd": "0.01",
        "seq": "4096",
        "tiles": "12",
        "warm-up": "w100",
        "GPUs": "2",
    }.items():
        assert differences(by_script()["internvl2_5_8b_2nd_finetune_full"], row | {column: other})


def stripped(name: str) -> str:
    return name.rpartition("/")[2]


def test_each_begins_where_the_fact_sheet_says(shared):
    """With one exception: the SFT of Phi-3 names its own output there, which the sheet calls a mistake."""
    for script, row in scripts(shared).items():
        start, init = by_script()[script].make().start, row["init"]
        if " + " in init:
            tower, language, *projector = init.split(" + ")
            assert (stripped(start.vision or ""), stripped(start.language or "")) == (tower, language)
            assert bool(start.projector) == bool(projector)
            assert start.template
            assert start.pixel_shuffle
        elif "_dynamic_res_" in init:
            before = init.replace("_dynamic_res", "").removeprefix("internvl_chat_")
            if script == "v1_5_phi3_3_8b_finetune":
                before = before.replace("_finetune", "_pretrain")
            assert start.model
            assert recipes.find(start.model.split("/")[1]).script == before
        else:
            assert stripped(start.model or "") == init


def test_pixel_shuffle_is_as_released(shared):
    """1.2 is v1 in the released weights; its from-scratch script passes none and would train v2."""
    for script, row in scripts(shared).items():
        start = by_script()[script].make().start
        if start.model is None:
            assert start.pixel_shuffle == ("v1" if script.startswith("v1_2") else "v2")
        elif start.model.startswith("OpenGVLab/"):
            released = zoo.find(start.model)
            assert "psv1" not in row["flags"] or released.config.pixel_shuffle == "v1"


@pytest.mark.parametrize(
    "name",
    [n for n in NAMES if recipes.table()[n].make().data.batching == "packed" and n not in OURS],
)
def test_packs_of_the_published_recipes(name):
    config, late = recipes.find(name).make(), name.startswith("internvl3_5")
    assert (config.data.pack_tokens, config.data.pack_tiles) == ((32768, 96) if late else (16384, 48))
    assert config.data.pack_buffers == 20
    assert config.objective.weighting == "square"
    assert config.data.workers == (16 if late else 8)


@pytest.mark.parametrize("name", [*mpo.TABLE, *(n for n in internvl3_5.TABLE if n.endswith("_mpo"))])
def test_mpo_has_the_published_terms(name):
    config = recipes.find(name).make()
    aim = config.objective
    assert (aim.kind, aim.preference, aim.quality, aim.generation, aim.beta) == ("mpo", 0.8, 0.2, 1.0, 0.1)
    assert (aim.label_smoothing, aim.reference) == (0.0, "model")


def test_domains_are_those_of_the_fact_sheet(shared):
    rows = {row["domain"].split()[0]: row for _, row in tables(shared) if "domain" in row}
    assert set(rows) == set(mini_internvl.DOMAINS)
    for size in ("1b", "2b", "4b"):
        for domain, row in rows.items():
            recipe = recipes.find(f"mini_internvl_{size}_{domain}")
            config = recipe.make()
            saves = dict(re.findall(r"(\d)B: (\d+)", row["save"]))
            assert config.run.steps == int(row["max_steps"])
            assert config.run.batch == int(row["global packs"]) == recipe.gpus * int(row["accum"])
            assert config.run.save_every == int(saves.get(size[0], row["save"].split()[0]))
            assert config.data.path.endswith(row["meta"].removeprefix("…"))
            assert (config.optim.lr, config.optim.weight_decay, config.start.drop_path) == (1e-5, 0.01, 0.1)
            assert (config.data.max_length, config.optim.warmup) == (8192, 0.03)
            assert all((config.learn.vision, config.learn.projector, config.learn.language))
            assert config.start.model == f"OpenGVLab/InternVL2-{size.upper()}"


def newest(shared: Path) -> dict[str, Row]:
    return {row["script"]: row for _, row in tables(shared) if "batch" in row}


def of_newest(script: str) -> list[str]:
    """Our names for a row of the table of 3.5."""
    stages = {"stage0 warm-up": "warmup", "stage1 pretrain": "pretrain", "stage2 SFT": "sft", "stage3 MPO": "mpo"}
    if script.startswith("gpt_oss"):
        return [f"internvl3_5_gpt_oss_{stages[script.removeprefix('gpt_oss ')]}"]
    if script == "qwen3 MPO (all)":
        return [f"{size}_mpo" for size in internvl3_5.SIZES]
    sizes = re.split(r" ?/ ?", script.removeprefix("qwen3 SFT "))
    return [f"internvl3_5_{size.removesuffix('-A3B').lower().removesuffix('b')}b_sft" for size in sizes]


def test_the_newest_are_those_of_the_fact_sheet(shared):
    seen = set()
    for script, row in newest(shared).items():
        for place, name in enumerate(of_newest(script)):
            config = recipes.find(name).make()
            seen.add(name)
            rates = [float(rate) for rate in row["lr"].split(" / ")]
            assert config.optim.lr == rates[min(place, len(rates) - 1)]
            assert config.optim.weight_decay == float(row["wd"])
            assert config.run.batch == int(row["batch"])
            assert config.data.max_length == int(row["seq"])
            steps = re.fullmatch(r"(\d+) steps", row["length"])
            assert config.run.steps == (int(steps[1]) if steps else None)
            assert config.optim.warmup == float(row["warm-up"].split()[0][1:])
            assert config.run.seed == (22110 if "seed 22110" in row["warm-up"] else 42)
            assert (config.learn.language, config.learn.vision) == ("L" in row["trains"], "V" in row["trains"])
            before = recipes.find(name.replace("_mpo", "_sft")).make().start.drop_path
            told = before if row["drop-path"] == "as SFT" else float(row["drop-path"])
            assert config.start.drop_path == (told if config.learn.vision else 0.0)
    assert seen == set(internvl3_5.TABLE)


@pytest.mark.parametrize("dataset", ["flickr30k", "flickr30k_cn", "coco"])
def test_retrieval_as_in_the_fact_sheet(dataset):
    full, head, lora = (recipes.find(f"internvl_14b_{dataset}_{way}").make() for way in ("full", "head", "lora"))
    for config in (full, head, lora):
        assert (config.optim.lr, config.optim.weight_decay, config.optim.warmup) == (1e-6, 0.05, 100)
        assert (config.data.rows, config.data.text_length, config.run.seed) == (32, 80, 42)
        assert (config.run.save_every, config.run.keep) == (100, 5)
        assert config.run.epochs == (5 if dataset == "coco" else 10)
        assert (config.objective.matching, config.objective.contrastive, config.objective.captioning) == (1, 1, 0)
    assert (full.run.batch, full.start.tile_size, full.start.drop_path) == (1024, 364, 0.3)
    assert (full.optim.vision_layer_decay, full.optim.language_layer_decay) == (0.9, 0.9)
    assert head.run.batch == lora.run.batch == 128
    assert head.start.tile_size is None
    assert head.learn.only == ("qllama.lm_head", "text_projection")
    assert (lora.learn.vision_lora, lora.learn.language_lora) == (16, 16)


def test_names_in_only_are_those_of_the_model():
    import torch

    from internvl.models.pair import PairModel

    with torch.device("meta"):
        names = [name for name, _ in PairModel(zoo.find("internvl-14b-224px").config).named_parameters()]
    for prefix in (*retrieval.HEADS, *retrieval.STAGE_2):
        assert any(name.startswith(prefix) for name in names), prefix
    crossing = {name for name in names if name.startswith("qllama.") and ".cross_attn." in name}
    assert crossing == {name for name in names if name.startswith(retrieval.STAGE_2) and "qllama" in name}


@pytest.mark.parametrize("way", ["full", "head", "lora"])
def test_what_learns_in_retrieval_is_what_the_plan_counts(way, golden):
    pytest.importorskip("peft")
    from internvl.training.learn import choose, shares
    from internvl.training.shapes import parts_of
    from internvl.weights.load import load

    model = load(golden("checkpoints/internvl-14b"), dtype="float32", device="cpu")
    learn = recipes.find(f"internvl_14b_coco_{way}").make().learn
    counted = {part.name: part.learning for part in parts_of(model.config, learn)}
    choose(model, learn)
    assert counted == {name: share.learning for name, share in shares(model).items()}
    assert model.text_projection.requires_grad


# --- what holds for every recipe --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_be_made_shown_and_copied(name, tmp_path):
    recipe = recipes.find(name)
    config = recipe.make()
    assert config.run.out == f"runs/{name}"
    assert override(TrainConfig(), render(config).splitlines()) == config
    (tmp_path / "copy.py").write_text(as_python(config, about=recipe.about), encoding="utf-8")
    assert recipes.find(str(tmp_path / "copy.py")).make() == config


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_says_what_and_how(name):
    text = recipes.find(name).text
    assert text.count("\n") >= 2
    if name not in OURS:
        assert "riginal" in text


@pytest.mark.parametrize("name", NAMES)
def test_released_models_are_in_the_table_of_models(name):
    start = recipes.find(name).make().start
    if start.model and start.model.startswith("OpenGVLab/"):
        assert zoo.find(start.model).hub == start.model
    if start.vision and not start.vision.startswith("runs/"):
        assert stripped(start.vision) in zoo.TOWERS
        assert stripped(start.language or "") in zoo.DECODERS


def test_later_stages_begin_with_the_result_of_earlier_ones():
    for name in NAMES:
        found = recipes.find(name)
        start = found.make().start
        for model in (start.model or "", start.vision or ""):
            if model.startswith("runs/") and found.prepare is None:  # else it makes its own
                _, before, last = model.split("/")
                assert last == "model"
                assert recipes.find(before).make().run.out == f"runs/{before}"


# --- finding ----------------------------------------------------------------------------------------------------------


def test_found_by_either_name():
    assert recipes.find("internvl2_5_2b_lora") is recipes.find("internvl2_5_2b_2nd_finetune_lora")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("internvl25_2b_lora", r"Did you mean 'internvl2_5_2b_lora'\?"),
        ("", "no recipe is called ''"),
        ("nowhere.py", "no such file: nowhere.py"),
        ("nowhere.py:mine", "no such file: nowhere.py"),
    ],
)
def test_a_wrong_name_is_answered(name, told):
    with pytest.raises(UsageError, match=told):
        recipes.find(name)


HEAD = "from internvl.training.config import Run, TrainConfig\n\n"


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(HEAD + text, encoding="utf-8")
    return str(folder / "mine.py")


def test_the_only_function_of_a_file(tmp_path):
    file = written(tmp_path, "def mine() -> TrainConfig:\n    '''Mine.'''\n    return TrainConfig(run=Run(batch=3))\n")
    assert recipes.find(file).make().run.batch == 3
    assert recipes.find(f"{file}:mine").about == "Mine."


def test_helpers_are_no_recipes(tmp_path):
    text = """
def mine(n: int = 2) -> TrainConfig:
    return _of(n)

def _of(n: int) -> TrainConfig:
    return TrainConfig(run=Run(batch=n))

def size(n: int) -> TrainConfig:
    return _of(n)

def other() -> int:
    return 3
"""
    assert recipes.find(written(tmp_path, text)).make().run.batch == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "def a() -> TrainConfig: ...\ndef b() -> TrainConfig: ...\n",
            r"has 2 recipes \(a, b\); name one: .*mine\.py:a",
        ),
        ("x = 3\n", "has no recipe: write a function with no arguments"),
        ("def a(:\n", r"mine\.py, line 3: invalid syntax"),
        ("import nothing_of_that_name\n", r"mine\.py, line 3: ModuleNotFoundError: No module named"),
        ("\n\nraise SystemError('so')\n", r"mine\.py, line 5: SystemError: so"),
        ("PART = Run(stepz=2)\n", r"mine\.py, line 3: Run has no 'stepz'; did you mean 'steps'\?"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(tmp_path, text, told):
    with pytest.raises(UsageError, match=told) as error:
        recipes.find(written(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("TrainConfig(\n        run=Run(stepz=2),\n    )", r"line 5: Run has no 'stepz'; did you mean 'steps'\?"),
        ("TrainConfig(objectiv=None)", r"line 4: TrainConfig has no 'objectiv'; did you mean 'objective'\?"),
        ("TrainConfig(run=Run(qqqqqqq=2))", r"line 4: Run has no 'qqqqqqq'; there are: out, steps, epochs"),
        ("TrainConfig(run=Run(patience=2))", r"line 4: .*run\.patience is 2, but nothing reads it"),
        ("TrainConfig(run=Run(2))", r"line 4: TypeError: .*takes 1 positional argument"),
    ],
)
@pytest.mark.parametrize("form", ["function", "row"])
def test_a_mistake_in_a_copied_recipe_is_one_line(tmp_path, monkeypatch, body, told, form):
    text = f"def mine() -> TrainConfig:\n    return {body}\n"
    if form == "row":
        text += "from internvl.recipes import Recipe\nTABLE = {'row': Recipe(make=mine)}\n"
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text)
    for file in ("mine.py", "./mine.py", str(tmp_path / "mine.py")):
        recipe = recipes.find(f"{file}:{'row' if form == 'row' else 'mine'}")
        with pytest.raises(UsageError, match=rf"mine\.py, {told}") as error:
            recipe.make()
        assert str(error.value).count("mine.py") == 1
        assert "\n" not in str(error.value)


def test_a_function_that_is_not_there(tmp_path):
    file = written(tmp_path, "def mine() -> TrainConfig: ...\n")
    with pytest.raises(NoSuchName, match=r"no recipe in .*mine\.py is called 'min'\. Did you mean 'mine'\?"):
        recipes.find(f"{file}:min")


@pytest.mark.parametrize("group", [second_finetune, internvl2_5, mpo, mini_internvl, retrieval, internvl3_5])
def test_a_copy_of_a_group_is_a_file_of_recipes(group, tmp_path):
    text = Path(group.__file__).read_text(encoding="utf-8").replace("lr=4e-5", "lr=3e-5").replace("1e-6", "3e-6")
    (tmp_path / "copy.py").write_text(text, encoding="utf-8")
    for name, recipe in group.TABLE.items():
        copied = recipes.find(f"{tmp_path / 'copy.py'}:{name}").make()
        rate = recipe.make().optim.lr
        assert copied.optim.lr == {4e-5: 3e-5, 1e-6: 3e-6}.get(rate, rate)
