"""From an order to what a model is fed, without the model: media are opened, the prompt is written, tiles are cut.

    Order --as_json--> JSON, and long addresses beside it --order_of--> Order      (between two processes)
      |
      '--open_all--> {Reference: Image | Video | pages} --prompt_of--> wire.Prompt and the tiles

A question is read here as `internvl.inference.chat.Chat` reads it: the same door for media, the same budget of tiles,
the same encoder. What is said of media that cannot be used names no address: `said` sees to that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from internvl.data.encode import Encoder
from internvl.data.image import digest
from internvl.data.limits import Limits
from internvl.data.media import FRAMES, name_of
from internvl.data.pair import Fit, encode_picture
from internvl.data.prompts import Image, Message, Text, Video
from internvl.errors import ContextOverflow, InternVLError, MediaError, MediaRefused, MediaUnreadable, PromptError
from internvl.inference.attached import budget_of, pages_of, photo_of, shared, video_of
from internvl.serving.fields import is_data
from internvl.serving.order import Opened, Order, Reference, Unopened
from internvl.serving.refusal import Refusal
from internvl.serving.wire import Prompt

CALLED = {"image": "picture", "video": "video", "pdf": "document"}


class Unforeseen(MediaUnreadable):
    """Over this file a decoder raised what none should raise; its cause says what."""


# ---- as JSON ---------------------------------------------------------------------------------------------------------


def as_json(order: Order) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a reader needs of an order, and the data: addresses in it, which are too long for JSON.

    >>> as_json(Order(model="nano", prompts=("Once",)))
    ({'messages': [], 'prompts': ['Once'], 'max_tiles': None, 'data': []}, ())
    """
    data = tuple(dict.fromkeys(one.address for one in order.references if is_data(one.address)))
    places: dict[str, int] = {address: place for place, address in enumerate(data)}

    def written(part: Text | Reference) -> dict[str, Any]:
        if isinstance(part, Text):
            return {"text": part.text}
        return vars(part) | {"address": places.get(part.address, part.address)}

    messages = [{"role": one.role, "parts": [written(part) for part in one.parts]} for one in order.unopened]
    lengths = [len(address) if address.isascii() else len(address.encode()) for address in data]
    return {"messages": messages, "prompts": list(order.prompts), "max_tiles": order.max_tiles, "data": lengths}, data


def order_of(written: Mapping[str, Any], data: bytes = b"") -> Order:
    """The order again, as far as it was written; data: what was too long for JSON, joined."""
    ends = np.cumsum(written["data"], dtype=np.int64).tolist()
    addresses = [data[end - length : end].decode() for end, length in zip(ends, written["data"], strict=True)]

    def part_of(part: Mapping[str, Any]) -> Text | Reference:
        if "text" in part:
            return Text(**part)
        written: dict[str, Any] = dict(part)
        if isinstance(written["address"], int):
            written["address"] = addresses[written["address"]]
        return Reference(**written)

    return Order(
        model="",
        unopened=tuple(Unopened(one["role"], tuple(map(part_of, one["parts"]))) for one in written["messages"]),
        prompts=tuple(written["prompts"]),
        max_tiles=written["max_tiles"],
    )


def limits_as_json(limits: Limits) -> dict[str, Any]:
    return asdict(limits) | {"root": None if limits.root is None else str(limits.root)}


def limits_of(written: Mapping[str, Any]) -> Limits:
    """Limits that went through JSON, in which there are no paths and no tuples."""
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in written.items()}
    values["root"] = None if written["root"] is None else Path(written["root"])
    return Limits(**values)


# ---- media -----------------------------------------------------------------------------------------------------------


def open_all(order: Order, limits: Limits) -> dict[Reference, Opened]:
    """Everything that an order refers to, each once. All of it together has at most `limits.clip_pixels` pixels.

    Raises InternVLError of the kinds of `internvl.data.media`, in words that name no address.
    """
    opened: dict[Reference, Opened] = {}
    counted = dict.fromkeys(CALLED, 0)
    pixels = 0
    for reference in (one for draft in order.unopened for one in draft.references):
        counted[reference.kind] += 1
        if reference in opened:
            continue
        name = f"{CALLED[reference.kind]} {counted[reference.kind]}"
        source = _source(reference, limits, name)
        try:
            opened[reference] = _open(reference, source, limits)
        except InternVLError as error:
            raise _placed(type(error)(said(str(error), source, name)), reference) from None
        except MemoryError:
            raise
        except Exception as error:  # a decoder at work on a stranger's bytes may raise anything
            raise _placed(Unforeseen(f"{name}: it is damaged; send another copy"), reference) from error
        pixels += sum(width * height for width, height in _sizes(opened[reference]))
        if pixels > limits.clip_pixels:
            over = MediaRefused(
                f"{name}: with it the request has {pixels} pixels, at most {limits.clip_pixels} are held; send fewer"
            )
            raise _placed(over, reference)
    return opened


def _placed(error: InternVLError, reference: Reference) -> InternVLError:
    """The error, which knows where its medium stands in the request."""
    if isinstance(error, MediaError):
        error.place = reference.place
    return error


def _open(reference: Reference, source: str | Path, limits: Limits) -> Opened:
    if reference.kind == "image":
        return Image(photo_of(source, limits), reference.max_tiles)
    if reference.kind == "video":
        return video_of(source, limits, frames=reference.frames or min(FRAMES, limits.frames) or None)
    return [Image(page, reference.max_tiles) for page in pages_of(source, limits)]


def _sizes(opened: Opened) -> list[tuple[int, int]]:
    if isinstance(opened, Video):
        return [frame.size for frame in opened.frames]
    return [one.picture.size for one in ([opened] if isinstance(opened, Image) else opened)]


def _source(reference: Reference, limits: Limits, name: str) -> str | Path:
    """What the door takes. Where only one folder is open, a file: address may name what is in it."""
    address = reference.address
    parts = urlsplit(address) if limits.root is not None and address[:5].lower() == "file:" else None
    if parts is None:
        return address
    if parts.netloc not in ("", "localhost"):
        error = MediaRefused(f"{name}: file: addresses have no host here; write file:///path")
        raise _placed(error, reference)
    path = Path(url2pathname(parts.path))
    for root in (limits.root, limits.root.resolve()) if limits.root else ():
        if path.is_relative_to(root):
            return path.relative_to(root)
    return path


PYTHON = (  # what messages say to callers in Python, and what a client of a server can do instead
    (r" \(Limits[.\w]*\)", ""),
    (r"; Limits\b.*", "; send a data: address"),
    (r"; give the right one as password=.*", "; send it unlocked"),
    (r": choose some with pages=.*", "; send a shorter one, or its pages as pictures"),
    (r" \(pass it as [^)]*\)", ""),
)
ADDRESS = r"['\"]?\b[a-z][a-z0-9+.-]*:/\S*?['\"]?(?=:? |:?$)"


def said(message: str, source: str | Path, name: str) -> str:
    """What is said of media that cannot be used, without the address, and without that of a redirect.

    >>> said("https://a.example/b.jpg: it is empty", "https://a.example/b.jpg", "picture 1")
    'picture 1: it is empty'
    """
    known = [name_of(source, ""), *(f"the {called}" for called in CALLED.values())]
    shown = "|".join(re.escape(written) for one in known if one for written in (repr(one), one))
    for pattern, instead in PYTHON:
        message = re.sub(pattern, instead, message)
    message = re.sub(rf"^({shown}|{ADDRESS})(?P<colon>: )?", lambda found: "" if found["colon"] else "its address",
                     message, flags=re.IGNORECASE)  # fmt: skip
    return f"{name}: {re.sub(ADDRESS, 'an address', message, flags=re.IGNORECASE)}"


# ---- prompts ---------------------------------------------------------------------------------------------------------


def prompt_of(
    order: Order, encoder: Encoder, limits: Limits, *, id: int = 0, context: int | None = None, tiles: bool = True
) -> tuple[Prompt, np.ndarray]:
    """The prompt of an order and its tiles (n, S, S, 3) uint8.

    context: tokens that the model reads; a prompt that leaves no room for an answer is a ContextOverflow before
    anything is cut. Without `tiles` all is counted and nothing is cut: there are no digests, and any length will do.
    Of /v1/completions one text at a time is read; where all is only counted, the first.
    """
    most = context - 1 if context is not None and tiles else None
    if order.prompts:
        return _continued(order.prompts if tiles else order.prompts[:1], encoder, id, most)
    messages = _messages(order, encoder, limits)
    encoded = encoder.encode(messages, max_length=most, cut=tiles)
    slots = sum(encoded.tiles_per_image) * encoder.config.slots_per_tile
    prompt = Prompt(
        id=id,
        ids=encoded.input_ids,
        digests=digests_of(encoded.tiles, encoded.tiles_per_image) if tiles else (),
        tiles=encoded.tiles_per_image,
        shape=encoded.tiles.shape,
        sizes=encoded.sizes,
        image_tokens=slots,
    )
    return prompt, encoded.tiles


def _messages(order: Order, encoder: Encoder, limits: Limits) -> list[Message]:
    _check_tiles(order, encoder)
    opened = open_all(order, limits)
    messages: list[Message] = []
    for draft in order.unopened:
        document = any(one.kind == "pdf" for one in draft.references)
        budget = budget_of(encoder.config, order.max_tiles, document=document) if draft.references else None
        messages.append(shared(draft.message(opened), budget))
    return messages


def _check_tiles(order: Order, encoder: Encoder) -> None:
    """Tiles are asked for only of a model that cuts pictures."""
    own = next((one for one in order.references if (one.max_tiles or 1) > 1), None)
    asked = order.max_tiles or 1 if order.references else 1
    if encoder.config.dynamic or (own is None and asked == 1):
        return
    field = own.place.removesuffix("url") + "max_dynamic_patch" if own else "max_tiles"
    raise Refusal(f"{field}: found {own.max_tiles if own else asked}, but this model sees every picture as one tile; "
                  "leave it out", param=field, code="unsupported_parameter")  # fmt: skip


def _continued(prompts: Sequence[str], encoder: Encoder, id: int, most: int | None) -> tuple[Prompt, np.ndarray]:
    """A text as it is, without template and end: what a text to pretrain on begins with."""
    if len(prompts) != 1:
        raise ValueError(f"{len(prompts)} texts; expected one, the others are orders of their own")
    ids = encoder.encode([Message("pretrain", (Text(prompts[0]),))], generate=False).input_ids
    if not ids:
        raise PromptError("the prompt is empty, and this model has no token that a text begins with; send some text")
    if most is not None and len(ids) > most:
        raise ContextOverflow(f"the prompt has {len(ids)} tokens, at most {most} leave room for an answer; shorten it")
    size = encoder.config.tile_size
    return Prompt(id=id, ids=ids, shape=(0, size, size, 3)), np.empty((0, size, size, 3), np.uint8)


def digests_of(tiles: np.ndarray, counts: Sequence[int]) -> list[str]:
    """Of each picture, given the tiles of all."""
    return [digest(one) for one in np.split(tiles, np.cumsum(counts)[:-1])] if counts else []


def look(order: Order, limits: Limits, *, size: int, fit: Fit, id: int = 0) -> tuple[Prompt, np.ndarray]:
    """Pictures as a model of vectors sees them: (n, size, size, 3) uint8, a Prompt without ids beside it."""
    opened = open_all(order, limits)
    shown = [opened[part] for draft in order.unopened for part in draft.references]
    photos = [one.picture for one in shown if isinstance(one, Image)]
    tiles = np.stack([encode_picture(photo, size=size, fit=fit) for photo in photos])
    return Prompt(id=id, ids=(), shape=tiles.shape, sizes=[photo.size for photo in photos]), tiles


def pictures(images: Sequence[Reference]) -> Order:
    """An order that is nothing but pictures."""
    return Order(model="", unopened=(Unopened("user", tuple(images)),))
