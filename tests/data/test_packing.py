"""Packs as the original makes them, and what holds for every way of gathering samples."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from internvl.data.batch import PreparedChat, Segment
from internvl.data.encode import NOT_LEARNT
from internvl.data.packing import LengthGroups, Packer, Plain, collate_chat, weights_of
from internvl.errors import ConfigError, ContextOverflow, DataError
from tests.conftest import GOLDEN_ROOTS

FILE = "training/packing.jsonl"
FOUND = next((root / FILE for root in GOLDEN_ROOTS if (root / FILE).exists()), None)
ROWS = [json.loads(line) for line in FOUND.read_text(encoding="utf-8").splitlines()] if FOUND else []
OPENING, SLOT, CLOSING, FIRST_TEXT = 1, 2, 3, 10


def sample(position, tokens, tiles, learnt=None, source=0):
    targets = np.full(tokens, NOT_LEARNT)
    learnt = tokens - 1 if learnt is None else learnt
    targets[tokens - learnt :] = position + 10
    segment = Segment(np.full(tokens, position + 10), targets)
    return PreparedChat(position, source, (segment,), np.full((tiles, 2, 2, 3), position % 256, np.uint8))


def pair(position, chosen, rejected, tiles):
    first, second = sample(position, chosen, tiles), sample(position, rejected, 0)
    return PreparedChat(position, 0, (*first.segments, *second.segments), first.tiles)


# ---- the published packs ---------------------------------------------------------------------------------------------


def golden_sample(row, dataset, number, position):
    """A sample of the golden file: what is not a picture is one token, repeated; the last tokens are learnt."""
    length, pictures, learnt, *tiles = row["datasets"][dataset]["samples"][number]
    ids = [OPENING, *[SLOT] * row["tokens_per_image"], CLOSING] * pictures
    ids = np.array([*ids, *[FIRST_TEXT + number + 100 * dataset] * (length - len(ids))])
    targets = np.where(np.arange(length) >= length - learnt, ids, NOT_LEARNT)
    # A sample without pictures has no tiles here; the first code base gave it a white one, which its packing counted.
    count = max(1, tiles[0] if tiles else pictures)
    return PreparedChat(position, dataset, (Segment(ids, targets),), np.zeros((count, 1, 1, 3), np.uint8))


def golden_order(row):
    """(dataset, number, its dataset's place among those that are not used up) in the order of the original's worker."""
    draw, again = (
        np.random.default_rng(row["worker_id"]),
        np.random.RandomState(row["numpy_global_seed_used_when_a_dataset_runs_out"]),
    )
    left = [list(range(len(dataset["samples"]))) for dataset in row["datasets"]]
    alive, weights = list(range(len(left))), [weight / sum(row["dataset_weight"]) for weight in row["dataset_weight"]]
    while True:
        weights = [weight / sum(weights) for weight in weights]
        at = draw.choice(len(alive), p=weights)
        while not left[alive[at]]:
            del alive[at], weights[at]
            if not alive:
                return
            at = again.choice(len(alive))
        yield alive[at], left[alive[at]].pop(0), at


def replay(row):
    """Our packs of the golden samples in the golden order, how the file names those, and how many packs were complete
    before the original first cut a sample, or met one that is too long for a pack."""
    config = row["config"]
    most_tokens, most_tiles, buffers = (
        config[name] for name in ("max_packed_tokens", "num_images_expected", "max_buffer_size")
    )
    packer = Packer(most_tokens, most_tiles, buffers)
    packs, names, before_cut = [], {}, None
    for position, (dataset, number, place) in enumerate(golden_order(row)):
        member = golden_sample(row, dataset, number, position)
        names[position] = (place, number, member.tokens)  # the file has the place in place of the dataset
        opened = [(sum(m.tokens for m in pack), sum(m.tile_count for m in pack)) for pack in packer.held()]
        room = [tokens for tokens, tiles in opened if tiles + member.tile_count <= most_tiles]
        forced = config["allow_overflow"] and room and len(opened) >= buffers // 2
        cut = forced and all(tokens + member.tokens > most_tokens for tokens in room)
        if before_cut is None and (cut or member.tokens > most_tokens):
            before_cut = len(packs)
        with contextlib.suppress(ContextOverflow):
            packs += packer.add(member)
    return [*packs, *packer.flush()], names, before_cut


def golden_names(pack):
    return [(segment["dataset"], segment["sample"], segment["length"]) for segment in pack["segments"]]


def row_name(row):
    limits = (row["config"][name] for name in ("max_packed_tokens", "num_images_expected", "max_buffer_size"))
    return "{} tokens, {} tiles, {} open".format(*limits)


@pytest.mark.parametrize("row", [row for row in ROWS if replay(row)[2] is None], ids=row_name)
def test_packs_are_the_published_ones(row):
    packs, names, _ = replay(row)
    config = row["config"]
    assert len(packs) == len(row["packs"])
    for ours, theirs in zip(packs, row["packs"], strict=True):
        assert [names[member.position] for member in ours] == golden_names(theirs)
        tokens, tiles = sum(member.tokens for member in ours), sum(member.tile_count for member in ours)
        batch = collate_chat(ours, packed=True)
        # `strict_mode` filled a pack with empty tokens and tiles up to the limits. Ours are as long as they are.
        filled = theirs["collated_length"] - tokens
        assert filled == (config["max_packed_tokens"] - tokens if config["strict_mode"] else 0)
        ends = [0, *np.cumsum(batch.lengths).tolist()]
        assert [*ends, *[theirs["collated_length"]] * bool(filled)] == theirs["cu_seqlens"]
        absent = theirs["num_images"] - sum(theirs["image_flags"])
        assert theirs["num_images"] == (config["num_images_expected"] if config["strict_mode"] else tiles)
        assert [len(ours), filled, absent] == theirs["statistics"]
        positions = [place for length in batch.lengths for place in range(length)]
        assert positions == theirs["position_ids"]
        assert [*positions, *[0] * filled] == theirs["collated_position_ids"]
        assert len(batch.input_ids[0]) == theirs["num_tokens"]
        assert torch.where(batch.targets[0] >= 0)[0].tolist() == theirs["labels_learnt"]
        for weighting, weights in theirs["loss_weight"].items():
            found = collate_chat(ours, packed=True, weighting=weighting).weights[0]
            assert found.tolist() == weights[:tokens]
            assert not any(weights[tokens:])


def below_the_limit(self, pack, sample):
    tokens, tiles = (sum(getattr(member, name) for member in [*pack, sample]) for name in ("tokens", "tile_count"))
    return tokens < self.max_tokens and tiles < self.max_tiles


def tokens_alone(self, pack, sample):
    return sum(member.tokens for member in [*pack, sample]) <= self.max_tokens


@pytest.mark.parametrize("fault", [below_the_limit, tokens_alone], ids=lambda fault: fault.__name__)
def test_planted_faults_are_caught(fault, monkeypatch):
    rows = [row for row in ROWS if replay(row)[2] is None]
    monkeypatch.setattr(Packer, "_fits", fault)
    with pytest.raises(AssertionError):
        list(map(test_packs_are_the_published_ones, rows))


@pytest.mark.parametrize("row", [row for row in ROWS if replay(row)[2] is not None], ids=row_name)
def test_where_the_original_cut_samples_ours_are_whole(row):
    """With `allow_overflow` the original put a sample into a pack that was too small for it and cut it: within the
    answer, or before a picture, and then lost the text up to that. It also cut a sample that is longer than a pack.
    That is the one rule that is not followed: packs agree until the first such cut, and differ after it. Ours hold
    every sample once and whole; one that is too long for a pack is refused before."""
    packs, names, before_cut = replay(row)
    ours = [[names[member.position] for member in pack] for pack in packs]
    assert ours[:before_cut] == [golden_names(pack) for pack in row["packs"][:before_cut]]
    limit = row["config"]["max_packed_tokens"]
    assert sorted(name for pack in ours for name in pack) == sorted(name for name in names.values() if name[2] <= limit)
    theirs = [name for pack in row["packs"] for name in golden_names(pack)]
    assert sorted(theirs, key=str) != sorted(names.values(), key=str)


@pytest.mark.parametrize("weighting", ["token", "sample", "square"])
def test_weights_of_padded_rows_are_the_published_ones(golden, weighting):
    tensors = load_file(golden("vectors/qwen2-v2_5-bf16.safetensors"))
    for targets, weights in zip(tensors["batch.labels"], tensors[f"batch.loss_weight.{weighting}"], strict=True):
        assert np.array_equal(weights_of(Segment(targets, targets), weighting), weights)


def test_the_published_pack(golden):
    packed = load_file(golden("training/packed_forward.safetensors"))
    for name, about in json.loads(golden("training/packed_forward.json").read_text()).items():
        ids, targets = packed[f"{name}.input_ids"], packed[f"{name}.labels"]
        segments = [Segment(ids[start:stop], targets[start:stop]) for start, stop in pairwise(about["cu_seqlens"])]
        parts = [PreparedChat(at, 0, (segment,), NO_TILES) for at, segment in enumerate(segments)]
        batch = collate_chat(parts, packed=True, weighting="square")
        assert batch.lengths == tuple(about["lengths"])
        assert np.array_equal(batch.weights[0], packed[f"{name}.loss_weight_square"])
        assert np.array_equal(batch.input_ids[0], ids)
        assert np.array_equal(batch.targets[0], targets)


NO_TILES = np.zeros((0, 2, 2, 3), np.uint8)


# ---- what holds for every former -------------------------------------------------------------------------------------

sizes = st.lists(st.tuples(st.integers(2, 20), st.integers(0, 4)), max_size=60)
formers = st.sampled_from(
    [lambda: Packer(20, 4, 3), lambda: Packer(40, 9, 1), lambda: LengthGroups(3, 4), lambda: LengthGroups(1, 1),
     lambda: Plain(4)]
)  # fmt: skip


@given(sizes=sizes, make=formers)
def test_every_sample_is_in_one_group(sizes, make):
    former = make()
    groups = [group for at, size in enumerate(sizes) for group in former.add(sample(at, *size))]
    held = [member.position for group in former.held() for member in group]
    given_out = [member.position for group in groups for member in group]
    assert sorted([*given_out, *held]) == list(range(len(sizes)))
    assert sorted(member.position for group in former.flush() for member in group) == sorted(held)
    assert not former.held()
    assert not former.flush()


@given(sizes=sizes)
def test_packs_keep_both_limits_and_few_are_open(sizes):
    packer = Packer(20, 4, 3)
    for at, size in enumerate(sizes):
        for pack in packer.add(sample(at, *size)):
            assert sum(member.tokens for member in pack) <= 20
            assert sum(member.tile_count for member in pack) <= 4
        tiles = [sum(member.tile_count for member in pack) for pack in packer.held()]
        assert tiles == sorted(tiles, reverse=True)
        assert len(tiles) <= 3


@given(sizes=sizes, make=formers, stop=st.integers(0, 60))
def test_a_former_goes_on_from_what_it_held(sizes, make, stop):
    samples = [sample(at, *size) for at, size in enumerate(sizes)]
    one, other = make(), make()
    for member in samples[:stop]:
        one.add(member)
    other.restore(one.held())
    for member in samples[stop:]:
        assert names(one.add(member)) == names(other.add(member))
    assert names(one.flush()) == names(other.flush())


def names(groups):
    return [[member.position for member in group] for group in groups]


@pytest.mark.parametrize(("tokens", "tiles"), [(21, 0), (5, 5)])
def test_a_sample_that_fits_into_no_pack_is_an_error_and_blocks_nothing(tokens, tiles):
    packer = Packer(20, 4)
    with pytest.raises(ContextOverflow, match=f"{tokens} tokens and {tiles} tiles, but a pack holds 20 and 4"):
        packer.add(sample(0, tokens, tiles))
    assert not packer.held()
    assert names(packer.add(sample(1, 20, 0))) == [[1]]


def test_batches_of_similar_length_come_in_a_mixed_order():
    grouped = LengthGroups(4, 8)
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 500, 64).tolist()
    groups = [group for at, length in enumerate(lengths) for group in grouped.add(sample(at, length, 0))]
    assert [len(group) for group in groups] == [4] * 16
    for window in (groups[:8], groups[8:]):
        ordered = sorted(window, key=lambda group: -group[0].tokens)
        flat = [member.tokens for group in ordered for member in group]
        assert flat == sorted(flat, reverse=True)
        assert ordered != window
    again = LengthGroups(4, 8)
    assert names(groups) == names(
        [group for at, length in enumerate(lengths) for group in again.add(sample(at, length, 0))]
    )


@pytest.mark.parametrize(
    "make", [lambda: Packer(0, 1), lambda: Packer(9, 9, 0), lambda: LengthGroups(0), lambda: Plain(0)]
)
def test_no_former_is_made_for_nothing(make):
    with pytest.raises(ConfigError, match="at least one"):
        make()


# ---- batches ---------------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6), packed=st.booleans())
def test_a_batch_holds_every_token_and_tile_once(sizes, packed):
    samples = [sample(at, *size) for at, size in enumerate(sizes)]
    batch = collate_chat(samples, packed=packed)
    ids = np.concatenate([member.segments[0].input_ids for member in samples])
    real = batch.input_ids[0] if packed else batch.input_ids[batch.attention_mask.bool()]
    assert np.array_equal(real, ids)
    assert batch.tokens == len(ids)
    assert batch.learnt == sum(member.segments[0].learnt for member in samples)
    assert np.array_equal(batch.tiles, np.concatenate([member.tiles for member in samples]))
    assert batch.tile_order is None
    assert not batch.paired
    assert batch.positions == tuple(range(len(samples)))
    if packed:
        assert batch.lengths == tuple(tokens for tokens, _ in sizes)
    else:
        assert batch.attention_mask.sum(1).tolist() == [tokens for tokens, _ in sizes]
        assert not batch.weights[~batch.attention_mask.bool()].any()
        assert (batch.targets[~batch.attention_mask.bool()] == NOT_LEARNT).all()


@pytest.mark.parametrize("packed", [True, False])
def test_the_mask_of_padding_does_not_look_at_ids(packed):
    """For Qwen 0 is `!`: a mask by value would hide it, and so the first code base did."""
    zeros = PreparedChat(0, 0, (Segment(np.zeros(3, int), np.zeros(3, int)),), NO_TILES)
    batch = collate_chat([zeros, sample(1, 5, 0)], packed=packed)
    assert batch.tokens == 8
    assert batch.learnt == 2 + 4


@pytest.mark.parametrize("packed", [True, False])
def test_both_answers_of_a_preference_see_its_tiles_which_are_there_once(packed):
    batch = collate_chat([pair(0, 4, 6, 2), pair(1, 3, 3, 0), pair(2, 5, 2, 3)], packed=packed)
    assert batch.paired
    assert len(batch.tiles) == 5
    assert batch.tile_order.tolist() == [0, 1, 0, 1, 2, 3, 4, 2, 3, 4]
    lengths = batch.lengths if packed else tuple(batch.attention_mask.sum(1).tolist())
    assert lengths == (4, 6, 3, 3, 5, 2)
    assert batch.samples == 3


def test_conversations_and_preferences_do_not_share_a_batch():
    with pytest.raises(DataError, match="use sources of one kind"):
        collate_chat([pair(0, 4, 6, 2), sample(1, 3, 0)], packed=True)


@given(learnt=st.lists(st.booleans(), min_size=1, max_size=20))
def test_weights_of_a_sample_add_up(learnt):
    targets = np.where(learnt, 5, NOT_LEARNT)
    segment = Segment(targets, targets)
    n = sum(learnt)
    predicted = sum(learnt[1:])  # the first token of a segment has nothing before it
    for weighting, total in (("token", predicted), ("sample", predicted / max(n, 1)),
                             ("square", predicted / max(n, 1) ** 0.5)):  # fmt: skip
        weights = weights_of(segment, weighting)
        assert weights.dtype == np.float32
        assert weights[0] == 0
        assert (weights > 0).sum() == predicted
        assert weights.sum() == pytest.approx(total, rel=1e-6)  # seen: 2e-7, from adding in fp32
