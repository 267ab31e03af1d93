"""The one encoder: the published labels to the letter, and what must hold for every template and tokenizer."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from internvl.data import records
from internvl.data.encode import NO_TOKEN, NOT_LEARNT, Encoder, EncoderConfig
from internvl.data.prompts import TEMPLATES, Image, Message, Text, Video
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError, ContextOverflow, InternVLError, PlaceholderMismatch, PromptError, UsageError
from tests.conftest import GOLDEN_ROOTS, golden

FILE = "conversation/training_labels.jsonl"
FOUND = next((root / FILE for root in GOLDEN_ROOTS if (root / FILE).exists()), None)
ROWS = [json.loads(line) for line in FOUND.read_text(encoding="utf-8").splitlines()] if FOUND else []
ROWS = [row for row in ROWS if "record" in row]


@cache
def tokenizer(name):
    return Tokenizer.from_folder(golden(f"tokenizers/{name}"))


@cache
def record(name):
    lines = golden("conversation/records.jsonl").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if json.loads(line)["id"] == name]
    return json.loads(line), records.read(line, "conversation", origin="records.jsonl")


@cache
def picture(name):
    return Pillow.open(golden(f"preprocess/images/{name}"))


def encoder_of(row, compat):
    return Encoder(
        tokenizer(row["tokenizer"]),
        EncoderConfig(
            template=row["template"],
            tile_size=row["image_size"],
            slots_per_tile=row["num_image_token"],
            dynamic=row["dynamic_image_size"],
            thumbnail=row["use_thumbnail"],
            min_tiles=row["min_dynamic_patch"],
            max_tiles=row["max_dynamic_patch"],
            compat=compat,
        ),
    )


def encode_row(row, compat="original"):
    raw, conversation = record(row["record"])
    photos = [picture(name) for name in conversation.images] or [Pillow.new("RGB", (64, 48))] * raw.get("frames", 0)
    budget = row["max_dynamic_patch"] if row["dynamic_image_size"] else None
    messages = records.messages(conversation, photos, max_tiles=budget, compat=compat)
    return encoder_of(row, compat).encode(
        messages, generate=False, max_length=row["model_max_length"] if compat else None
    )


def spans(targets):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.array(targets) != NOT_LEARNT, [0]])))
    return edges.reshape(-1, 2).tolist()


def row_name(row):
    size = "cut" if row["padded_to_max_length"] else "tiled" if row["dynamic_image_size"] else "one tile"
    return f"{row['template']}, {row['tokenizer']}, {row['record']}, {size}"


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_training_labels_are_the_published_ones(row):
    if "error" in row:
        with pytest.raises(InternVLError):
            encode_row(row)
        return
    encoded = encode_row(row)
    assert encoded.input_ids == row["input_ids"]
    assert spans(encoded.targets) == row["label_spans"]
    learnt = [(i, target) for i, target in zip(encoded.input_ids, encoded.targets, strict=True) if target != NOT_LEARNT]
    assert all(i == target for i, target in learnt)
    # A sample without pictures has no tiles here; the first code base gave it a white one, flagged as absent.
    tiles = len(encoded.tiles)
    assert [1] * tiles or [0] == row["image_flags"]
    assert max(tiles, 1) == row["num_tiles"] == len(row["image_flags"])
    pad = tokenizer(row["tokenizer"]).pad_id
    assert [at for at, i in enumerate(encoded.input_ids) if i == pad] == row["attention_mask_zero_at"]
