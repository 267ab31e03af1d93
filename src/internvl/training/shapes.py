"""What a run would train, without its weights: shapes from the table of models or from a folder's config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path

import torch
from torch import nn

from internvl import zoo
from internvl.errors import NoSuchName, UsageError
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, PairConfig, TextConfig, VisionConfig
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.training.config import Learn, Start
from internvl.training.learn import choose, part_of
from internvl.weights.adapters import targets
from internvl.weights.checkpoint import ModelConfig, describe
from internvl.weights.formats import TABLE, Seen, blamed_on, layout_of, parse_json
from internvl.weights.hub import WEIGHTS, resolve

HELD = 16 << 20
"""Larger files of a folder are no configs."""


@dataclass(frozen=True)
class Shapes:
    """A model's config, and how its pictures are cut."""

    config: ModelConfig
    tiles: int = 1
    thumbnail: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a model in numbers."""

    name: str
    parameters: int
    learning: int
    """Of these, and of `adapters`, so many learn."""
    adapters: int = 0
    under_adapters: int = 0
    """Parameters of the linear layers that carry adapters."""
    embeddings: int = 0
    """Parameters of tables that are looked up, which cost no products."""


def shapes_of(start: Start) -> Shapes:
    """The model that a run would begin with; no tensor is read, nothing is downloaded.

    >>> shapes_of(Start(model="internvl2.5-8b")).config.text.layers
    32
    """
    if start.vision or start.language:
        return _of_parts(start)
    shapes = _named(start.model)
    if isinstance(shapes.config, ChatConfig | PairConfig) and start.tile_size:
        return replace(shapes, config=replace(shapes.config, image_size=start.tile_size))
    return shapes


def _of_parts(start: Start) -> Shapes:
    given = None if start.model is None else _named(start.model).config
    base = given if isinstance(given, ChatConfig) else None
    tower = _tower(start.vision) if start.vision else base and base.vision
    text, token = _language(start.language) if start.language else (base and base.text, base and base.image_token)
    if tower is None or text is None or token is None:
        raise UsageError("a new model needs start.vision and start.language, or start.model for what is not exchanged")
    config = ChatConfig(
        vision=tower,
        text=text,
        image_token=token,
        image_size=start.tile_size,
        select_layer=-1 if start.select_layer is None else start.select_layer,
        pixel_shuffle=start.pixel_shuffle or "v2",
    )
    return Shapes(config, tiles=12, thumbnail=True)


def _tower(name: str) -> VisionConfig:
    short = name.rpartition("/")[2]
    if short in zoo.TOWERS:
        return zoo.TOWERS[short]
    config = _named(name).config
    return config if isinstance(config, VisionConfig) else config.vision


def _language(name: str) -> tuple[TextConfig, int]:
    short = name.rpartition("/")[2]
    if short in zoo.DECODERS:
        return zoo.DECODERS[short].text, zoo.DECODERS[short].image_token
    config = _named(name).config
    if not isinstance(config, ChatConfig):
        raise UsageError(f"{name} has no language model that talks; give that of a chat model, or a plain one")
    return config.text, config.image_token


def _named(name: str | None) -> Shapes:
    if name is None or Path(name).expanduser().exists():
        return _folder(resolve(name))
    try:
        row = zoo.find(name)
    except NoSuchName as error:
        raise NoSuchName(f"{error} A model that is not in that table is planned from its folder") from None
    return Shapes(row.config, row.tiles, row.thumbnail)


def _folder(path: Path) -> Shapes:
    """From the config in a folder; weights, where there are any, are only looked at from outside."""
    has_weights = path.is_file() or any(file.suffix in WEIGHTS for file in path.iterdir())
    if has_weights:
        seen, _, config, _ = describe(path)
    elif not (path / "config.json").is_file():
        raise UsageError(f"{path} has no config.json; expected the folder of a model")
    else:
        files = {
            file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.stat().st_size < HELD
        }
        seen = Seen(
            where=str(path), config=parse_json(files["config.json"], f"{path}/config.json"), tensors={}, files=files
        )
        with blamed_on(seen.where):
            config = TABLE[layout_of(seen.config, seen.tensors, seen.where).name].read(seen)
    if not isinstance(config, ChatConfig):
        return Shapes(config)
    tiles, thumbnail = seen.config.get("max_dynamic_patch", 12), seen.config.get("use_thumbnail", True)
    return Shapes(config, tiles if isinstance(tiles, int) else 12, bool(thumbnail))


# --- counting ---------------------------------------------------------------------------------------------------------


def built(config: ModelConfig) -> nn.Module:
    """The model on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        if isinstance(config, ChatConfig):
            return ChatModel(config)
        return PairModel(config) if isinstance(config, PairConfig) else VisionTransformer(config)


@cache
def parts_of(config: ModelConfig, learn: Learn) -> tuple[Part, ...]:
    """Every part that has parameters, counted.

    Adapters are counted as if each layer had its own A; where a layout stores several layers as one (InternLM2, Phi-3),
    these share one, and a little less learns than is said here.
    """
    model = built(config)
    ranks = {"vision": learn.vision_lora, "language": learn.language_lora}
    whole = replace(learn, vision_lora=0, language_lora=0, quantize=None, dora=False)
    whole = replace(whole, **{part: False for part, rank in ranks.items() if rank})
    if whole.vision or whole.projector or whole.language:
        choose(model, whole)
    else:
        model.requires_grad_(False)
    counts: dict[str, Part] = {}
    for name, parameter in model.named_parameters():
        part = counts.get(part_of(name)) or Part(part_of(name), 0, 0)
        counts[part.name] = replace(
            part,
            parameters=part.parameters + parameter.numel(),
            learning=part.learning + parameter.numel() * parameter.requires_grad,
            embeddings=part.embeddings + parameter.numel() * ("embed" in name),
        )
    for prefix, part in (("vision_model.", "vision"), ("language_model.", "language"), ("qllama.", "language")):
        if part in counts and ranks[part]:
            counts[part] = _adapted(model, prefix, counts[part], ranks[part], learn)
    return tuple(counts[name] for name in ("vision", "projector", "language") if name in counts)


def _adapted(model: nn.Module, prefix: str, part: Part, rank: int, learn: Learn) -> Part:
    """A part with adapters of a rank on the layers that the family puts them on."""
    shapes = [tuple(model.get_parameter(f"{name}.weight").shape) for name in targets(model, prefix)]
    added = sum(rank * (wide + out) + out * learn.dora for out, wide in shapes)
    learns = not learn.only or any(prefix.startswith(name) or name.startswith(prefix) for name in learn.only)
    return replace(
        part,
        adapters=part.adapters + added,
        learning=part.learning + added * learns,
        under_adapters=part.under_adapters + sum(map(prod, shapes)),
    )
