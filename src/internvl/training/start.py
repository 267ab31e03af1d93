"""Where training begins: a checkpoint, a new model of parts, or a checkpoint with parts exchanged.

Whatever is changed here is also said in the config and the files that the model carries, so that what training saves
loads like any published checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from internvl.data.encode import Encoder, EncoderConfig
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError
from internvl.models.chat import ChatModel
from internvl.models.classifier import Classifier
from internvl.models.config import ChatConfig
from internvl.models.init import initialise
from internvl.models.layers import DropPath
from internvl.models.projector import projector
from internvl.models.vit import VisionTransformer, resize_positions
from internvl.training.config import Start
from internvl.training.held import widen
from internvl.weights import restated
from internvl.weights.checkpoint import Model
from internvl.weights.load import load, load_encoder, load_tokenizer
from internvl.weights.new_tokens import FAMILY, add_tokens, missing, tokenizer_of
from internvl.weights.parts import Language, read_language, read_projector, read_tower
from internvl.weights.sidecars import read_stops

NOISE = 0.1
"""The input rows of new tokens: the mean of all rows, and noise of this share of their spread."""
CHAT_ONLY = ("vision", "language", "projector", "template", "select_layer", "pixel_shuffle", "new_tokens")


@dataclass(frozen=True)
class Beginning:
    """A model to train, and what its data is prepared with."""

    model: Model | Classifier
    encoder: Encoder | None = None
    """Of a chat model."""
    tokenizer: Tokenizer | None = None
    """Of a chat model or a pair."""
    notes: tuple[str, ...] = ()
    """What was made anew, resized or left out; to be told."""


def begin(start: Start, *, device: torch.device | str | None = None, seed: int = 0, narrow: bool = False) -> Beginning:
    """The model that `start` names, in fp32, on one device (None: the CPU); what is new in it is drawn from `seed`.

    `narrow`: weights of products that are stored in 16 bit stay as they are stored (`training.held`).

    Raises `ConfigError` for a setting that this model cannot have.

    >>> begin(Start(model="OpenGVLab/InternVL2_5-1B", tile_size=224, drop_path=0.1)).model  # doctest: +SKIP
    """
    draw = torch.Generator().manual_seed(seed)
    if start.model is None and (start.vision or start.language):
        beginning = _of_parts(start, draw, narrow)
    else:
        model = load(start.model, dtype="stored" if narrow else "float32", device="cpu")
        widen(model)
        beginning = _of_chat(model, start, draw, narrow) if isinstance(model, ChatModel) else other(model, start)
    beginning.model.to(torch.device(device or "cpu"))
    return beginning


def with_pictures(
    beginning: Beginning,
    *,
    min_tiles: int | None = None,
    max_tiles: int | None = None,
    dynamic: bool | None = None,
    thumbnail: bool | None = None,
) -> Beginning:
    """A chat model that says it cuts pictures so; None leaves what it said."""
    given = {"min_tiles": min_tiles, "max_tiles": max_tiles, "dynamic": dynamic, "thumbnail": thumbnail}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    model, encoder = beginning.model, beginning.encoder
    if encoder is None or not isinstance(model, ChatModel):
        if changes:
            raise ConfigError(f"data.{next(iter(changes))} is for chat models, and this is none")
        return beginning
    encoding = replace(encoder.config, **changes)
    if encoding == encoder.config:
        return beginning
    model.origin = restated.chat(model.origin, model.config, encoding)
    new = Encoder(encoder.tokenizer, encoding, stop_ids=read_stops(model.origin.files))
    return replace(beginning, encoder=new)


# --- chat models ------------------------------------------------------------------------------------------------------


@dataclass
class _Draft:
    """A chat model while it is put together."""

    model: ChatModel
    encoding: EncoderConfig
    tokenizer: Tokenizer
    notes: list[str] = field(default_factory=list)

    def reconfigure(self, **changes: Any) -> None:
        """Change the config of the whole, and those that its parts carry."""
        config = replace(self.model.config, **changes)
        self.model.config = config
        self.model.vision_model.config, self.model.language_model.config = config.vision, config.text


def _of_chat(model: ChatModel, start: Start, draw: torch.Generator, narrow: bool) -> Beginning:
    encoder = load_encoder(start.model)
    draft = _Draft(model, encoder.config, encoder.tokenizer)
    if start.vision:
        _exchange_tower(draft, read_tower(start.vision, stored=narrow))
    if start.language:
        _exchange_language(draft, read_language(start.language, stored=narrow), start)
    widen(model)
    _fit_projector(draft, start, draw)
    return _finished(draft, start, draw)


def _of_parts(start: Start, draw: torch.Generator, narrow: bool) -> Beginning:
    """A new model; the language model's checkpoint says what is not asked for."""
    if not (start.vision and start.language):
        raise ConfigError(
            f"start.vision is {start.vision!r} and start.language {start.language!r}; a new model needs both, "
            "or start.model, whose parts they replace"
        )
    tower, language = read_tower(start.vision, stored=narrow), read_language(start.language, stored=narrow)
    widen(tower)
    widen(language.decoder)
    before = language.encoding or EncoderConfig(template=_template(start))
    config = ChatConfig(vision=tower.config, text=language.decoder.config, image_token=0)
    with torch.device("meta"):
        model = ChatModel(config)
    model.vision_model, model.language_model = tower, language.decoder
    model.origin = restated.new(config, language, before)
    draft = _Draft(model, before, tokenizer_of(language.files))
    _family_tokens(draft, draw)
    _fit_projector(draft, start, draw)
    return _finished(draft, start, draw)


def _template(start: Start) -> str:
    if start.template is None:
        raise ConfigError(
            f"start.language is {start.language}, a plain language model, which has no conversation template of the "
            "family; give start.template, e.g. internvl2_5"
        )
    return start.template


def _exchange_tower(draft: _Draft, tower: VisionTransformer) -> None:
    draft.model.vision_model = tower
    size = draft.model.config.tile_size
    draft.reconfigure(vision=tower.config, image_size=None if size == tower.config.image_size else size)


def _exchange_language(draft: _Draft, language: Language, start: Start) -> None:
    draft.model.language_model = language.decoder
    template = (language.encoding or draft.encoding).template
    draft.encoding = replace(draft.encoding, template=template)
    if language.encoding is None and start.template is None:
        draft.notes.append(f"the language model is new; its prompts keep the template {template}")
    draft.reconfigure(text=language.decoder.config, image_token=0)
    draft.model.origin = restated.with_language(draft.model.origin, draft.model.config, language, draft.encoding)
    draft.tokenizer = tokenizer_of(language.files)
    _family_tokens(draft, torch.Generator().manual_seed(0))


def _fit_projector(draft: _Draft, start: Start, draw: torch.Generator) -> None:
    """The projector that was named; where none was, the one that is there, if it fits between the parts."""
    model = draft.model
    with torch.device("meta"):
        wanted = {f"mlp1.{name}": tensor.shape for name, tensor in projector(model.config).state_dict().items()}
    if start.projector:
        given = read_projector(start.projector)
        if wrong := [name for name, shape in wanted.items() if name not in given or given[name].shape != shape]:
            found = list(given[wrong[0]].shape) if wrong[0] in given else "not there"
            raise ConfigError(
                f"{start.projector}: {wrong[0]} is {found}, expected {list(wanted[wrong[0]])} between this tower and "
                "this language model; leave start.projector out for a new one"
            )
        _replace_projector(model, {name: given[name] for name in wanted})
        return
    here = {f"mlp1.{name}": tensor for name, tensor in model.mlp1.state_dict().items()}
    if not any(t.is_meta for t in here.values()) and {name: t.shape for name, t in here.items()} == wanted:
        return
    fresh = projector(model.config)
    holder = nn.ModuleDict({"mlp1": fresh})
    initialise(holder, seed=int(torch.randint(1 << 31, (), generator=draw)))
    _replace_projector(model, holder.state_dict())
    draft.notes.append("the projector is new: its weights are random until it is trained")


def _replace_projector(model: ChatModel, tensors: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model.mlp1 = projector(model.config)
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor))


def _finished(draft: _Draft, start: Start, draw: torch.Generator) -> Beginning:
    """What applies to every chat model, whatever it was made of; then what it carries says all of it."""
    model, before = draft.model, draft.model.config
    if start.tile_size is not None:
        _resize(model.vision_model, start.tile_size, draft.notes)
        draft.reconfigure(vision=model.vision_model.config, image_size=None)
    changes = {"select_layer": start.select_layer, "pixel_shuffle": start.pixel_shuffle}
    draft.reconfigure(**{name: value for name, value in changes.items() if value is not None})
    if start.drop_path or before.vision.drop_path:
        draft.reconfigure(vision=replace(model.config.vision, drop_path=start.drop_path))
        _set_drop_path(model.vision_model, start.drop_path)
    if start.new_tokens:
        _add(draft, start.new_tokens, draw, special=False)
    config = model.config
    encoding = replace(draft.encoding, tile_size=config.tile_size, slots_per_tile=config.slots_per_tile)
    encoding = replace(encoding, template=start.template or encoding.template)
    model.origin = restated.chat(model.origin, config, encoding)
    encoder = Encoder(draft.tokenizer, encoding, stop_ids=read_stops(model.origin.files))
    return Beginning(model, encoder, draft.tokenizer, tuple(draft.notes))


# --- tokens -----------------------------------------------------------------------------------------------------------


def _family_tokens(draft: _Draft, draw: torch.Generator) -> None:
    """The nine tokens of the family, where a language model does not have them."""
    _add(draft, FAMILY, draw, special=True)
    draft.reconfigure(image_token=draft.tokenizer.special("<IMG_CONTEXT>").id)


def _add(draft: _Draft, tokens: tuple[str, ...], draw: torch.Generator, *, special: bool) -> None:
    """Tokens that the tokenizer does not have: files, ids, and rows of the embeddings.

    The rows of a new pair become as many as there are tokens, as in the first code base; those of a checkpoint that
    had more are kept.
    """
    new = missing(draft.tokenizer, tokens)
    if not new:
        return
    first, model = draft.tokenizer.vocab_size, draft.model
    vocab = first + len(new)
    if not special:
        vocab = max(vocab, model.config.text.vocab)
    files = add_tokens(model.origin.files, new, first=first, special=special)
    model.origin = replace(model.origin, files=files)
    draft.tokenizer = tokenizer_of(files)
    _resize_vocabulary(model, first, len(new), vocab, draw)
    draft.reconfigure(text=replace(model.config.text, vocab=vocab))
    draft.notes.append(f"{len(new)} new tokens, {first} to {first + len(new) - 1}: {', '.join(new[:9])}")


@torch.no_grad()
def _resize_vocabulary(model: ChatModel, first: int, count: int, vocab: int, draw: torch.Generator) -> None:
    """Rows for the new tokens. Those of the output are the mean of all before them (spec of the first code base); those
    of the input too, with a little noise, so that no two tokens are the same.
    """
    table, head = model.language_model.model.embed_tokens, model.language_model.lm_head
    table.weight = nn.Parameter(_with_rows(table.weight, first, count, vocab, draw))
    table.num_embeddings = vocab
    if head is not None:
        head.weight = nn.Parameter(_with_rows(head.weight, first, count, vocab, None))
        head.out_features = vocab


def _with_rows(old: Tensor, first: int, count: int, vocab: int, draw: torch.Generator | None) -> Tensor:
    kept = min(len(old), vocab)
    old = old.detach().float()  # a mean of rows is no 16 bit number
    new = old.new_empty(vocab, old.shape[1])
    new[:kept] = old[:kept]
    known = old[: min(first, len(old))]
    begin, end = min(first, len(old)), max(first + count, vocab if vocab > len(old) else 0)
    new[begin:end] = known.mean(0)
    if draw is not None:
        noise = torch.empty(end - begin, old.shape[1]).normal_(generator=draw)
        new[begin:end] += NOISE * known.std(0) * noise.to(old)
    return new


# --- towers -----------------------------------------------------------------------------------------------------------


def other(model: Any, start: Start) -> Beginning:
    """A pair, or a tower alone, with what `start` asks of its tower."""
    alone = isinstance(model, VisionTransformer)
    for name in CHAT_ONLY:
        if getattr(start, name):
            raise ConfigError(f"start.{name} is for chat models; this is a {'tower alone' if alone else 'pair'}")
    tower: VisionTransformer = model if alone else model.vision_model
    notes: list[str] = []
    if start.tile_size is not None:
        _resize(tower, start.tile_size, notes)
    if start.drop_path or tower.config.drop_path:
        tower.config = replace(tower.config, drop_path=start.drop_path)
        _set_drop_path(tower, start.drop_path)
    if not alone:
        size = None if start.tile_size is not None else model.config.image_size
        model.config = replace(model.config, vision=tower.config, image_size=size)
    if model.origin is not None:
        model.origin = restated.other(model.origin, model.config)
    return Beginning(model, None, None if alone else load_tokenizer(start.model), tuple(notes))


def _resize(tower: VisionTransformer, size: int, notes: list[str]) -> None:
    """Positions for tiles of another size, once and for good."""
    config = tower.config
    if size == config.image_size:
        return
    if size % config.patch_size:
        raise ConfigError(f"start.tile_size is {size}, expected a multiple of the patch size {config.patch_size}")
    grid, places = size // config.patch_size, tower.embeddings
    places.position_embedding = nn.Parameter(resize_positions(places.position_embedding.detach(), grid, grid))
    places.grid = grid
    tower.config = replace(config, image_size=size)
    notes.append(f"positions resized from {config.grid} to {grid} patches a side")


def _set_drop_path(tower: VisionTransformer, rate: float) -> None:
    """Stochastic depth grows from 0 at the first block to the rate at the last."""
    paths = [module for module in tower.modules() if isinstance(module, DropPath)]
    for i, path in enumerate(paths):
        path.rate = rate * i / max(len(paths) - 1, 1)
