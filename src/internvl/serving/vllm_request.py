"""A prompt as vLLM takes it, with the tokens and the very pixels that the package's own engine would see.

    ids, tiles --body--> JSON for vLLM's /inference/v1/generate      {"token_ids", "features", "sampling_params"}
    its lines  --chunk--> what was drawn, answer by answer

vLLM's own chat template and picture processor have no part in it: a conversation means the same to both engines. Pixels
travel as the processor of vLLM's InternVL class would have made them, in MessagePack, which carries no code.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from internvl.data.image import Normalisation, normalise
from internvl.errors import InternVLError
from internvl.inference.sampling import SamplingConfig, Token

RAW = 3
"""MessagePack extension under which vLLM expects the bytes of a tensor."""
LAST = "[DONE]"


class VllmError(InternVLError):
    """What vLLM says is no answer."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the model sees tiles."""

    normalisation: Normalisation
    dtype: torch.dtype
    slot: int
    """The id of the places that a picture fills."""
    slots_per_tile: int


@dataclass(frozen=True)
class Drawn:
    """What one of the answers got."""

    answer: int
    tokens: tuple[Token, ...]
    finish: str | None


@dataclass(frozen=True)
class Chunk:
    """One line of what vLLM says."""

    drawn: tuple[Drawn, ...] = ()
    reused: int | None = None
    """Tokens of the prompt that it knew from before; the last line has it."""


# ---- what is asked ---------------------------------------------------------------------------------------------------


def body(
    ids: Sequence[int],
    pictures: Sequence[tuple[str, np.ndarray]],
    sampling: Mapping[str, Any],
    look: Look,
    priority: int = 0,
) -> bytes:
    """The request as JSON. pictures: of each its digest and tiles (n, S, S, 3) uint8; sampling: of `sampled`."""
    asked: dict[str, Any] = {
        "token_ids": list(ids),
        "sampling_params": dict(sampling),
        "stream": True,
        "stream_options": {"include_usage": True},
        "priority": -priority,  # vLLM takes the lowest number first
    }
    if pictures:
        places = runs(ids, [len(tiles) * look.slots_per_tile for _, tiles in pictures], look.slot)
        asked["features"] = {
            "mm_hashes": {"image": [name for name, _ in pictures]},
            "mm_placeholders": {"image": [{"offset": start, "length": length} for start, length in places]},
            "kwargs_data": {"image": [_packed_picture(tiles, look) for _, tiles in pictures]},
        }
    return json.dumps(asked, separators=(",", ":")).encode()


def sampled(
    config: SamplingConfig, stop_ids: Sequence[int], *, n: int = 1, logprobs: bool = False, grammar: str | None = None
) -> dict[str, Any]:
    """How an answer is drawn, in vLLM's words. Stop strings are watched for here, where the text is.

    >>> sampled(SamplingConfig(max_new_tokens=8), (2,))["temperature"]
    0.0
    """
    said: dict[str, Any] = {
        "n": n,
        "max_tokens": config.max_new_tokens,
        "min_tokens": config.min_new_tokens,
        "temperature": config.temperature,
        "repetition_penalty": config.repetition_penalty,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": True,  # what ends an answer is in the list
        "detokenize": False,
        "skip_special_tokens": False,
    }
    said |= {name: value for name in ("top_k", "top_p", "seed") if (value := getattr(config, name)) is not None}
    if logprobs:
        said["logprobs"] = config.top_logprobs + 1  # the drawn token may take the place of one of the likeliest
    if grammar is not None:
        said["structured_outputs"] = {"grammar": grammar}
    return said


def runs(ids: Sequence[int], lengths: Sequence[int], slot: int) -> list[tuple[int, int]]:
    """Where the slots of each picture begin, and how many they are.

    >>> runs([1, 9, 9, 2, 9, 9, 9], [2, 3], slot=9)
    [(1, 2), (4, 3)]
    """
    found: list[tuple[int, int]] = []
    at = 0
    for length in lengths:
        while at < len(ids) and ids[at] != slot:
            at += 1
        if list(ids[at : at + length]) != [slot] * length:
            raise VllmError("the slots of the prompt do not fit its pictures")
        found.append((at, length))
        at += length
    return found


def _packed_picture(tiles: np.ndarray, look: Look) -> str:
    """What vLLM's `InternS1ForConditionalGeneration` wants of one picture."""
    pixels = normalise(tiles, look.normalisation).to(look.dtype)
    raw = pixels.view(torch.uint8).numpy().tobytes()
    dtype = str(look.dtype).removeprefix("torch.")
    count = len(tiles)
    flat = ["flat", {"keep_on_cpu": False, "slices": [[0, count, None]], "dim": 0}]
    item = {
        "pixel_values": {"data": [dtype, list(pixels.shape), raw], "field": flat},
        "image_num_patches": {"data": _number(count), "field": ["batched", {"keep_on_cpu": True}]},
        "image_token_id": {"data": _number(look.slot), "field": ["shared", {"keep_on_cpu": True, "batch_size": 1}]},
    }
    return base64.b64encode(packed(item)).decode()


def _number(value: int) -> list[Any]:
    return ["int64", [], struct.pack("<q", value)]


def packed(value: Any) -> bytes:
    """Plain values as MessagePack; bytes are the content of a tensor.

    >>> packed({"a": [1, None, True]}).hex()
    '81a16193d30000000000000001c0c3'
    """
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return struct.pack(">Bq", 0xD3, value)
        case str():
            text = value.encode()
            return (bytes([0xA0 | len(text)]) if len(text) < 32 else struct.pack(">BI", 0xDB, len(text))) + text
        case bytes():
            return struct.pack(">BIb", 0xC9, len(value), RAW) + value
        case list():
            return _head(0x90, 0xDD, len(value)) + b"".join(map(packed, value))
        case dict():
            pairs = (packed(key) + packed(one) for key, one in value.items())
            return _head(0x80, 0xDF, len(value)) + b"".join(pairs)
        case _:
            raise TypeError(f"{type(value).__name__} is no plain value")


def _head(small: int, large: int, count: int) -> bytes:
    return bytes([small | count]) if count < 16 else struct.pack(">BI", large, count)


# ---- what is answered ------------------------------------------------------------------------------------------------


def chunk(line: str, config: SamplingConfig, *, logprobs: bool) -> Chunk | None:
    """What a line says; None: nothing. `VllmError` where vLLM broke off, or says what is not understood."""
    kind, _, data = line.partition(":")
    data = data.strip()
    if kind != "data" or data == LAST:
        return None
    try:
        said: Any = json.loads(data)
        if "error" in said:
            raise VllmError("vLLM broke off an answer")
        usage = said.get("usage")
        known = ((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0) if usage else None
        top = config.top_logprobs
        drawn = tuple(_drawn(one, top, logprobs=logprobs) for one in said["choices"])
        return Chunk(drawn, known)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VllmError(
            f"vLLM says what is not understood ({type(error).__name__}); is its version supported?"
        ) from None


def _drawn(choice: Mapping[str, Any], top: int, *, logprobs: bool) -> Drawn:
    ids: list[int] = choice["token_ids"] or []
    if logprobs and ids:
        tokens = [_token(one, top) for one in choice["logprobs"]["content"]]
        if [token.id for token in tokens] != ids:
            raise ValueError("log-probabilities of other tokens")
    else:
        tokens = [Token(id, 0.0) for id in ids]
    finish = choice["finish_reason"]
    if finish not in (None, "stop", "length"):
        raise VllmError("vLLM broke off an answer")
    return Drawn(int(choice["index"]), tuple(tokens), finish)


def _token(content: Mapping[str, Any], top: int) -> Token:
    """A token, and the likeliest in its place: vLLM tells the drawn one first, whatever its rank."""
    likeliest = sorted(((int(o["token_id"]), float(o["logprob"])) for o in content.get("top_logprobs") or ()),
                       key=lambda one: -one[1])  # fmt: skip
    return Token(int(content["token_id"]), float(content["logprob"]), tuple(likeliest[:top]))
