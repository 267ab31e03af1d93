"""One row of a dataset, looked at as training would take it: what is wrong with it, and its sizes.

    row --record--> record --media opened--> sizes --messages, Encoder--> tokens, learnt tokens, tiles

Pictures and videos are decoded, to know that they can be, but not cut into tiles: how many there would be is known from
their sizes. So a row costs about what its pictures cost to decode.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from internvl.data.encode import Encoder
from internvl.data.image import to_rgb
from internvl.data.limits import OPEN, Limits
from internvl.data.lint_rules import LONG_ANSWER, SMALL_SIDE, Fault, conversation_faults, region_faults
from internvl.data.media import ADDRESS, name_of, open_clip, open_image, read
from internvl.data.mixture import Source
from internvl.data.pair import TEXT_LENGTH, TEXT_PREFIX
from internvl.data.prepare import allowing, placed
from internvl.data.records import Conversation, Labelled, Media, Pair, Preference, Record, messages, record
from internvl.data.rows import Rows, open_rows
from internvl.data.tokenizer import Tokenizer
from internvl.data.video import frame_indices
from internvl.errors import InternVLError, MediaError, MediaRefused

REMEMBERED = 65_536
"""Pictures whose size and digest are kept, so that one that serves several rows is opened once."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How training would take a row."""

    encoder: Encoder | None = None
    """None: tokens and tiles are not counted."""
    tokenizer: Tokenizer | None = None
    """Of InternVL-C/G, for captions."""
    max_length: int = 8192
    """Tokens of one sample."""
    text_length: int = TEXT_LENGTH
    """Tokens of a caption."""
    max_tiles: int | None = None
    """Of one sample; None: the checkpoint's. A source's own goes before it."""
    frames: int = 32
    """Of a video."""
    limits: Limits = OPEN
    """As in training: a row may name files of this machine, and what lies below its root."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found in one row. Keys are 64-bit digests; -1: not known."""

    source: int
    row: int
    origin: str
    faults: tuple[Fault, ...] = ()
    key: int = 0
    """Of the row without its id."""
    question: int = 0
    """Of what is shown and asked before the first answer; 0: there is none."""
    answer: int = 0
    media: tuple[tuple[int, int], ...] = ()
    """Of each picture or video: its name and its bytes."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each picture."""
    tokens: int = -1
    learnt: int = -1
    tiles: int = -1
    system: bool | None = None
    """Whether a conversation begins with a system turn."""
    label: int | str | None = None


@dataclass
class _Facts:
    """What is gathered on the way."""

    faults: list[Fault] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)

    def fault(self, rule: str, error: Exception | str, origin: str = "") -> None:
        said = str(error)
        if origin and said.startswith(origin):  # the origin stands beside every fault
            said = said[len(origin) :].lstrip(" :,")
        self.faults.append(Fault(rule, said))


@dataclass(frozen=True)
class _Medium:
    """An opened picture (one size) or video (a size for each frame), or what is wrong with it."""

    name: int
    content: int
    sizes: tuple[tuple[int, int], ...] = ()
    fault: Fault | None = None


class Examiner:
    """Looks at rows of some sources; it may be sent to another process.

    >>> Examiner(sources, Look()).examine(0, 5).faults  # doctest: +SKIP
    (Fault(rule='media-missing', text='a.jpg: there is no such file'),)
    """

    def __init__(self, sources: Sequence[Source], look: Look) -> None:
        self._sources, self._look = tuple(sources), look
        self._rows: dict[int, Rows] = {}
        self._media: OrderedDict[str, _Medium] = OrderedDict()

    def rows(self, source: int) -> Rows:
        if source not in self._rows:
            self._rows[source] = open_rows(self._sources[source].annotation)
        return self._rows[source]

    def record(self, source: int, row: int) -> Record:
        """The row as its source's kind of record; `DataError` says what is wrong with it."""
        rows = self.rows(source)
        return record(rows[row], self._sources[source].kind, origin=rows.origin(row))

    def examine(self, source: int, row: int) -> Seen:
        origin, facts = self.rows(source).origin(row), _Facts()
        try:
            values = self.rows(source)[row]
            found = record(values, self._sources[source].kind, origin=origin)
        except InternVLError as error:
            facts.fault("schema", error, origin)
            return Seen(source=source, row=row, origin=origin, faults=tuple(facts.faults))
        facts.rest["key"] = _key(repr(sorted((key, values[key]) for key in values if key != "id")))
        if isinstance(found, Conversation | Preference):
            self._conversations(found, source, facts)
        else:
            self._picture(found, source, facts)
        return Seen(source=source, row=row, origin=origin, faults=tuple(_once(facts.faults)), **facts.rest)

    # ---- conversations and preferences -------------------------------------------------------------------------------

    def _conversations(self, found: Conversation | Preference, source: int, facts: _Facts) -> None:
        sides = [found] if isinstance(found, Conversation) else [found.chosen, found.rejected]
        names = sides[0].images if sides[0].video is None else (sides[0].video,)
        media = [self._medium(name, self._sources[source].root, sides[0]) for name in names]
        facts.faults += [medium.fault for medium in media if medium.fault is not None]
        if sides[0].video is None:
            self._sizes(media, facts)
        facts.rest["media"] = tuple((medium.name, medium.content) for medium in media)
        for side in sides:
            facts.faults += conversation_faults(side.turns, len(media))
        if isinstance(found, Preference):
            if found.chosen.turns[-1][1].strip() == found.rejected.turns[-1][1].strip():
                facts.fault("same-answers", "chosen and rejected are the same")
        else:
            first = found.turns[0][0]
            facts.rest |= _keys(found, media) | {"system": None if first == "pretrain" else first == "system"}
        whole = all(medium.fault is None for medium in media)
        measured = [self._measure(side, media, source, facts, whole) for side in sides]
        if all(counts is not None for counts in measured):
            counts = [one for one in measured if one is not None]
            facts.rest["tokens"] = sum(tokens for tokens, _, _ in counts)
            facts.rest["learnt"] = sum(learnt for _, learnt, _ in counts)
            facts.rest["tiles"] = counts[0][2]
            self._lengths(counts, facts)

    def _measure(
        self, side: Conversation, media: Sequence[_Medium], source: int, facts: _Facts, whole: bool
    ) -> tuple[int, int, int] | None:
        """Tokens, learnt tokens and tiles, where they can be known."""
        encoder = self._look.encoder
        # Without a colour the pixels are not even touched: only the sizes count from here on.
        frames = [Image.new("RGB", size, None) for medium in media for size in medium.sizes]
        if side.video is not None and not frames:
            return None
        if side.video is None and not whole:  # how many there are is known even where they cannot be opened
            frames = [Image.new("RGB", (8, 8)) for _ in media]
        try:
            said = messages(side, frames, max_tiles=self._budget(source))
        except InternVLError as error:
            facts.fault("placeholders", error, side.id)
            return None
        if encoder is None or not whole:
            return None
        try:
            encoded = encoder.encode(said, generate=False, cut=False)
        except InternVLError as error:
            facts.fault("conversation", error)
            return None
        return len(encoded.input_ids), sum(target >= 0 for target in encoded.targets[1:]), sum(encoded.tiles_per_image)

    def _budget(self, source: int) -> int | None:
        """Tiles of one sample; None leaves it to the encoder."""
        encoder, own = self._look.encoder, self._sources[source].max_tiles
        if encoder is None or not encoder.config.dynamic:
            return None
        return own or self._look.max_tiles or encoder.config.max_tiles

    def _lengths(self, counts: Sequence[tuple[int, int, int]], facts: _Facts) -> None:
        tokens, most = max(tokens for tokens, _, _ in counts), self._look.max_length
        if any(not learnt for _, learnt, _ in counts):
            facts.fault("nothing-learnt", "no turn of the assistant is there to learn")
        if tokens > most:
            facts.fault("overlong", f"{tokens} tokens, {counts[0][2]} tiles; at most {most} tokens are allowed")
        if (longest := max(learnt for _, learnt, _ in counts)) > LONG_ANSWER:
            facts.fault("answer-long", f"{longest} tokens are learnt")

    # ---- pairs and labels --------------------------------------------------------------------------------------------

    def _picture(self, found: Pair | Labelled, source: int, facts: _Facts) -> None:
        medium = self._medium(found.image, self._sources[source].root, None)
        facts.faults += [] if medium.fault is None else [medium.fault]
        facts.rest["media"] = ((medium.name, medium.content),)
        self._sizes([medium], facts)
        if isinstance(found, Labelled):
            facts.rest["label"] = found.label
            facts.rest |= {"question": _key(f"{medium.content or medium.name}"), "answer": _key(repr(found.label))}
            return
        if not found.caption.strip():
            facts.fault("empty-caption", "the caption is empty")
        facts.faults += region_faults(found.caption, "caption")
        tokenizer = self._look.tokenizer
        if tokenizer is not None:
            facts.rest["tokens"] = len(tokenizer.encode(TEXT_PREFIX + found.caption, bos=True)) + 1
            if facts.rest["tokens"] > self._look.text_length:
                facts.fault("caption-long", f"{facts.rest['tokens']} tokens, {self._look.text_length} are read")

    # ---- media -------------------------------------------------------------------------------------------------------

    def _sizes(self, media: Sequence[_Medium], facts: _Facts) -> None:
        facts.rest["sizes"] = tuple(size for medium in media for size in medium.sizes)
        for width, height in facts.rest["sizes"]:
            if min(width, height) < SMALL_SIDE:
                facts.fault("small-picture", f"{width} x {height} pixels")

    def _medium(self, name: Media, root: str, of: Conversation | None) -> _Medium:
        """The picture, or the video of a conversation; looked at once while it is remembered."""
        place, limits = placed(name, root), allowing(root, self._look.limits)
        video = of is not None and of.video is not None
        known = f"{place}\0{of.clip}" if of is not None and video and isinstance(place, str) else place
        if isinstance(known, str) and known in self._media:
            self._media.move_to_end(known)
            return self._media[known]
        medium = self._clip(place, limits, of) if video else _photo(place, limits)
        if isinstance(known, str):
            self._media[known] = medium
            if len(self._media) > REMEMBERED:
                self._media.popitem(last=False)
        return medium

    def _clip(self, place: Media, limits: Limits, of: Conversation | None) -> _Medium:
        """As many frames of a video as training takes at most."""
        name, bound = _key(place), None if of is None else of.clip

        def choose(frames: int, fps: float) -> list[int]:
            return sorted(set(frame_indices(frames, fps, self._look.frames, bound)))

        try:
            if isinstance(place, str) and not ADDRESS.match(place) and Path(place).is_dir():
                files = sorted(file for file in Path(place).iterdir() if file.is_file())
                chosen = choose(len(files), 1.0)
                return _Medium(name, name, tuple(to_rgb(open_image(files[at], limits)).size for at in chosen))
            frames = open_clip(place, choose, limits).frames
        except InternVLError as error:  # a clip after the end of its video is a mistake of the row
            return _Medium(name, 0, fault=_media_fault(place, error, "the video"))
        return _Medium(name, name, tuple(frame.size for frame in frames))


def _photo(place: Media, limits: Limits) -> _Medium:
    try:
        data = read(place, limits, what="the picture")
        return _Medium(_key(place), _key(data), (to_rgb(open_image(data, limits)).size,))
    except MediaError as error:
        return _Medium(_key(place), 0, fault=_media_fault(place, error, "the picture"))


def _media_fault(place: Media, error: InternVLError, what: str) -> Fault:
    here = isinstance(place, str) and not ADDRESS.match(place)
    rule = "media-refused" if isinstance(error, MediaRefused) else "media-unreadable"
    if here and rule == "media-unreadable" and not Path(str(place)).exists():
        rule = "media-missing"
    said, name = str(error), name_of(place, what)
    return Fault(rule, said if said.startswith(name) else f"{name}: {said.removeprefix(f'{what}: ')}")


def _once(faults: Sequence[Fault]) -> Iterator[Fault]:
    """Each rule once a row, with what was found first and how often."""
    first: dict[str, list[Fault]] = {}
    for fault in dict.fromkeys(faults):
        first.setdefault(fault.rule, []).append(fault)
    for rule, found in first.items():
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield Fault(rule, found[0].text + more)


def _keys(found: Conversation, media: Sequence[_Medium]) -> dict[str, int]:
    """The first question with its pictures, and its answer."""
    roles = [role for role, _ in found.turns]
    if "assistant" not in roles:
        return {}
    first = roles.index("assistant")
    asked = (*(medium.content or medium.name for medium in media), *found.turns[:first])
    return {"question": _key(repr(asked)), "answer": _key(" ".join(found.turns[first][1].split()))}


def _key(content: str | bytes) -> int:
    data = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest()) or 1
