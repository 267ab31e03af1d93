"""The table of published checkpoints: counted twice, looked up, printed."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod

import pytest
import torch
from torch import nn

from internvl import zoo
from internvl.errors import NoSuchName
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, PairConfig, TextConfig, VisionConfig
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.zoo import Row

Config = ChatConfig | PairConfig | VisionConfig
ROWS = list(zoo.TABLE.values())
ARCHITECTURES = {row.config: row.name for row in ROWS}


# --- a second opinion on the shapes: sums written down from the published key tables, not from the modules ------------


def count_tower(c: VisionConfig) -> int:
    block = 4 * c.dim**2 + c.dim  # qkv, proj
    block += 3 * c.dim * c.qkv_bias + 2 * c.dim * c.qk_norm
    block += 2 * c.dim * c.mlp_dim + c.mlp_dim + c.dim  # fc1, fc2
    block += 2 * c.dim * (2 if c.norm == "layer_norm" else 1) + 2 * c.dim  # norms, layer scales
    patches = (c.image_size // c.patch_size) ** 2
    return c.layers * block + c.dim * (3 * c.patch_size**2 + 1) + c.dim * (1 + patches + 1)


def count_text_layer(c: TextConfig, layer: int) -> int:
    d = c.head_dim or c.dim // c.heads
    q, kv = c.heads * d, c.kv_heads * d
    attention = c.dim * (2 * q + 2 * kv) + c.qkv_bias * (q + 2 * kv) + c.out_bias * c.dim
    attention += 2 * d * c.qk_norm + c.heads * c.sinks
    if c.experts is None or layer in c.experts.dense_layers:
        mlp = 3 * c.dim * c.mlp_dim
    else:
        e = c.experts
        mlp = e.count * (3 * c.dim * e.dim + c.dim) + e.bias * e.count * (2 * e.dim + c.dim + 1)
    return attention + mlp + 2 * c.dim


def count_text(c: TextConfig, *, head: bool = True) -> int:
    layers = sum(count_text_layer(c, i) for i in range(c.layers))
    return c.vocab * c.dim * (1 + (head and not c.tied_head)) + layers + c.dim


def count_projector(c: ChatConfig) -> int:
    h, v = c.text.dim, c.vision.dim
    if c.projector == "llava":
        return v * h + h + h * h + h
    return 2 * 4 * v + 4 * v * h + h + h * h + h


def count_pool(dim: int, out: int) -> int:
    return 6 * dim + 3 * dim**2 + 3 * dim + dim * out + out


def count_pair(c: PairConfig) -> int:
    t, v = c.text, c.vision
    both = count_tower(v) + count_pool(v.dim, c.embed_dim) + t.dim * c.embed_dim + 1
    if c.queries == 0:
        return both + count_text(t, head=False)
    cross = 2 * t.dim**2 + 2 * t.dim * v.dim + t.dim + v.dim
    crossed = len(range(0, t.layers, c.cross_every))
    matching = 2 * t.dim + 2
    return both + count_text(t) + crossed * cross + count_pool(t.dim, c.embed_dim) + c.queries * t.dim + matching


def counted(config: Config) -> int:
    match config:
        case VisionConfig():
            return count_tower(config)
        case PairConfig():
            return count_pair(config)
        case ChatConfig():
            return count_tower(config.vision) + count_projector(config) + count_text(config.text)


def built(config: Config) -> nn.Module:
    with torch.device("meta"):
        match config:
            case VisionConfig():
                return VisionTransformer(config)
            case PairConfig():
                return PairModel(config)
            case ChatConfig():
                return ChatModel(config)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_parameters_are_what_the_shapes_give(row: Row) -> None:
    assert row.parameters == counted(row.config)


@pytest.mark.parametrize("config", ARCHITECTURES, ids=ARCHITECTURES.values())
def test_built_on_the_meta_device_has_as_many(config: Config) -> None:
    """Every distinct architecture of the table; variants of one differ in nothing that is built."""
    model = built(config)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert sum(prod(parameter.shape) for parameter in model.parameters()) == counted(config)


@pytest.mark.parametrize("row", [r for r in ROWS if r.published], ids=lambda row: row.name)
def test_published_size_is_the_counted_one(row: Row) -> None:
    """Worst seen: 0.053 where a decimal is given (4.147 is called 4.2B), 0.4 where none is (12.6 is called 13B)."""
    assert row.published
    size = float(row.published[:-1])
    close = 0.1 if "." in row.published else 1.0
    assert row.parameters / 1e9 == pytest.approx(size, abs=close)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        # Counts that others published for the files themselves.
        ("internvit-300m-448px", 304_012_288),
        ("internvit-6b-224px", 5_902_793_600),
        ("internvit-6b-448px-v1-0", 5_905_251_200),
        ("internvit-6b-448px-v2.5", 5_536_496_000),
        ("internvl-14b-224px", 13_834_975_747),
        ("internvl3.5-gpt-oss-20b-a4b-preview-hf", 21_232_768_704),
    ],
)
def test_counts_known_from_elsewhere(name: str, tensors: int) -> None:
    assert zoo.TABLE[name].parameters == tensors


def test_qwen3_checkpoints_keep_the_padded_vocabulary_and_an_untied_head() -> None:
    """The tensor totals of the two published mixture-of-experts `-Flash` files are those of this table plus a second
    projector and a router: 48 v^2 + 57 v + 2 for a tower of width v, the same for both only with these shapes."""
    for name, total in (("internvl3.5-30b-a3b", 30_991_437_826), ("internvl3.5-241b-a28b", 241_711_289_346)):
        config = zoo.TABLE[name].config
        assert isinstance(config, ChatConfig)
        v, h = config.vision.dim, config.text.dim
        second = 2 * 16 * v + 16 * v * 2 * h + 2 * h + (2 * h) ** 2 + 2 * h + 2 * h * h + h
        assert total - zoo.TABLE[name].parameters - second == 48 * v**2 + 57 * v + 2


# --- what a row must be -----------------------------------------------------------------------------------------------


def test_every_generation_is_there() -> None:
    assert {row.generation for row in ROWS} == {"1.0", "1.1", "1.2", "1.5", "2.0", "2.5", "3", "3.5"}
    assert len(ROWS) == len({(row.hub, row.file) for row in ROWS})


@pytest.mark.parametrize("row", [r for r in ROWS if r.kind == "chat"], ids=lambda row: row.name)
def test_a_chat_row_says_how_it_is_fed(row: Row) -> None:
    assert row.template
    assert row.decoder in zoo.DECODERS
    assert isinstance(row.config, ChatConfig)
    assert row.config.vision == zoo.TOWERS[row.tower]
    assert row.config.image_token < row.config.text.vocab
    assert not row.config.text.tied_head
    if row.generation not in ("1.0", "1.1", "1.2"):
        assert (row.tiles, row.thumbnail, row.config.slots_per_tile) == (12, True, 256)
        assert (row.config.pixel_shuffle, row.config.select_layer) == ("v2", -1)


@pytest.mark.parametrize("row", [r for r in ROWS if r.variant_of], ids=lambda row: row.name)
def test_a_variant_differs_in_nothing_that_is_built(row: Row) -> None:
    assert row.variant_of
    assert row.config == zoo.TABLE[row.variant_of].config


def test_unverified_cells_are_named_not_silent() -> None:
    assert "vocab" in zoo.find("internvl-chat-v1-1").unverified
    assert not zoo.find("internvl3.5-gpt-oss-20b-a4b-preview").unverified


# --- looking up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_found_by_name_and_by_hub_id_in_any_case(row: Row) -> None:
    assert zoo.find(row.name) is row
    assert zoo.find(row.name.upper()) is row
    if row.file is None:
        assert zoo.find(row.hub) is row
        assert zoo.find(row.hub.lower()) is row
        assert zoo.find(row.hub.removeprefix("OpenGVLab/")) is row
    else:
        assert zoo.find(row.file) is row


def test_found_by_an_ending_that_only_one_has() -> None:
    assert zoo.find("2.5-8b-mpo").hub == "OpenGVLab/InternVL2_5-8B-MPO"
    assert zoo.find("llama3-76b").name == "internvl2-llama3-76b"


def test_an_ending_that_several_have_names_them() -> None:
    names = r"internvl2-8b, internvl2\.5-8b, internvl3-8b, internvl3\.5-8b"
    with pytest.raises(NoSuchName, match=rf"ending of 4 models \({names}\); give one"):
        zoo.find("8b")


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NoSuchName, match=r"Did you mean 'internvl2\.5-38b'"):
        zoo.find("internvl25-38b")


@pytest.mark.parametrize("name", ["", "/", "OpenGVLab/"])
def test_next_to_nothing_is_not_a_name(name: str) -> None:
    with pytest.raises(NoSuchName):
        zoo.find(name)


# --- printing ---------------------------------------------------------------------------------------------------------


def test_json_is_plain_values() -> None:
    rows = [zoo.as_json(row) for row in zoo.matching("internvl2.5-8b")]
    assert json.loads(json.dumps(rows)) == rows
    assert [row["name"] for row in rows] == ["internvl2.5-8b", "internvl2.5-8b-mpo"]
    assert rows[0] | {"decoder": "internlm2_5-7b-chat", "image_token": 92546, "vocab": 92553} == rows[0]


def test_the_printed_table_has_a_line_for_each_model_and_names_its_variants() -> None:
    lines = zoo.render(zoo.matching()).splitlines()
    assert len(lines) == 1 + sum(row.variant_of is None for row in ROWS)
    [line] = [line for line in lines if line.startswith("internvl3-8b ")]
    assert line.split()[-3:] == ["-instruct", "-pretrained", "-hf"]
    assert "7.94 B" in line


def test_a_variant_asked_for_alone_has_a_line() -> None:
    assert len(zoo.render(zoo.matching("internvl2.5-8b-mpo")).splitlines()) == 2


def test_the_table_can_be_read_without_torch() -> None:
    code = "import sys, internvl.zoo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
