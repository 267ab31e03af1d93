"""What a model says of itself, written anew where it was changed: its config and the files that go with it.

A model is saved with the config and files of its `origin` as long as these describe it. These functions give a changed
model an origin that does, with as few changes as possible: names of tensors, ids and further keys stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from internvl.data.encode import EncoderConfig
from internvl.errors import ConfigError
from internvl.models.config import ChatConfig, PairConfig, VisionConfig
from internvl.weights import sidecars
from internvl.weights.checkpoint import Origin
from internvl.weights.configs import write_custom, write_vision
from internvl.weights.formats import TABLE, parse_json
from internvl.weights.keys import Dialect, ModelConfig
from internvl.weights.parts import Language
from internvl.weights.writing import Content, describe

PICTURES = "preprocessor_config.json"
SIZES = ("size", "crop_size")


def new(config: ChatConfig, language: Language, encoding: EncoderConfig) -> Origin:
    """Of a new model in the custom-code layout; its language model keeps its own config and names."""
    raw = {**write_custom(config), **sidecars.write_encoding(encoding), "llm_config": language.raw}
    files = sidecars.custom_files(language.files, config, encoding)
    return Origin(
        source=Path(), format="custom", config=config, raw=raw, files=files, shards={}, metadata={},
        dialect=Dialect(), dtypes={}, our_dtypes={},
    )  # fmt: skip


def with_language(origin: Origin, config: ChatConfig, language: Language, encoding: EncoderConfig) -> Origin:
    """Of a chat model whose language model, with its tokenizer, was exchanged; in the custom-code layout."""
    made = new(config, language, encoding)
    kept = {key: value for key, value in origin.raw.items() if origin.format == "custom" and key != "llm_config"}
    raw = {**made.raw, **kept, "llm_config": language.raw, **sidecars.write_encoding(encoding)}
    return replace(made, source=origin.source, raw=raw)


def chat(origin: Origin, config: ChatConfig, encoding: EncoderConfig) -> Origin:
    """Of a chat model with this config, whose pictures and prompts are prepared so."""
    before, layout = origin.config, TABLE[origin.format]
    assert isinstance(before, ChatConfig)
    said = sidecars.read_encoding(origin.format, origin.raw, origin.files, before) if origin.source != Path() else None
    if config == before and encoding == said:
        return origin
    if origin.format == "custom":
        raw, files = _custom(origin, before, config, encoding)
    elif layout.write is None:
        if replace(config, vision=replace(config.vision, drop_path=before.vision.drop_path)) == before:
            return replace(origin, config=config)  # stochastic depth is for this run alone
        raise ConfigError(
            f"layout {origin.format!r} is only written back as it was read; begin from another checkpoint"
        )
    else:
        raw, files = describe(Content(config, {}, origin, encoding), layout, origin)
    return replace(origin, config=config, raw=raw, files={**files, "config.json": sidecars.dump(raw)})


def _custom(
    origin: Origin, before: ChatConfig, config: ChatConfig, encoding: EncoderConfig
) -> tuple[dict[str, Any], dict[str, bytes]]:
    raw, files = dict(origin.raw), dict(origin.files)
    vision = raw["vision_config"]
    if config.vision != before.vision:
        vision = {**vision, **_changed(write_vision(before.vision), write_vision(config.vision))}
    raw |= {"vision_config": vision, "llm_config": {**raw["llm_config"], "vocab_size": config.text.vocab}}
    raw |= {key: config.text.vocab for key in ("vocab_size",) if key in raw}
    raw |= {"hidden_size": config.text.dim, "tie_word_embeddings": config.text.tied_head}
    raw |= {"select_layer": config.select_layer, "ps_version": config.pixel_shuffle}
    raw |= {"force_image_size": config.tile_size, "image_token_id": config.image_token}
    raw |= sidecars.write_encoding(encoding)
    if PICTURES in files and config.tile_size != before.tile_size:
        pictures = parse_json(files[PICTURES], PICTURES)
        files[PICTURES] = sidecars.dump({**pictures, **{key: config.tile_size for key in SIZES if key in pictures}})
    if sidecars.SETTINGS in files:
        settings = parse_json(files[sidecars.SETTINGS], sidecars.SETTINGS)
        if "chat_template" in settings and encoding.template != origin.raw.get("template"):
            settings["chat_template"] = sidecars.chat_template(encoding, picture="<image>")
            files[sidecars.SETTINGS] = sidecars.dump(settings)
    return raw, files


def other(origin: Origin, config: ModelConfig) -> Origin:
    """Of a pair or a tower alone, whose tower has another size or stochastic depth."""
    before = origin.config
    if config == before:
        return origin
    raw: dict[str, Any] = dict(origin.raw)
    if isinstance(config, PairConfig) and isinstance(before, PairConfig):
        changed = _changed(write_vision(before.vision), write_vision(config.vision))
        if "vision_config" in raw:
            raw |= {"vision_config": {**raw["vision_config"], **changed}, "force_image_size": None}
    elif isinstance(config, VisionConfig) and isinstance(before, VisionConfig):
        changed = _changed(write_vision(before), write_vision(config))
        if "vision_config" in raw:
            raw["vision_config"] = {**raw["vision_config"], **changed}
        elif not TABLE[origin.format].pth:
            raw |= changed
    if "img_size" in raw:
        raw["img_size"] = (config.vision if isinstance(config, PairConfig) else config).image_size  # type: ignore[union-attr]
    name = "build_arguments.json" if TABLE[origin.format].pth else "config.json"
    files = {**origin.files, name: sidecars.dump(raw)} if raw != origin.raw else origin.files
    return replace(origin, config=config, raw=raw, files=files)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in after.items() if before.get(key) != value}
