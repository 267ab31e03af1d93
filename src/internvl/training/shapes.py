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
from internvl.models.classifier import Classifier
from internvl.models.config import ChatConfig, PairConfig, TextConfig, VisionConfig
from internvl.models.heads import Pooling, Probe
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.training.classes import classes_of
from internvl.training.config import Learn, Start, TrainConfig
from internvl.training.held import NARROW, products
from internvl.training.learn import choose, part_of
from internvl.training.lora import fused
from internvl.weights.adapters import targets
from internvl.weights.checkpoint import ModelConfig, describe
from internvl.weights.families import family_of
from internvl.weights.files import majority
from internvl.weights.formats import TABLE, Seen, blamed_on, layout_of, parse_json
from internvl.weights.hub import EMBEDDED, EMBEDDED_C, WEIGHTS, resolve

HELD = 16 << 20
"""Larger files of a folder are no configs."""
ASSUMED_CLASSES = 1000
"""Of a classifier, where only the rows say how many there are: those of ImageNet-1k."""


@dataclass(frozen=True)
class Head:
    """What a classifier puts on its tower."""

    classes: int
    pooling: Pooling = "linear"
    assumed: bool = False
    """The classes are those of the rows, which were not read: `ASSUMED_CLASSES` stand for them."""


@dataclass(frozen=True)
class Shapes:
    """A model's config, and how its pictures are cut."""

    config: ModelConfig
    tiles: int = 1
    thumbnail: bool = False
    narrow: bool = False
    """Whether most weights are stored in 16 bit, as all published ones are."""
    head: Head | None = None
    """Of a classifier; `config` is that of its tower."""
    family: str = ""
    """Model type of the language model, where its numbers do not tell it: InternLM2 is a Llama that is stored fused."""


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
    products: int = 0
    """Of `parameters`: those that may be held in 16 bit (`training.held`), if they do not learn."""
    frozen: int = 0
    """Of `products`: those that do not learn."""


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


def as_trained(shapes: Shapes, config: TrainConfig) -> Shapes:
    """What of these shapes the run trains: of a classifier the tower, and a head on it; else all, as it is.

    >>> probe = override(recipes.find("linear_probe").make(), ["data.classes=7"])  # doctest: +SKIP
    >>> as_trained(shapes_of(Start()), probe).head.classes  # doctest: +SKIP
    7
    """
    if config.objective.kind != "classify" or shapes.head is not None:
        return shapes
    start, model = config.start, shapes.config
    tower = model
    if not isinstance(model, VisionConfig):
        tower = replace(model.vision, pool_dim=0)
        if isinstance(model, PairConfig) and start.pooling == "clip_projector":
            tower = replace(tower, pool_dim=model.embed_dim, pool_heads=model.pool_heads)
    assert isinstance(tower, VisionConfig)
    if start.tile_size:
        tower = replace(tower, image_size=start.tile_size)
    if start.pooling == "clip_projector" and not tower.pool_dim:
        raise UsageError("this tower has no clip_projector to classify with; use pooling linear or attention")
    asked = config.data.classes
    head = Head(classes_of(asked, ()).count if asked else ASSUMED_CLASSES, start.pooling, assumed=not asked)
    return Shapes(tower, narrow=shapes.narrow, head=head)


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
    narrow = all(_is_narrow(name) for name in (start.model, start.vision, start.language) if name)
    spoken = start.language or start.model
    family = "" if spoken is None else _family(spoken.rpartition("/")[2]) or _family_of(spoken)
    return Shapes(config, tiles=12, thumbnail=True, narrow=narrow, family=family)


def _family(decoder: str | None) -> str:
    return "internlm2" if decoder is not None and decoder in zoo.DECODERS and decoder.startswith("internlm2") else ""


def _family_of(name: str) -> str:
    return "" if name.rpartition("/")[2] in zoo.DECODERS else _named(name).family


def _is_narrow(name: str) -> bool:
    short = name.rpartition("/")[2]
    return short in zoo.TOWERS or short in zoo.DECODERS or _named(name).narrow


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
    if name in (None, EMBEDDED, EMBEDDED_C) or Path(name).expanduser().exists():
        return _folder(resolve(name))
    try:
        row = zoo.find(name)
    except NoSuchName as error:
        raise NoSuchName(f"{error} A model that is not in that table is planned from its folder") from None
    family = _family(row.decoder) if row.layout == "custom" else ""
    return Shapes(row.config, row.tiles, row.thumbnail, narrow=True, family=family)


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
    narrow = not has_weights or majority(seen.tensors.values()) in NARROW
    if not isinstance(config, ChatConfig):
        return Shapes(config, narrow=narrow)
    tiles, thumbnail = seen.config.get("max_dynamic_patch", 12), seen.config.get("use_thumbnail", True)
    told = seen.config.get("llm_config")  # of the layout that can be fused
    family = family_of(told).model_type if isinstance(told, dict) else ""
    return Shapes(config, tiles if isinstance(tiles, int) else 12, bool(thumbnail), narrow, family=family)


# --- counting ---------------------------------------------------------------------------------------------------------


def built(config: ModelConfig, head: Head | None = None) -> nn.Module:
    """The model on the meta device: names and shapes, no memory. With a head a classifier, whose tower is `config`."""
    with torch.device("meta"):
        if head is not None:
            assert isinstance(config, VisionConfig)
            return Classifier(VisionTransformer(config), Probe(config, head.classes, pooling=head.pooling))
        if isinstance(config, ChatConfig):
            return ChatModel(config)
        return PairModel(config) if isinstance(config, PairConfig) else VisionTransformer(config)


@cache
def parts_of(config: ModelConfig, learn: Learn, head: Head | None = None, family: str = "") -> tuple[Part, ...]:
    """Every part that has parameters, counted; with a head those of a classifier.

    Where a layout stores several layers as one (InternLM2, Phi-3), their adapters share an A, which is counted once.
    """
    model = built(config, head)
    ranks = {"vision": learn.vision_lora, "language": learn.language_lora}
    whole = replace(learn, vision_lora=0, language_lora=0, quantize=None, dora=False)
    whole = replace(whole, **{part: False for part, rank in ranks.items() if rank})
    if whole.vision or whole.projector or whole.language:
        choose(model, whole)
    else:
        model.requires_grad_(False)
    halved, counts = set(products(model)), dict[str, Part]()
    for name, parameter in model.named_parameters():
        part = counts.get(part_of(name)) or Part(part_of(name), 0, 0)
        counts[part.name] = replace(
            part,
            parameters=part.parameters + parameter.numel(),
            learning=part.learning + parameter.numel() * parameter.requires_grad,
            embeddings=part.embeddings + parameter.numel() * ("embed" in name),
            products=part.products + parameter.numel() * (parameter in halved),
            frozen=part.frozen + parameter.numel() * (parameter in halved and not parameter.requires_grad),
        )
    for prefix, part in (("vision_model.", "vision"), ("language_model.", "language"), ("qllama.", "language")):
        if part in counts and ranks[part]:
            counts[part] = _adapted(model, prefix, counts[part], learn, family)
    return tuple(counts[name] for name in ("vision", "projector", "language") if name in counts)


def _adapted(model: nn.Module, prefix: str, part: Part, learn: Learn, family: str) -> Part:
    """A part with adapters on the layers that the family puts them on."""
    rank = learn.vision_lora if part.name == "vision" else learn.language_lora
    names = targets(model, prefix)
    shapes = [tuple(model.get_parameter(f"{name}.weight").shape) for name in names]
    added = sum(rank * (wide + out) + out * learn.dora for out, wide in shapes)
    for first, *others in fused(model, names, family) if names else ():
        added -= rank * model.get_parameter(f"{first}.weight").shape[1] * len(others)
    learns = not learn.only or any(prefix.startswith(name) or name.startswith(prefix) for name in learn.only)
    layers = map(model.get_submodule, names) if learn.dora else ()  # whose rows are measured, in fp32
    measured = sum(p.numel() for layer in layers for p in layer.parameters())
    return replace(
        part,
        adapters=part.adapters + added,
        learning=part.learning + added * learns,
        under_adapters=part.under_adapters + sum(map(prod, shapes)),
        frozen=part.frozen - measured,
    )
