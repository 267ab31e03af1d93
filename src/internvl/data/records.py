"""The JSON-lines records that datasets are made of, one object a line, checked strictly.

    conversation    {"id", "conversations": [{"from": "human" | "gpt" | "system" | "function", "value": str}, ...],
                     "image": str or [str, ...] | "video": str, "clip": [start, end] in seconds}
    preference      {"question", "chosen", "rejected", and "image" or "video" as above}
    pair            {"image": str, "caption": str, "image_id": int or str, the same for all captions of a picture}
    label           {"image": str, "label": int or str}

Where rows are not lines of text (`internvl.data.rows`), a picture or video may be bytes, or {"bytes", "path"} as the
Hugging Face hub has it in Parquet files.

A `function` is a tool, whose answer is not learnt; only the template of GPT-OSS has a place for it. A conversation of
one turn, from `pretrain`, is a text that is learnt from end to end, without a template.

In what a human says, and in a text to pretrain on, `<image>` and `<video>` are placeholders: one for each picture, or
none, and then the pictures come first. Elsewhere they are text. Regions are written in the text, see
`internvl.data.boxes`. Other keys are left alone, but one that looks like a known key misspelt is an error.

`messages(..., compat="original")` places pictures as the first code base did: a picture that is not in a list, or a
video, goes before the first turn unless that turn has a placeholder, even if a later one has; placeholders left over
stay text.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from internvl.data.image import Compat, check_compat, check_tiles
from internvl.data.prompts import IMAGE, SHOWN_TO, VIDEO, Image, Message, Part, Role, Text, Video
from internvl.errors import DataError, find

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

ROLES: Mapping[str, Role] = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "function": "tool",
    "pretrain": "pretrain",
}

_TURN = '{"from": "human", "value": "..."}'
_ROLES = "the role user is from 'human' here, assistant 'gpt', tool 'function', and content is the value"

Media = str | bytes
"""A picture or video: where it is, or the file itself."""


@dataclass(frozen=True)
class Conversation:
    """What was said, with pictures named but not yet opened."""

    id: str
    turns: tuple[tuple[Role, str], ...]
    images: tuple[Media, ...] = ()
    video: Media | None = None
    clip: tuple[float, float] | None = None
    listed: bool = False
    """Whether the images stand in a list, even of one: the first code base added a placeholder only without one."""


@dataclass(frozen=True)
class Preference:
    """A question with a better and a worse answer, as two conversations with the same pictures."""

    id: str
    chosen: Conversation
    rejected: Conversation


@dataclass(frozen=True)
class Pair:
    """A picture and what it shows."""

    id: str
    image: Media
    caption: str
    image_id: int | str | None = None
    """The same for all captions of one picture; None: told by its file."""


@dataclass(frozen=True)
class Labelled:
    """A picture and its class."""

    id: str
    image: Media
    label: int | str


Record = Conversation | Preference | Pair | Labelled


def read(line: str, kind: str, *, origin: str) -> Record:
    """One line of a file as a record; `origin` (file and line number) names it in errors until its own id is known.

    >>> read('{"image": "a.jpg", "label": 3}', "label", origin="flags.jsonl:1")
    Labelled(id='flags.jsonl:1', image='a.jpg', label=3)
    """
    find("kind of record", kind, KINDS)
    return record(json_object(line, origin), kind, origin=origin)


def record(row: Mapping[str, Any], kind: str, *, origin: str) -> Record:
    """A row that has been read as a record: a JSON object, whose pictures and videos may be bytes.

    >>> record({"image": b"...", "caption": "A bus."}, "pair", origin="bus.tar:0001")
    Pair(id='bus.tar:0001', image=b'...', caption='A bus.', image_id=None)
    """
    known, build = find("kind of record", kind, KINDS)
    name = f"{origin}, id {_brief(row['id'])}" if row.get("id") is not None else origin
    _no_misspelt_key(row, known, name)
    return build(row, name)


def json_object(line: str | bytes, origin: str) -> dict[str, Any]:
    """What a line holds, which must be one JSON object; bytes are UTF-8, with or without a mark of that before them."""
    try:
        found = json.loads(line.decode("utf-8-sig") if isinstance(line, bytes) else line)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, brackets 5000 deep
        raise DataError(f"{origin} is not JSON ({error}); each line must be one object") from error
    if not isinstance(found, dict):
        raise DataError(f"{origin} is a JSON {type(found).__name__}; each line must be one object")
    return found


def _conversation(record: Mapping[str, Any], name: str) -> Conversation:
    said = record.get("conversations")
    if not isinstance(said, list) or not said:
        raise DataError(f"{name}: `conversations` is {_brief(said)}; {_turns_expected(record)}")
    turns: list[tuple[Role, str]] = []
    for place, turn in enumerate(said, start=1):
        speaker = _speaker(turn, f"{name}: turn {place}")
        if speaker == "system" and place > 1:
            raise DataError(f"{name}: turn {place} is from 'system'; only the first turn may be")
        if speaker == "pretrain" and len(said) > 1:
            raise DataError(f"{name}: turn {place} is from 'pretrain'; such a text is a record of its own")
        turns.append((ROLES[speaker], _text(turn, "value", f"{name}: turn {place}")))
    return Conversation(name, tuple(turns), *_media(record, name))


def _turns_expected(record: Mapping[str, Any]) -> str:
    """What to do about a conversation that is no list of turns."""
    said = record.get("conversations")
    if isinstance(said, str):
        return "that is text, expected a list of turns; store the list itself, not its JSON"
    if said is None and isinstance(record.get("messages"), list):
        return f"`messages` are another layout: write each turn as {_TURN} into `conversations`"
    return "expected a list of at least one turn"


def _speaker(turn: Any, name: str) -> str:
    if not isinstance(turn, dict):
        raise DataError(f"{name} is {_brief(turn)}; expected {_TURN}")
    speaker = turn.get("from")
    if isinstance(speaker, str) and speaker in ROLES:
        return speaker
    if "from" not in turn:
        keys = " and ".join(f"`{_short(key)}`" for key in sorted(turn)[:4]) or "nothing"
        raise DataError(f"{name} has {keys}; expected {_TURN}" + (f"; {_ROLES}" if "role" in turn else ""))
    known = {theirs: ours for ours, theirs in ROLES.items()} | {"bot": "gpt", "model": "gpt"}
    meant = known.get(speaker.casefold()) if isinstance(speaker, str) else None
    hint = f"; write '{meant}'" if meant else ""
    raise DataError(f"{name} is from {_brief(speaker)}; expected one of {', '.join(ROLES)}{hint}")


def _preference(record: Mapping[str, Any], name: str) -> Preference:
    question, media = _text(record, "question", name), _media(record, name)
    chosen, rejected = (
        Conversation(f"{name} ({side})", (("user", question), ("assistant", _text(record, side, name))), *media)
        for side in ("chosen", "rejected")
    )
    return Preference(name, chosen, rejected)


def _pair(record: Mapping[str, Any], name: str) -> Pair:
    picture = record.get("image_id")
    if isinstance(picture, bool) or not isinstance(picture, (int, str, type(None))) or picture == "":
        raise DataError(f"{name}: `image_id` is {_brief(picture)}; expected a number or a name")
    return Pair(name, _medium(record.get("image"), "image", name), _text(record, "caption", name), picture)


def _labelled(record: Mapping[str, Any], name: str) -> Labelled:
    label = record.get("label")
    if isinstance(label, bool) or not isinstance(label, (int, str)) or label == "":
        raise DataError(f"{name}: `label` is {_brief(label)}; expected a class number or name")
    return Labelled(name, _medium(record.get("image"), "image", name), label)


_MEDIA = ("id", "image", "video", "clip", "length", "width", "height", "width_list", "height_list")
_Build = Callable[[Mapping[str, Any], str], Record]

KINDS: Mapping[str, tuple[Collection[str], _Build]] = {
    "conversation": ((*_MEDIA, "conversations"), _conversation),
    "preference": ((*_MEDIA, "question", "chosen", "rejected"), _preference),
    "pair": (("id", "image", "caption", "image_id"), _pair),
    "label": (("id", "image", "label"), _labelled),
}


# ---- fields ----------------------------------------------------------------------------------------------------------


_AllMedia = tuple[tuple[Media, ...], Media | None, tuple[float, float] | None, bool]


def _media(record: Mapping[str, Any], name: str) -> _AllMedia:
    """Images, video, clip, and whether the images stand in a list; an empty `image` or `video` is none."""
    image, video, clip = (record.get(key) or None for key in ("image", "video", "clip"))
    if image is not None and video is not None:
        raise DataError(f"{name} has both `image` and `video`; expected one of them")
    listed = image if isinstance(image, list) else [] if image is None else [image]
    images = tuple(_medium(picture, "image", name) for picture in listed)
    if clip is not None and (video is None or not _is_clip(clip)):
        raise DataError(f"{name}: `clip` is {_brief(clip)}; expected [start, end] in seconds of a `video`, start < end")
    file = None if video is None else _medium(video, "video", name)
    return images, file, None if clip is None else (clip[0], clip[1]), isinstance(image, list)


def _is_clip(clip: Any) -> bool:
    return (
        isinstance(clip, list) and len(clip) == 2 and all(type(t) in (int, float) for t in clip) and clip[0] < clip[1]
    )


def _medium(value: Any, key: str, name: str) -> Media:
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:  # as Parquet files of the hub hold pictures
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, (str, bytes)) or not value:
        raise DataError(f"{name}: `{key}` is {_brief(value)}; expected a path or address")
    return value


def _text(record: Mapping[str, Any], key: str, name: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise DataError(f"{name}: `{key}` is {_brief(value)}; expected text")
    return value


_SHORT = {"img": "image", "imgs": "image", "vid": "video", "conv": "conversations", "convs": "conversations"}


def _no_misspelt_key(record: Mapping[str, Any], known: Collection[str], name: str) -> None:
    absent = [key for key in known if key not in record]
    for key in record:
        if key in known:
            continue
        short = _SHORT.get(key.lower())
        near = [short] if short in absent else difflib.get_close_matches(key, absent, n=1, cutoff=0.85)
        if near:
            raise DataError(f"{name} has a key `{key}`, which nothing reads; did you mean `{near[0]}`?")


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:17]}..."


def _brief(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return "missing" if value is None else repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."


# ---- records -> messages ---------------------------------------------------------------------------------------------


def messages(
    record: Conversation,
    pictures: Sequence[Photo] = (),
    *,
    times: Sequence[float] | None = None,
    max_tiles: int | None = None,
    compat: Compat = None,
) -> list[Message]:
    """A conversation with its opened pictures: the images in order, or the frames of its video.

    `max_tiles` is shared by all images of the record, max(1, max_tiles // k) for each of k, thumbnails on top; None
    leaves it to the encoder, which shares its own between the images of one turn. `DataError` names the record.

    >>> messages(Conversation("a", (("user", "Hi"), ("assistant", "Hello"))))[1].role
    'assistant'
    """
    check_compat(compat)
    media = _opened(record, pictures, times, max_tiles)
    turns = _as_first_published(record) if compat == "original" else list(record.turns)
    kind, mark = ("video", VIDEO) if record.video is not None else ("image", IMAGE)
    # The first code base shows a video in the first turn, whoever speaks, and leaves placeholders of later turns alone.
    reach = 1 if compat == "original" and record.video is not None else len(turns)
    counts = [value.count(mark) if role in SHOWN_TO and at < reach else 0 for at, (role, value) in enumerate(turns)]
    strays = sum(value.count({VIDEO: IMAGE, IMAGE: VIDEO}[mark]) for role, value in turns if role in SHOWN_TO)
    if compat is None and strays:
        raise DataError(f"{record.id} has {strays} placeholder(s) of the other kind, but only {kind}s; remove them")
    if media and not any(counts) and compat is None:
        first = next((at for at, (role, _) in enumerate(turns) if role in SHOWN_TO), None)
        if first is None:
            raise DataError(f"{record.id} has {len(media)} {kind}(s) but no turn from a human that could hold them")
        counts[first] = len(media)
    if sum(counts) < len(media) or (sum(counts) > len(media) and compat is None):
        raise DataError(
            f"{record.id} has {sum(counts)} {mark} placeholder(s) but {len(media)} {kind}(s); write {mark} once per "
            f"{kind} in what the human says, or leave it out to put them first"
        )
    said: list[Message] = []
    for (role, value), count in zip(turns, counts, strict=True):
        here, media = media[:count], media[count:]
        said.append(Message(role, (*here, value if role in SHOWN_TO else Text(value))))
    return said


def _opened(
    record: Conversation, pictures: Sequence[Photo], times: Sequence[float] | None, max_tiles: int | None
) -> list[Part]:
    if record.video is not None:
        if not pictures:
            raise DataError(f"{record.id}: no frames of {_brief(record.video)}; expected at least one")
        return [Video(tuple(pictures), None if times is None else tuple(times))]
    if len(pictures) != len(record.images):
        raise DataError(f"{record.id} names {len(record.images)} image(s) but {len(pictures)} were opened")
    if max_tiles is not None:
        check_tiles(max_tiles)
    each = None if max_tiles is None else max(1, max_tiles // max(1, len(pictures)))
    return [Image(picture, each) for picture in pictures]


def _as_first_published(record: Conversation) -> list[tuple[Role, str]]:
    """The turns with the placeholder that the first code base adds to the first of them, whoever speaks."""
    (role, value), *rest = record.turns
    single = VIDEO if record.video is not None else IMAGE if record.images and not record.listed else None
    return [(role, f"{single}\n{value}" if single and single not in value else value), *rest]
