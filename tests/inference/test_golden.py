"""Published behaviour: ids, scores and conversations that the original code produced on tiny checkpoints."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file
from torch import Tensor

from internvl import Chat, SamplingConfig, load, load_encoder
from internvl.data.encode import Encoder
from internvl.data.prompts import Image, Message, Text
from internvl.inference.generate import generate
from internvl.inference.rows import Prompt, new_cache, prefill
from internvl.models.chat import ChatModel
from tests.conftest import golden, golden_names

SCORES = 1e-5
"""Scores of each step, relative to the largest. Measured over all checkpoints: 1.3e-6."""


def has(name: str, *keys: str) -> bool:
    known = json.loads(golden(f"vectors/{name}").read_text())
    return isinstance(known, dict) and all(key in known for key in keys)


CHAT = [name.removesuffix(".json") for name in golden_names("vectors/*.json") if has(name, "generate", "chat")]


@cache
def reference(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    vectors = json.loads(golden(f"vectors/{name}.json").read_text())
    return vectors, load_file(golden(f"vectors/{name}.safetensors"))


@cache
def model_of(name: str) -> Any:
    return load(golden(f"checkpoints/{name}"), dtype="float32", device="cpu", compat="original")


def as_tuple(ids: int | list[int]) -> tuple[int, ...]:
    return tuple(ids) if isinstance(ids, list) else (ids,)


def picked(where: str | None, tensors: dict[str, Tensor]) -> Tensor | None:
    """`pixel_values[0:2]` -> those tiles."""
    if where is None:
        return None
    start, stop = where.partition("[")[2].removesuffix("]").split(":")
    return tensors["pixel_values"][int(start) : int(stop)]


@torch.inference_mode()
def prompts_of(model: ChatModel, case: dict[str, Any], tiles: Tensor | None, leading: tuple[int, ...]) -> list[Prompt]:
    """The rows of a case without the padding on their left."""
    features = None if tiles is None else model.image_features(tiles)
    config = SamplingConfig(
        max_new_tokens=12,
        repetition_penalty=case.get("repetition_penalty", 1.0),
        min_new_tokens=case.get("min_new_tokens", 0),
        beams=case.get("num_beams", 1),
        length_penalty=case.get("length_penalty", 1.0),
    )
    prompts, start = [], 0
    for ids, mask in zip(case["input_ids"], case.get("attention_mask") or case["input_ids"], strict=True):
        row = [i for i, real in zip(ids, mask, strict=True) if real or "attention_mask" not in case]
        stop = start + row.count(model.config.image_token) // model.config.slots_per_tile
        seen = None if features is None or start == stop else features[start:stop]
        prompts.append(Prompt(row, seen, config, as_tuple(case["eos_token_id"]), leading))
        start = stop
    return prompts


CASES = [(name, case) for name in CHAT for case in reference(name)[0]["generate"]]


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda value: value)
def test_generated_ids_and_scores(name, case):
    vectors, tensors = reference(name)
    model, case_name, case = model_of(name), case, vectors["generate"][case]
    # Where a case does not say which tiles it saw, they are those of its checkpoint's first picture.
    tiles = picked(case.get("pixel_values", "pixel_values[0:2]"), tensors)
    leading = vectors["generate"]["image"]["leading_ids"][0]
    prompts = prompts_of(model, case, tiles, tuple(leading))
    for done, expected in zip(generate(model, prompts, cache=new_cache(model, prompts)), case["new_ids"], strict=True):
        assert done.ids == expected[: len(done.ids)]
        assert set(expected[len(done.ids) :]) <= {vectors["pad_token_id"]}, "the original goes on with padding"
    if (key := f"generate.{case_name}.step_logits") in tensors:
        ours = step_logits(model, prompts, case["new_ids"])
        assert (ours - tensors[key]).abs().max() <= SCORES * tensors[key].abs().max()


@torch.inference_mode()
def step_logits(model: Any, prompts: list[Prompt], said: list[list[int]]) -> Tensor:
    """(B, steps, vocab) along given continuations."""
    kv = new_cache(model, prompts)
    steps = [prefill(model, prompts, kv)]
    for column in torch.tensor(said).T[:-1]:
        steps.append(model.step(column[:, None], cache=kv))
    return torch.stack(steps, dim=1)


CAPTIONS = [
    ("internvl-14b", case)
    for name in golden_names("vectors/internvl-14b.json")
    if name
    for case in reference("internvl-14b")[0]["generate"]
]


@pytest.mark.parametrize(("name", "case"), CAPTIONS, ids=lambda value: value)
def test_captions(name, case):
    vectors, tensors = reference(name)
    model, case = model_of(name), vectors["generate"][case]
    with torch.inference_mode():
        states = model.vision_model(tensors["pixel_values"])
    config = SamplingConfig(
        max_new_tokens=case["max_new_tokens"],
        min_new_tokens=case.get("min_new_tokens", 0),
        beams=case["num_beams"],
    )
    prompts = [
        Prompt(ids, states[i : i + 1], config, as_tuple(case["eos_token_id"]))
        for i, ids in enumerate(case["input_ids"])
    ]
    done = generate(model, prompts, cache=new_cache(model, prompts))
    assert [one.ids for one in done] == [ids[1:] for ids in case["output_ids"]]
    scores = [one.score for one in done]
    assert scores == pytest.approx(case.get("sequences_scores", scores), abs=2e-6)  # measured: 5.6e-7
    if case["num_beams"] == 1 and case["input_ids"] == next(iter(vectors["generate"].values()))["input_ids"]:
        expected = tensors["generate.greedy.step_logits"]
        ours = step_logits(model, prompts, [one.ids for one in done])
        assert (ours - expected).abs().max() <= SCORES * expected.abs().max()


@pytest.fixture
def conversation(monkeypatch) -> Callable[[str], tuple[Chat, Callable[[Tensor | None, list[int]], list[Pillow.Image]]]]:
    """A `Chat` that is given tiles as tensors: pictures of the right shape stand for them."""

    def make(name: str) -> tuple[Chat, Callable[[Tensor | None, list[int]], list[Pillow.Image]]]:
        encoder = load_encoder(golden(f"checkpoints/{name}"), compat="original")
        encoder = Encoder(encoder.tokenizer, replace(encoder.config, thumbnail=False, dynamic=True))
        chat = Chat(model_of(name), encoder, sampling=SamplingConfig(max_new_tokens=12))

        def pictures(tiles: Tensor | None, counts: list[int]) -> list[Pillow.Image]:
            with torch.inference_mode():
                features = None if tiles is None else chat.model.image_features(tiles).split(counts)
            left = list(features or ())

            def of(seen: list[Any], report: Any) -> Tensor | None:
                taken = [left.pop(0) for _ in seen]
                return torch.cat(taken) if taken else None

            monkeypatch.setattr(chat._features, "of", of)
            side = encoder.config.tile_size
            return [Pillow.new("RGB", (count * side, side)) for count in counts]

        return chat, pictures

    return make


@pytest.mark.parametrize(
    ("name", "place"), [(name, i) for name in CHAT for i in range(len(reference(name)[0]["chat"]))]
)
def test_conversations(conversation, name, place):
    vectors, tensors = reference(name)
    case, (chat, pictures) = vectors["chat"][place], conversation(name)
    tiles = picked(case["pixel_values"], tensors)
    left = pictures(tiles, case["num_patches_list"] or ([] if tiles is None else [len(tiles)]))
    for question, answer in case["history_in"] or []:
        shown = [Image(left.pop(0), 12) for _ in range(question.count("<image>"))]
        chat.history += [Message("user", (*shown, question)), Message("assistant", (Text(answer),))]
    stream = chat.stream(case["question"], images=left, max_tiles=12 * max(1, len(left)))
    assert "".join(stream) == case["response"]
    assert stream.answer.text == case["response"]
    assert [message.role for message in chat.history] == ["user", "assistant"] * len(case["history_out"])


@pytest.mark.parametrize("name", CHAT)
def test_the_original_counts_a_token_that_nobody_wrote(conversation, name):
    chat, _ = conversation(name)
    assert [chat._counted] == [tuple(ids) for ids in reference(name)[0]["generate"]["image"]["leading_ids"]]


@pytest.mark.parametrize("name", CHAT)
def test_batches(conversation, name):
    vectors, tensors = reference(name)
    case, (chat, pictures) = vectors["batch_chat"], conversation(name)
    shown = pictures(picked(case["pixel_values"], tensors), case["num_patches_list"])
    answers = chat.batch([(question, [one]) for question, one in zip(case["questions"], shown, strict=True)])
    assert [answer.text for answer in answers] == case["responses"]
