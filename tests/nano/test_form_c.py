"""The form of nano-c: what is written is read back, the words are folded, and the start takes a tower over."""

import io
import json
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import internvl
from internvl.data.pair import PAD, clean_caption, encode_text
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError, DataError
from internvl.inference.embed import Embedder
from internvl.models.config import PairConfig
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.nano import form_c
from internvl.recipes.nano_c import nano_c
from internvl.training.override import change
from internvl.training.run import train
from internvl.weights.checkpoint import open_checkpoint

COLOURS = ("red", "green", "blue", "black")


def sentences(count=3000, seed=0):
    """Captions of invented words, enough for a whole vocabulary, and some that are used below."""
    rng = random.Random(seed)
    parts = ["ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "xu", "sto", "pri"]
    words = ["".join(rng.choices(parts, k=rng.randint(2, 4))) for _ in range(1500)]
    known = ["A photo of a cat.", "two red circles and a blue star", "中国的国旗", *(f"a {c} picture" for c in COLOURS)]
    return [*known * 20, *(" ".join(rng.choices(words, k=6)) for _ in range(count))]


def shard(path, rows):
    with tarfile.open(path, "w") as tar:
        for number, (picture, fields) in enumerate(rows):
            out = io.BytesIO()
            picture.save(out, "PNG")
            for ending, content in (("json", json.dumps(fields).encode()), ("0.png", out.getvalue())):
                entry = tarfile.TarInfo(f"{number:07d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def tokenizer():
    return form_c.make_tokenizer(sentences())


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("nano_c") / "start"
    form_c.write_checkpoint(form_c.fresh(seed=1), tokenizer, folder)
    return folder


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_the_folder_says_the_form_and_is_small_enough(start):
    assert open_checkpoint(start).config == form_c.CONFIG
    assert sum(file.stat().st_size for file in start.iterdir()) <= form_c.MOST_BYTES


def test_the_table_has_the_numbers_of_the_model():
    model = PairModel(form_c.CONFIG)
    words = model.qllama.model.embed_tokens.weight.numel()
    counted = {
        "ViT": sum(p.numel() for p in model.vision_model.parameters()),
        "pool": sum(p.numel() for p in model.clip_projector.parameters()),
        "text tower": sum(p.numel() for p in model.qllama.parameters()) + model.text_projection.numel() - words,
        "words": words,
    }
    lines = [line for line in form_c.__doc__.splitlines() if " M " in line]
    assert {line.split("|")[1].strip(): line.split("|")[3].strip() for line in lines} == {
        part: f"{count / 1e6:.2f} M" for part, count in counted.items()
    }


def test_saved_again_it_is_the_same(start, tmp_path):
    internvl.save(internvl.load(start), tmp_path / "again")
    for file in start.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_folder_that_is_there_is_replaced_whole(start, tokenizer, tmp_path):
    folder = tmp_path / "start"
    folder.mkdir()
    (folder / "left.over").write_text("old")
    form_c.write_checkpoint(form_c.fresh(seed=1), tokenizer, folder)
    assert {file.name for file in folder.iterdir()} == {file.name for file in start.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


# ---- the words -------------------------------------------------------------------------------------------------------


def test_the_same_captions_make_the_same_vocabulary(tokenizer):
    assert form_c.make_tokenizer(sentences()) == tokenizer
    assert form_c.make_tokenizer(sentences(seed=2)) != tokenizer


def test_capitals_width_and_punctuation_are_folded(start):
    read = Tokenizer.from_folder(start)
    same = ("a photo of a cat", "A Photo of a CAT.", "Ａ photo of a cat!", clean_caption("A Photo of a CAT."))
    assert len({tuple(encode_text(read, text)) for text in same}) == 1
    assert encode_text(read, "a photo of a cat") != encode_text(read, "a photo of a bat")
    assert read.vocab_size == form_c.VOCAB


@pytest.mark.parametrize("text", ["中国的国旗", "ß", "𝄞 and 🎻", "", "  "])
def test_every_text_ends_in_the_end_and_has_no_padding_inside(start, text):
    read = Tokenizer.from_folder(start)
    ids = encode_text(read, text)
    assert ids[0] == read.bos_id
    assert ids[-1] == read.eos_id
    assert PAD not in ids


def test_too_few_captions_are_refused():
    with pytest.raises(DataError, match="no vocabulary of 2048 pieces"):
        form_c.make_tokenizer(["a cat"] * 5)


# ---- the weights to begin with ---------------------------------------------------------------------------------------


def test_a_tower_gives_its_first_blocks():
    vision = form_c.CONFIG.vision
    tower = VisionTransformer(type(vision)(**{**vars(vision), "layers": 8}))
    torch.manual_seed(3)
    given = {name: torch.randn_like(value) for name, value in tower.state_dict().items()}
    found, fresh = form_c.fresh(seed=1, tower=given), form_c.fresh(seed=1)
    assert found.keys() == fresh.keys()
    for name, value in found.items():
        own = name.removeprefix("vision_model.")
        assert torch.equal(value, given[own] if name.startswith("vision_model.") else fresh[name]), name


def test_a_tower_of_another_width_is_refused():
    with pytest.raises(ConfigError, match="class_embedding of the tower is"):
        form_c.fresh(tower={"embeddings.class_embedding": torch.zeros(1, 1, 64)})


def test_begin_reads_the_captions_of_shards(tmp_path, tokenizer):
    blank = Image.new("RGB", (8, 8))
    rows = [(blank, {"caption": caption, "image_id": caption}) for caption in sentences()]
    shard(tmp_path / "a-0000.tar", rows[:1000])
    shard(tmp_path / "b-0000.tar", [*rows[1000:], (blank, {"label": "no caption"})])
    form_c.begin(tmp_path / "start", tmp_path, seed=4)
    assert (tmp_path / "start" / "tokenizer.model").read_bytes() == tokenizer
    model = internvl.load(tmp_path / "start")
    assert isinstance(model.config, PairConfig)
    assert torch.equal(model.text_projection, form_c.fresh(seed=4)["text_projection"].bfloat16().float())


# ---- learning --------------------------------------------------------------------------------------------------------


def test_the_recipe_teaches_it_which_caption_belongs_to_a_picture(start, tmp_path):
    """Four colours, each many times, its name in two wordings: 12 steps are enough to tell them apart."""
    rng = np.random.default_rng(0)
    paint = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 220), "black": (10, 10, 10)}
    rows = []
    for _ in range(96):
        name = COLOURS[rng.integers(4)]
        picture = Image.new("RGB", (32, 32), tuple(int(v + rng.integers(-9, 9)) % 256 for v in paint[name]))
        rows.append((picture, {"caption": ("a {} picture", "{}")[rng.integers(2)].format(name), "image_id": name}))
    shard(tmp_path / "colour-0000.tar", rows)
    (tmp_path / "pairs.json").write_text(json.dumps({"colour": {"annotation": "colour-*.tar", "kind": "pair"}}))
    config = change(nano_c(), {
        "start.model": str(start), "data.path": str(tmp_path / "pairs.json"), "data.rows": 16, "data.workers": 0,
        "run.batch": 16, "run.steps": 12, "run.out": str(tmp_path / "run"), "run.tensorboard": False,
        "optim.warmup": 2, "run.save_every": 12, "run.device": "cpu",
    })  # fmt: skip
    before, after = Embedder.load(start), Embedder.load(train(config).model)
    asked = [Image.new("RGB", (40, 40), paint[name]) for name in COLOURS]

    def right(embedder):
        scores = embedder.images(asked) @ embedder.texts([f"a {name} picture" for name in COLOURS]).T
        return int((scores.argmax(dim=1) == torch.arange(4)).sum())

    assert right(after) == 4 > right(before)
