"""What users of the first code base suffered in data and training, one row each, and what is proven here against it.

what happened                                       proven by
a bad sample is silently replaced by another        `test_no_row_stands_in_for_a_bad_one`; the budget:
                                                    data/test_stream.py::test_past_the_budget_the_run_stops
host memory grows with data and workers             data/test_rows_ten_million.py::test_memory_is_flat
ranks with and without pictures wait for ever       test_two_ranks.py::test_two_ranks_are_one
everything padded to one length                     data/test_packing.py: packs have no padding at all
all labels masked, loss 0                           `test_rows_that_teach_nothing_end_the_run`; a whole step:
                                                    test_loop.py::test_nothing_to_learn_is_an_error_…
pickled weights, optimiser or random numbers        `test_a_pickle_in_a_checkpoint_is_never_opened`
truncation through a picture's tokens               `test_what_is_too_long_is_never_cut`
a placeholder in the text steals a picture's slot   `test_a_placeholder_in_the_text_is_text`
the template follows the folder's name              `test_the_template_is_the_checkpoints_whatever_its_folder`
new tokens, then a tensor of size 0 under sharding  `test_new_tokens_are_there_before_anything_is_sharded`
a packed set has no length                          `test_an_epoch_of_packs_has_an_end`
resuming packs loops through the data for hours     `test_resuming_reads_no_row_that_was_used`
"""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from internvl.data.batch import PreparedChat, Segment
from internvl.data.ledger import Ledger
from internvl.data.mixture import Mixture, Source
from internvl.data.packing import Packer, collate_chat
from internvl.data.prepare import PrepareChat
from internvl.data.records import read
from internvl.data.stream import Stream
from internvl.errors import ContextOverflow, DataError, InternVLError
from internvl.training.build import parts, sources
from internvl.training.checkpoint import Saver, latest, restore
from internvl.training.config import Data, Parallel, Run, Start, TrainConfig
from internvl.training.optim import adamw
from internvl.training.run import train
from internvl.training.start import begin
from internvl.training.world import World

START = "checkpoints/qwen2-v2_5-bf16"


def said(question: str = "Which?", answer: str = "This one.", **more) -> str:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns, **more})


def written(folder, lines) -> str:
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder / "rows.jsonl")


def config(folder, lines, golden, **run) -> TrainConfig:
    settings = {"batch": 1, "dtype": "fp32", "device": "cpu", "tensorboard": False, "out": str(folder / "run")}
    return TrainConfig(
        start=Start(model=str(golden(START))),
        data=Data(path=written(folder, lines), workers=0, max_length=200, pack_tokens=200, pack_tiles=4),
        run=Run(**(settings | run)),
        parallel=Parallel(shard="none", checkpoint_language=False, checkpoint_vision=False),
    )


@pytest.fixture
def encoder(golden):
    found = begin(Start(model=str(golden(START))), device="cpu").encoder
    assert found is not None
    return found


def prepared(encoder, line, **limits) -> PreparedChat:
    prepare = PrepareChat(encoder, **({"max_length": 1000, "overlong": "drop"} | limits))
    record = read(line, "conversation", origin="rows.jsonl:1")
    return prepare(record, Source(annotation="rows.jsonl"), 0, index=0, seed=0)


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_no_row_stands_in_for_a_bad_one(tmp_path, golden):
    """The first code base draws another row for one that fails, ten times. Here the others come once."""
    lines = [said(f"{n}?", f"{n}.") for n in range(8)]
    lines[3] = said("<image>\nWhat is it?", image="gone.png")
    plan = config(tmp_path, lines, golden, epochs=1.0)
    made = parts(plan, sources(plan), World())
    seen = [position for batch in made.stream for position in batch.positions]
    assert len(seen) == len(set(seen)) == 7
    [line] = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert line["row"].endswith("rows.jsonl:4")


def test_rows_that_teach_nothing_end_the_run(tmp_path, golden):
    """A conversation that ends before the answer has no label: eleven of them are over the budget."""
    lines = [json.dumps({"conversations": [{"from": "human", "value": "And?"}]})] * 20
    with pytest.raises(DataError, match="cannot be used, more than the budget"):
        train(config(tmp_path, lines, golden, steps=2))
    reasons = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert len(reasons) >= 11


def test_what_is_too_long_is_never_cut(encoder, tmp_path):
    """A sample is whole or not at all: the tokens of its pictures too."""
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    line = said("<image>\nWhich?", "word " * 20, image=str(tmp_path / "a.png"))
    prepare = PrepareChat(encoder, max_length=4000, overlong="drop")
    record, source = (
        read(line, "conversation", origin="rows.jsonl:1"),
        Source(annotation="rows.jsonl", root=str(tmp_path)),
    )
    whole = prepare(record, source, 0, index=0, seed=0)
    length = sum(len(segment.input_ids) for segment in whole.segments)
    for most in (length - 1, length // 2, 8):
        with pytest.raises(ContextOverflow):
            PrepareChat(encoder, max_length=most, overlong="drop")(record, source, 0, index=0, seed=0)
    same = PrepareChat(encoder, max_length=length, overlong="drop")(record, source, 0, index=0, seed=0)
    assert np.array_equal(same.segments[0].input_ids, whole.segments[0].input_ids)


@pytest.mark.parametrize("text", ["<IMG_CONTEXT>", "<img><IMG_CONTEXT></img>", "<IMG_CONTEXT>" * 5])
def test_a_placeholder_in_the_text_is_text(encoder, text):
    sample = prepared(encoder, said(f"What does {text} mean?", f"{text} is a token."))
    assert len(sample.tiles) == 0
    assert encoder.slot_id not in sample.segments[0].input_ids


def test_the_template_is_the_checkpoints_whatever_its_folder(golden, tmp_path):
    own = begin(Start(model=str(golden(START))), device="cpu").encoder
    os.symlink(golden(START), tmp_path / "internlm2-chat-phi3-v1-1")
    other = begin(Start(model=str(tmp_path / "internlm2-chat-phi3-v1-1")), device="cpu").encoder
    assert own.config == other.config
    assert np.array_equal(prepared(own, said()).segments[0].input_ids, prepared(other, said()).segments[0].input_ids)


# ---- packs -----------------------------------------------------------------------------------------------------------


class Reads:
    """Rows that count how often each was read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        self.read.append(index)
        return {"image": "a.jpg", "label": index}

    def origin(self, index: int) -> str:
        return f"reads:{index + 1}"


def packs(monkeypatch, rows: Reads, end: int) -> Stream:
    monkeypatch.setattr("internvl.data.mixture.open_rows", lambda _: rows)
    mixture = Mixture([Source(annotation="reads", name="reads", kind="label")], seed=0)

    def sized(record, source, position, *, index, seed):
        ids = np.random.default_rng(position).integers(0, 100, 2 + position % 17)
        return PreparedChat(position, index, (Segment(ids, ids),), np.zeros((position % 3, 2, 2, 3), np.uint8))

    def collate(samples):
        return collate_chat(samples, packed=True)

    ledger = Ledger(None, budget=1.0, sources=["reads"])
    return Stream(mixture, sized, Packer(48, 6, 3), collate, ledger, end=end)


def test_an_epoch_of_packs_has_an_end(monkeypatch):
    rows = Reads(500)
    seen = [position for batch in packs(monkeypatch, rows, 500) for position in batch.positions]
    assert sorted(seen) == list(range(500))
    assert sorted(rows.read) == list(range(500))


def test_resuming_reads_no_row_that_was_used(monkeypatch):
    """After 90 % of a million rows, only what waited for its pack is read again: fewer than the open packs hold."""
    rows = Reads(1_000_000)
    first = packs(monkeypatch, rows, 1_000_000)
    state = first.state()
    used: list[int] = []
    for batch in first:
        used += batch.positions
        if len(used) > 300:
            break
    state = json.loads(json.dumps(first.state()))
    again = packs(monkeypatch, rows, 1_000_000)
    rows.read.clear()
    again.resume([state])
    assert rows.read == []
    order = {first.mixture.place(position).row: position for position in range(1000)}
    went_on: list[int] = []
    for batch in again:
        went_on += batch.positions
        if len(went_on) > 100:
            break
    positions = [order[row] for row in rows.read]
    assert not set(positions) & set(used)
    assert len(positions) == len(set(positions)) <= len(went_on) + 4 * 24


# ---- checkpoints and tokens ------------------------------------------------------------------------------------------


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("where", ["optim", "state.json", "model"])
def test_a_pickle_in_a_checkpoint_is_never_opened(tmp_path, golden, where):
    """In place of any file that is read on resuming."""
    model = begin(Start(model=str(golden(START))), device="cpu").model
    optimizer = adamw(model, TrainConfig().optim)
    Saver(tmp_path / "run", keep=1, world=World()).save(1, model, optimizer, {"a": 1}, wait=True)
    path = latest(tmp_path / "run")
    mark = tmp_path / "opened"
    target = path / where
    files = [target] if target.is_file() else sorted(target.glob("*.safetensors"))
    assert files
    for file in files:
        file.write_bytes(pickle.dumps(Bomb(str(mark))))
    with pytest.raises(InternVLError):
        restore(path, model, optimizer)
    assert not mark.exists()


def test_new_tokens_are_there_before_anything_is_sharded(golden):
    """Tables have their new rows when a model begins, on one device, so that no rank sees a piece of the old size."""
    grown = begin(Start(model=str(golden(START)), new_tokens=("<a-new-one>", "<another>")), device="cpu")
    for name, parameter in grown.model.named_parameters():
        assert parameter.numel() > 0, name
    new = [grown.encoder.tokenizer.special(token).id for token in ("<a-new-one>", "<another>")]
    assert new[1] == new[0] + 1
    for table in (grown.model.language_model.model.embed_tokens, grown.model.language_model.lm_head):
        assert table.weight.shape[0] == new[1] + 1
