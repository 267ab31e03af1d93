"""What is remembered: features by the content of their tiles, and the tokens a cache still holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from internvl.inference import seen
from internvl.inference.seen import Features, Held, digest, keys_of
from internvl.models.chat import ChatModel
from internvl.models.config import RopeScaling
from tests.models.tiny import TEXTS, chat_config, chat_model, shake


def picture(seed: int, tiles: int = 1) -> tuple[str, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 256, (tiles, 56, 56, 3), dtype=np.uint8)
    return digest(pixels), pixels


def test_a_digest_is_of_shape_and_pixels():
    a = np.arange(48, dtype=np.uint8)
    shapes = [a.reshape(1, 4, 4, 3), a.reshape(2, 2, 4, 3), a.reshape(1, 2, 8, 3), a.reshape(1, 4, 4, 3)[:, ::-1]]
    assert len({digest(one) for one in shapes}) == 4
    assert digest(shapes[0]) == digest(shapes[0].copy())


def test_the_same_picture_is_encoded_once(monkeypatch):
    monkeypatch.setattr(seen, "CPU_PATCHES", 16)
    model = chat_model()
    encoded, image_features = [], model.image_features
    monkeypatch.setattr(model, "image_features", lambda pixels: encoded.append(len(pixels)) or image_features(pixels))
    features, told = Features(model, "imagenet"), []
    a, b = picture(1), picture(2, tiles=3)
    first = features.of([a, b, a], lambda done, total: told.append((done, total)))
    assert sum(encoded) == 4
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    again = features.of([a, b])
    assert sum(encoded) == 4
    assert torch.equal(first, torch.cat((again, again[:1])))
    assert features.of([]) is None


def test_small_tiles_are_encoded_together_and_large_ones_alone():
    features = Features(chat_model(), "imagenet")
    for side, tiles, sizes in ((56, 3, [3]), (56, 70, [64, 6]), (448, 3, [1, 1, 1]), (896, 2, [1, 1])):
        assert [len(part) for part in features.parts(np.empty((tiles, side, side, 3), np.uint8))] == sizes


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(seen, "MOST_TILES", 3)
    model = chat_model()
    encoded, image_features = [], model.image_features
    monkeypatch.setattr(model, "image_features", lambda pixels: encoded.append(len(pixels)) or image_features(pixels))
    features = Features(model, "imagenet")
    for seed in (1, 2, 3, 4, 3, 1):
        features.of([picture(seed)])
    assert len(encoded) == 5, "the fourth drives out the first"
    huge = features.of([picture(9, tiles=5)])
    assert huge is not None
    assert len(huge) == 5, "more than is kept is still given"


def test_slots_are_known_by_their_picture():
    a, b = picture(1), picture(2)
    keys = keys_of([1, 9, 9, 2, 9, 9], image_token=9, slots_per_tile=2, pictures=[a, b])
    assert keys == [1, (a[0], 0), (a[0], 1), 2, (b[0], 0), (b[0], 1)]


def read(model: ChatModel, held: Held, keys: list, new_tokens: int = 4) -> int:
    """Take a prompt as `Chat` does; returns how many tokens did not have to be read."""
    cache, reused = held.begin(keys, new_tokens)
    with torch.inference_mode():
        model.prefill(torch.tensor([[1] * (len(keys) - reused)]), None, cache=cache)
    held.extend(keys[reused:])
    return reused


def test_a_longer_prompt_continues_where_the_last_one_ended():
    model = chat_model()
    held = Held(model)
    assert read(model, held, [1, 2, 3]) == 0
    assert read(model, held, [1, 2, 3, 4, 5]) == 3
    assert read(model, held, [1, 2, 3, 4, 5]) == 4, "one token is left to read: its logits are wanted"
    assert read(model, held, [1, 2, 7]) == 2
    assert read(model, held, [8, 2, 7]) == 0
    forgetful = Held(model, reuse=False)
    assert [read(model, forgetful, [8, 2, 7]) for _ in range(2)] == [0, 0]


def test_another_picture_in_the_same_place_is_another_prompt():
    model = chat_model()
    held = Held(model)
    before, after = [1, ("a", 0), ("a", 1), 2, 3], [1, ("b", 0), ("b", 1), 2, 3]
    read(model, held, before)
    assert read(model, held, after) == 1
    assert read(model, held, [1, ("b", 0), ("c", 1), 2]) == 1, "a part of a picture is read again with the rest"


def test_the_cache_grows_and_keeps_what_it_held(monkeypatch):
    monkeypatch.setattr(seen, "ROOM", 8)
    model = chat_model()
    held = Held(model)
    read(model, held, [1, 2, 3])
    assert held.cache is not None
    assert held.cache.max_len == 8
    keys = held.cache.keys[0][:, :, :3].clone()
    assert read(model, held, list(range(1, 20))) == 3
    assert held.cache.max_len == 24
    assert torch.equal(held.cache.keys[0][:, :, :3], keys)


@pytest.mark.parametrize(
    ("rope", "lengths", "reused"),
    [
        (RopeScaling(kind="dynamic", factor=2.0, original=8), (3, 6), 3),
        (RopeScaling(kind="dynamic", factor=2.0, original=8), (3, 9), 0),
        (RopeScaling(kind="dynamic", factor=2.0, original=8), (10, 12), 0),
        (RopeScaling(kind="dynamic", factor=2.0, original=8, per_call=True), (3, 6), 0),
        (RopeScaling(kind="linear", factor=2.0), (3, 30), 3),
    ],
)
def test_rope_that_depends_on_length_limits_what_can_be_kept(rope, lengths, reused):
    model = shake(ChatModel(replace(chat_config(), text=replace(TEXTS["llama"], rope=rope))))
    held = Held(model)
    short, long = lengths
    read(model, held, list(range(1, short + 1)))
    assert read(model, held, list(range(1, long + 1))) == reused
