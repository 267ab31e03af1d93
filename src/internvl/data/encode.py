"""The one path from a conversation to what a model is fed: training, evaluation, chat and server all come through here.

`EncoderConfig(compat="original")` follows the first code base where a sane rule differs from it:

    what                               default                           compat="original"
    text that spells special tokens    stays text                        becomes those tokens
    a placeholder without a picture    PlaceholderMismatch               stays text
    a message without text             a message like any other          its turn is left open
    more tokens than max_length        ContextOverflow                   cut when training, unless through a picture
    EXIF orientation, alpha            applied, blended on white         ignored, dropped
    what ends an answer                template's tokens, eos, and those  the template's token alone
                                       of generation_config.json
    labels of training                 every assistant message and       re-tokenised piece by piece, and the whole
                                       its end, whatever is around it    sample dropped where that does not add up
                                                                         (`internvl.data.original`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl.data import original
from internvl.data.detokenizer import Special
from internvl.data.image import (
    NORMALISATIONS,
    Compat,
    Normalisation,
    check_compat,
    check_tiles,
    choose_grid,
    pad_to_square,
    resize_plain,
    tile,
    to_rgb,
)
from internvl.data.prompts import (
    TEMPLATES,
    ImageSlot,
    Message,
    Picture,
    Piece,
    Rendered,
    Structure,
    Turn,
    bind,
)
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError, ContextOverflow, PlaceholderMismatch, PromptError, UsageError, find

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

NOT_LEARNT = -100
"""The target of a position that carries no loss."""

NO_TOKEN = -200
"""The id of a picture slot where the tokenizer has no token for it (the LLaVA form)."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What a checkpoint says about its prompts and pictures."""

    template: str
    tile_size: int = 448
    slots_per_tile: int = 256
    system_message: str | None = None
    """None: the template's own."""
    min_tiles: int = 1
    max_tiles: int = 12
    """Of one message, without thumbnails: each of its k pictures has at most max(1, max_tiles // k)."""
    dynamic: bool = True
    """False: every picture is one tile."""
    thumbnail: bool = True
    pad_to_square: bool = False
    normalisation: Normalisation = "imagenet"
    compat: Compat = None

    def __post_init__(self) -> None:
        find("template", self.template, TEMPLATES)
        find("normalisation", self.normalisation, NORMALISATIONS)
        check_compat(self.compat)
        check_tiles(self.max_tiles, min_tiles=self.min_tiles)
        if self.tile_size < 1 or self.slots_per_tile < 1:
            raise ConfigError(f"tile_size {self.tile_size} and slots_per_tile {self.slots_per_tile} must be positive")


@dataclass(frozen=True)
class Encoded:
    """A conversation as a model takes it.

    `targets` are the ids to be learnt at their own positions (not shifted), NOT_LEARNT elsewhere. `tiles` is uint8
    (n, S, S, 3) RGB in the order of the slots; `tiles_per_image` and `sizes` (width, height) have one entry a picture
    or frame. `sizes` are those of the pictures as they were seen, upright.
    """

    input_ids: list[int]
    targets: list[int]
    tiles: np.ndarray
    tiles_per_image: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Sight:
    """A picture that has been given its tiles, but has not been cut yet."""

    photo: Photo
    budget: int | None
    """None: one tile, without the tiling transform."""
    tiles: int


class Encoder:
    """Turns conversations into token ids and tiles, the way one checkpoint wants them.

    >>> encoder = Encoder(tokenizer, EncoderConfig(template="internvl2_5"))              # doctest: +SKIP
    >>> encoder.encode([Message("user", (Image(photo), Text("What is this?")))])         # doctest: +SKIP
    """

    def __init__(self, tokenizer: Tokenizer, config: EncoderConfig, *, stop_ids: Sequence[int] = ()) -> None:
        """`stop_ids`: ids that end an answer besides the template's and the tokenizer's own."""
        self.tokenizer, self.config, self._more_stops = tokenizer, config, tuple(stop_ids)
        self.template = find("template", config.template, TEMPLATES)
        self._structure = {text: tokenizer.special(text) for text in self.template.tokens}
        self._cuts = re.compile(f"({'|'.join(map(re.escape, self.template.tokens))})")
        opening, slot, closing = self.template.image
        self._opening = tokenizer.special(opening) if opening else None
        self._closing = tokenizer.special(closing) if closing else None
        self._slot = tokenizer.special(slot) if slot else None
        self.slot_id: int = self._slot.id if self._slot else NO_TOKEN
        """The id of the positions that picture features fill."""

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: the template's, the tokenizer's own end, and what the checkpoint adds."""
        ids = [self._structure[text].id for text in self.template.stops]
        if self.config.compat == "original":
            return (ids[0],)
        own = () if self.tokenizer.eos_id is None else (self.tokenizer.eos_id,)
        return tuple(dict.fromkeys([*ids, *own, *self._more_stops]))

    @cached_property
    def lead_ids(self) -> tuple[int, ...]:
        """What a model writes before its answer and is no part of it: GPT-OSS's channel. Mostly none."""
        lead = list(self._parts(self.template.assistant.lead))
        return tuple(self.tokenizer.encode_pieces(lead, bos=False)) if any(isinstance(p, Special) for p in lead) else ()

    def changed(self, **changes: Any) -> Encoder:
        """The same encoder with other values in its config.

        >>> encoder.changed(max_tiles=6)  # doctest: +SKIP
        """
        return Encoder(self.tokenizer, replace(self.config, **changes), stop_ids=self._more_stops)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        generate: bool = True,
        max_tiles: int | None = None,
        max_length: int | None = None,
        cut: bool = True,
    ) -> Encoded:
        """Ids, targets and tiles of a conversation; with `generate` it ends where the assistant is to begin.

        `max_tiles` replaces the config's for this call; 1 means exactly one tile a picture and no thumbnail. Without
        `generate` every assistant message and its end are learnt, or all of a text to pretrain on but its pictures.
        Without `cut` there are no tiles, and all else is the same. Raises `PlaceholderMismatch` (slots and pictures
        differ), `ContextOverflow` (more than `max_length` tokens) and `PromptError`, all before any picture is cut.
        """
        config = self.config
        if not messages:
            raise PromptError("the conversation is empty; expected at least one message")
        if generate and messages[-1].role == "assistant":
            raise PromptError("the last message is the assistant's; add a user message, or encode with generate=False")
        turns, pictures = bind(messages, compat=config.compat)
        sights = self._sights(pictures, max_tiles)
        slots = [sight.tiles * config.slots_per_tile for sight in sights]
        ids, learnt = self._ids(turns, slots, generate, max_length)
        self._check(ids, slots, max_length)
        return Encoded(
            input_ids=ids,
            targets=[i if learn and not generate else NOT_LEARNT for i, learn in zip(ids, learnt, strict=True)],
            tiles=self._cut(sights if cut else ()),
            tiles_per_image=tuple(sight.tiles for sight in sights),
            sizes=tuple(sight.photo.size for sight in sights),
        )

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def _sights(self, pictures: Sequence[Picture], max_tiles: int | None) -> list[_Sight]:
        config = self.config
        for asked in (max_tiles, *(picture.max_tiles for picture in pictures)):
            if asked is None:
                continue
            check_tiles(asked)
            if asked > 1 and not config.dynamic:
                raise UsageError(f"max_tiles is {asked}, but this checkpoint sees every picture as one tile")
        whole = config.max_tiles if max_tiles is None else max_tiles
        stills = [picture.turn for picture in pictures if not picture.is_frame]
        sights: list[_Sight] = []
        for picture in pictures:
            photo = to_rgb(picture.photo, compat=config.compat)
            if picture.is_frame or not config.dynamic:
                sights.append(_Sight(photo, None, 1))
                continue
            budget = picture.max_tiles or max(1, whole // stills.count(picture.turn))
            columns, rows = choose_grid(*photo.size, **self._grid(budget))
            count = columns * rows
            sights.append(_Sight(photo, budget, count + (config.thumbnail and count > 1)))
        return sights

    def _grid(self, budget: int) -> dict[str, int]:
        least = min(self.config.min_tiles, budget)
        return {"tile_size": self.config.tile_size, "min_tiles": least, "max_tiles": budget}

    def _cut(self, sights: Sequence[_Sight]) -> np.ndarray:
        config, size = self.config, self.config.tile_size
        tiles = [np.empty((0, size, size, 3), np.uint8)]
        for sight in sights:
            if sight.budget is not None:
                tiles.append(tile(sight.photo, **self._grid(sight.budget), thumbnail=config.thumbnail))
            elif config.pad_to_square:
                tiles.append(pad_to_square(sight.photo, size=size, normalisation=config.normalisation)[None])
            else:
                tiles.append(resize_plain(sight.photo, size=size)[None])
        return np.concatenate(tiles)

    # ---- tokens ------------------------------------------------------------------------------------------------------

    def _ids(
        self, turns: Sequence[Turn], slots: Sequence[int], generate: bool, max_length: int | None
    ) -> tuple[list[int], list[bool]]:
        template, config = self.template, self.config
        if config.compat is None or template.masks is None or turns[0].role == "pretrain":
            rendered = template.render(turns, system_message=config.system_message, generate=generate)
            return self._written(rendered, slots)
        script = original.Script(self.tokenizer, template, config.system_message, slots)
        if generate:
            ids = script.prompt(turns)
            return ids, [False] * len(ids)
        return script.training(turns, max_length)

    def _written(self, rendered: Sequence[Rendered], slots: Sequence[int]) -> tuple[list[int], list[bool]]:
        tape = _Tape(self.tokenizer)
        for message in rendered:
            self._write(tape, [Structure(message.head)], False, slots)
            self._write(tape, message.body, message.learnt, slots)
            self._write(tape, [Structure(message.tail)], False, slots)
        return tape.finish()

    def _write(self, tape: _Tape, pieces: Sequence[Piece], learnt: bool, slots: Sequence[int]) -> None:
        for piece in pieces:
            if isinstance(piece, ImageSlot):
                tape.picture(self._opening, self._slot, slots[piece.index], self._closing)
            elif isinstance(piece, Structure):
                for part in self._parts(piece.text):
                    tape.add(part, learnt)
            else:
                tape.add(piece, learnt)

    def _parts(self, structure: str) -> Iterator[str | Special]:
        """The text of a template, its special tokens cut out."""
        for part in self._cuts.split(structure):
            if part:
                yield self._structure.get(part, part)

    def _check(self, ids: Sequence[int], slots: Sequence[int], max_length: int | None) -> None:
        found, expected = ids.count(self.slot_id), sum(slots)
        closings = ids.count(self._closing.id) if self._closing else len(slots)
        too_long = max_length is not None and len(ids) > max_length
        if too_long or found < expected or closings < len(slots):
            length = f"{len(ids)} tokens" if too_long else f"more than {max_length} tokens"
            seen, lower = "", ""
            if slots:
                seen, lower = f", {expected} of them for {len(slots)} picture(s)", "lower max_tiles, or "
            error = ContextOverflow(
                f"the conversation has {length}{seen}, but at most {max_length} are allowed; {lower}shorten the "
                "conversation"
            )
            error.tokens = len(ids) if too_long else None
            raise error
        if found > expected:
            raise PlaceholderMismatch(
                f"the prompt has {found} picture slots but the pictures fill {expected}: a text spells the slot's "
                'token, which is a token only with compat="original"'
            )


class _Tape:
    """Token ids as they are written, and which of them are learnt.

    Text is tokenised together up to the next special token, whoever wrote it: the ids are those of the joined string.
    Where learnt text follows other text inside such a run, it begins after as many tokens as the other text has alone.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        self._learnt = [False] * len(self._ids)
        self._after: tuple[Special, ...] = ()
        self._run: list[tuple[str, bool]] = []

    def add(self, part: str | Special, learnt: bool) -> None:
        if isinstance(part, str):
            self._run.append((part, learnt))
            return
        self._flush(part)
        self._put([part.id], learnt)
        self._after = (part,)

    def picture(self, opening: Special | None, slot: Special | None, count: int, closing: Special | None) -> None:
        """A picture's slots. Where these are no tokens, the text on either side is tokenised as if it stood alone."""
        if opening:
            self.add(opening, False)
        self._flush(slot)
        self._put([slot.id if slot else NO_TOKEN] * count, False)
        self._after = (slot,) if slot else ()
        if closing:
            self.add(closing, False)

    def finish(self) -> tuple[list[int], list[bool]]:
        self._flush(None)
        return self._ids, self._learnt

    def _put(self, ids: Sequence[int], learnt: bool) -> None:
        self._ids += ids
        self._learnt += [learnt] * len(ids)

    def _flush(self, before: Special | None) -> None:
        """Tokenise the run of text between two special tokens."""
        closing = (before,) if before else ()
        skip = len(self._encode([*self._after]))
        texts = [text for text, _ in self._run]
        ids = self._encode([*self._after, *texts, *closing])
        ids = ids[skip : len(ids) - len(closing)]
        start = 0
        for place, (_, learnt) in enumerate(self._run):
            last = place == len(self._run) - 1
            if not last and self._run[place + 1][1] == learnt:
                continue
            stop = len(ids) if last else min(len(self._encode([*self._after, *texts[: place + 1]])) - skip, len(ids))
            self._put(ids[start:stop], learnt)
            start = max(start, stop)
        self._put(ids[start:], False)
        self._run = []

    def _encode(self, parts: list[str | Special]) -> list[int]:
        return self._tokenizer.encode_pieces(parts, bos=False)
