"""What stands beside the tensors: how pictures are cut and prompts are written, and the files that tell others so.

The custom-code layout keeps all of it in `config.json`. The transformers layout spreads it: tile counts and
normalisation in the preprocessors' files, the prompt in a Jinja template, picture tokens by name in the tokenizer's
config. A checkpoint that is written back to its own layout keeps its files as they are; these functions serve the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from internvl.data.encode import EncoderConfig
from internvl.data.image import NORMALISATIONS
from internvl.data.prompts import TEMPLATES, Form
from internvl.errors import ConfigError, UsageError, find
from internvl.models.config import ChatConfig
from internvl.weights import fast_tokenizer
from internvl.weights.families import Raw
from internvl.weights.formats import IMAGE_SLOT, added_tokens, parse_json
from internvl.weights.keys import ModelConfig

Files = Mapping[str, bytes]

ENCODING_KEY = "internvl"
"""Where `config.json` of the transformers layout keeps what that layout has no place for."""
VIDEO = "<video>"
NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": IMAGE_SLOT,
    "video_token": VIDEO,
}
"""The transformers processor looks these up by name."""
SETTINGS = "tokenizer_config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", SETTINGS),
    *("added_tokens.json", "special_tokens_map.json", "generation_config.json"),
)
MEAN_DIGITS = 1e-4


def dump(value: Any) -> bytes:
    """JSON as the files of a checkpoint have it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_encoding(layout: str, raw: Raw, files: Files, config: ModelConfig) -> EncoderConfig:
    """How prompts and pictures are prepared for a chat model."""
    if not isinstance(config, ChatConfig):
        raise UsageError(f"a checkpoint of layout {layout!r} does not converse, so it has no prompts to encode")
    match layout:
        case "custom":
            return _encoding(raw, config)
        case "llava":
            pad = raw.get("image_aspect_ratio") == "pad"
            return _encoding({"template": "vicuna_v1", "pad2square": pad}, config)
        case _:
            return _read_hf_encoding(raw, files, config)


def read_stops(files: Files) -> tuple[int, ...]:
    """The ids that `generation_config.json` ends an answer with; none where it is not there or does not say."""
    name = "generation_config.json"
    stops = parse_json(files[name], name).get("eos_token_id") if name in files else None
    listed = [] if stops is None else stops if isinstance(stops, list) else [stops]
    if not all(isinstance(stop, int) for stop in listed):
        raise ConfigError(f"{name}: eos_token_id is {stops!r}; expected a token id or a list of them")
    return tuple(listed)


def tells_prompts(layout: str, raw: Raw, files: Files) -> bool:
    """Whether a checkpoint says anything about its prompts; bare weights do not."""
    return "template" in raw or layout == "llava" or ENCODING_KEY in raw or (layout == "hf" and SETTINGS in files)


def _encoding(raw: Raw, config: ChatConfig, normalisation: str = "imagenet") -> EncoderConfig:
    """From the keys of the original config class, with its defaults."""
    template = raw.get("template")
    if template is None:
        raise ConfigError('config.json names no conversation template; add one, e.g. "template": "internvl2_5"')
    find("template", template, TEMPLATES, hint="It stands in config.json.")
    if not isinstance(raw.get("system_message"), str | None):
        raise ConfigError(f"config.json: system_message is {raw['system_message']!r:.80}; expected a text")
    return EncoderConfig(
        template=template,
        system_message=raw.get("system_message"),
        tile_size=config.tile_size,
        slots_per_tile=config.slots_per_tile,
        min_tiles=raw.get("min_dynamic_patch", 1),
        max_tiles=raw.get("max_dynamic_patch", 6),
        dynamic=bool(raw.get("dynamic_image_size", False)),
        thumbnail=bool(raw.get("use_thumbnail", False)),
        pad_to_square=bool(raw.get("pad2square", False)),
        normalisation=normalisation,  # type: ignore[arg-type]
        compat=None,
    )


def _read_hf_encoding(raw: Raw, files: Files, config: ChatConfig) -> EncoderConfig:
    """Tiles from the preprocessor; the template from our own note, or else from the tokens that turns are made of."""
    pictures = image_processor(files)
    mean = pictures.get("image_mean", NORMALISATIONS["imagenet"][0])
    close = [  # transformers writes the digits of CLIP's in full
        name for name, (known, _) in NORMALISATIONS.items()
        if all(abs(a - b) < MEAN_DIGITS for a, b in zip(known, mean, strict=True))
    ]  # fmt: skip
    if not close:
        raise ConfigError(f"preprocessor_config.json: image_mean {mean} is none of {', '.join(NORMALISATIONS)}")
    note: dict[str, Any] = raw.get(ENCODING_KEY) or {"template": _recognised(files)}
    tiles = {
        "min_dynamic_patch": pictures.get("min_patches", 1),
        "max_dynamic_patch": pictures.get("max_patches", 12),
        "dynamic_image_size": pictures.get("crop_to_patches", True),
        "use_thumbnail": True,
    }
    return _encoding({**tiles, **note}, config, close[0])


def image_processor(files: Files) -> dict[str, Any]:
    """The settings of the transformers image processor, which newer releases nest in the processor's own file."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if name in files:
            content = parse_json(files[name], name)
            if name == "preprocessor_config.json" or "image_processor" in content:
                return content.get("image_processor", content)
    return {}


def _recognised(files: Files) -> str:
    tokens = added_tokens(files)
    for template in ("internvl3_5_gpt_oss", "internvl2_5", "phi3-chat"):
        if set(TEMPLATES[template].tokens) <= tokens.keys():
            return template
    raise ConfigError(
        "the tokenizer has the turn tokens of no template of the family; "
        f'say which one it is in config.json: "{ENCODING_KEY}": {{"template": ...}}'
    )


# --- writing ----------------------------------------------------------------------------------------------------------


def write_encoding(encoding: EncoderConfig) -> dict[str, Any]:
    """The keys of the original config class."""
    raw: dict[str, Any] = {
        "template": encoding.template,
        "dynamic_image_size": encoding.dynamic,
        "use_thumbnail": encoding.thumbnail,
        "min_dynamic_patch": encoding.min_tiles,
        "max_dynamic_patch": encoding.max_tiles,
        "pad2square": encoding.pad_to_square,
    }
    return raw if encoding.system_message is None else {**raw, "system_message": encoding.system_message}


def custom_files(files: Files, config: ChatConfig, encoding: EncoderConfig) -> dict[str, bytes]:
    """The files of the custom-code layout, from those of either."""
    kept = shared(files)
    if SETTINGS in files:
        settings = parse_json(files[SETTINGS], SETTINGS)
        for key in (*NAMED_TOKENS, "extra_special_tokens", "processor_class"):
            settings.pop(key, None)
        settings["chat_template"] = chat_template(encoding, picture="<image>")
        kept = _without_video(kept, settings, config.text.vocab)
    mean, std = (list(values) for values in NORMALISATIONS[encoding.normalisation])
    pictures = {
        "crop_size": encoding.tile_size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": mean,
        "image_std": std,
        "resample": 3,
        "size": encoding.tile_size,
    }
    return {**kept, "preprocessor_config.json": dump(pictures)}


def hf_files(files: Files, config: ChatConfig, encoding: EncoderConfig) -> dict[str, bytes]:
    """The files of the transformers layout, from those of the custom-code layout."""
    kept = shared(files)
    if SETTINGS in files:
        kept = _hf_tokenizer(kept, config.text.vocab)
    mean, std = (list(values) for values in NORMALISATIONS[encoding.normalisation])
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": mean,
        "image_std": std,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": encoding.tile_size, "width": encoding.tile_size},
    }
    pictures = {
        **common,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "crop_to_patches": encoding.dynamic,
        "min_patches": encoding.min_tiles,
        "max_patches": encoding.max_tiles,
    }
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": encoding.slots_per_tile}
    return {
        **kept,
        "preprocessor_config.json": dump(pictures),
        "video_preprocessor_config.json": dump({**common, "video_processor_type": "InternVLVideoProcessor"}),
        "processor_config.json": dump(processor),
        "chat_template.jinja": chat_template(encoding, picture=IMAGE_SLOT).encode(),
    }


def shared(files: Files) -> dict[str, bytes]:
    """What all layouts have in common: the tokenizer and the documents; never code."""
    documents = {name for name in files if name.endswith(".md") or name.startswith(("LICENSE", "NOTICE"))}
    return {name: content for name, content in files.items() if name in TOKENIZER_FILES or name in documents}


def neutral(files: Files) -> dict[str, bytes]:
    """The files that mean the same in every layout of a model without prompts of its own."""
    return shared(files) | {name: files[name] for name in ("preprocessor_config.json",) if name in files}


# --- tokenizers -------------------------------------------------------------------------------------------------------


def _hf_tokenizer(files: dict[str, bytes], vocab: int) -> dict[str, bytes]:
    """A tokenizer that transformers reads without code of the checkpoint's own, with the tokens its processor names."""
    settings = parse_json(files[SETTINGS], SETTINGS)
    for key in ("auto_map", "chat_template"):
        settings.pop(key, None)
    tokens = added_tokens(files)
    if "tokenizer.model" in files and "tokenizer.json" not in files:
        files["tokenizer.json"] = dump(_fast_tokenizer(files["tokenizer.model"], settings))
        if settings.get("tokenizer_class") != "LlamaTokenizer":  # a class that only the custom code has
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings |= {**NAMED_TOKENS, "extra_special_tokens": NAMED_TOKENS, "processor_class": "InternVLProcessor"}
    if VIDEO not in tokens:
        return _with_video(files, settings, max([vocab, *(number + 1 for number in tokens.values())]))
    return {**files, SETTINGS: dump(settings)}


def _fast_tokenizer(proto: bytes, settings: Raw) -> dict[str, Any]:
    """`tokenizer.json` for a tokenizer that has none, from its model and its `tokenizer_config.json`."""
    added = {int(number): entry for number, entry in (settings.get("added_tokens_decoder") or {}).items()}
    bos = settings.get("bos_token") if settings.get("add_bos_token", True) else None
    text = bos.get("content") if isinstance(bos, dict) else bos
    return fast_tokenizer.definition(proto, added, bos=text, legacy=settings.get("legacy") is not False)


def hf_note(files: Files) -> dict[str, Any]:
    """What the way back to the custom-code layout has to know about a tokenizer that was given a second form."""
    if "tokenizer.model" not in files or "tokenizer.json" in files or SETTINGS not in files:
        return {}
    settings = parse_json(files[SETTINGS], SETTINGS)
    return {"tokenizer": {key: settings[key] for key in ("tokenizer_class", "auto_map") if key in settings}}


def original_tokenizer(files: Files, raw: Raw) -> dict[str, bytes]:
    """`hf_note` heeded: the second form is taken away, and the tokenizer is again of the class it was."""
    note = (raw.get(ENCODING_KEY) or {}).get("tokenizer")
    if note is None:
        return dict(files)
    settings = parse_json(files[SETTINGS], SETTINGS) | note
    return {name: data for name, data in files.items() if name != "tokenizer.json"} | {SETTINGS: dump(settings)}


def _with_video(files: dict[str, bytes], settings: dict[str, Any], number: int) -> dict[str, bytes]:
    """The tokenizer's files with one more token. It never reaches the model, so the embeddings need no row for it."""
    token = {"content": VIDEO, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
             "special": True}  # fmt: skip
    settings = {**settings, "added_tokens_decoder": {**settings.get("added_tokens_decoder", {}), str(number): token}}
    if "added_tokens.json" in files:
        listed = parse_json(files["added_tokens.json"], "added_tokens.json")
        files["added_tokens.json"] = dump({**listed, VIDEO: number})
    if "tokenizer.json" in files:
        fast = parse_json(files["tokenizer.json"], "tokenizer.json")
        fast["added_tokens"] = [*fast.get("added_tokens", []), {"id": number, **token}]
        files["tokenizer.json"] = dump(fast)
    return {**files, SETTINGS: dump(settings)}


def _without_video(files: dict[str, bytes], settings: dict[str, Any], vocab: int) -> dict[str, bytes]:
    """`_with_video` backwards: only a token beyond the embeddings is taken out."""
    if added_tokens(files).get(VIDEO, 0) >= vocab:
        decoder = settings.get("added_tokens_decoder", {})
        settings["added_tokens_decoder"] = {k: v for k, v in decoder.items() if v["content"] != VIDEO}
        if "added_tokens.json" in files:
            listed = parse_json(files["added_tokens.json"], "added_tokens.json")
            files["added_tokens.json"] = dump({k: v for k, v in listed.items() if k != VIDEO})
        if "tokenizer.json" in files:
            fast = parse_json(files["tokenizer.json"], "tokenizer.json")
            fast["added_tokens"] = [entry for entry in fast["added_tokens"] if entry["content"] != VIDEO]
            files["tokenizer.json"] = dump(fast)
    return {**files, SETTINGS: dump(settings)}


# --- prompts ----------------------------------------------------------------------------------------------------------


def chat_template(encoding: EncoderConfig, *, picture: str) -> str:
    """The conversation template in Jinja, for engines that render prompts with it; we never do.

    `picture` is what the engine's processor replaces by a picture's slots.
    """
    template = TEMPLATES[encoding.template]
    system = template.system_message if encoding.system_message is None else encoding.system_message

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def opening(form: Form) -> str:
        return quoted(form.head + form.lead)

    forms = {"system": template.system, "user": template.user, "assistant": template.assistant}
    heads = ", ".join(f"{quoted(role)}: {opening(form)}" for role, form in forms.items())
    ends = ", ".join(f"{quoted(role)}: {quoted(form.end + form.tail)}" for role, form in forms.items())
    final = quoted((template.last_end or template.assistant.end) + template.assistant.tail)
    whole = quoted(template.system.head + template.system.lead + system + template.system.end + template.system.tail)
    return (
        f"{{%- set heads = {{{heads}}} -%}}\n"
        f"{{%- set ends = {{{ends}}} -%}}\n"
        f"{{%- if messages[0]['role'] != 'system' -%}}{{{{- {whole} -}}}}{{%- endif -%}}\n"
        "{%- for message in messages -%}\n"
        "  {{- heads[message['role']] -}}\n"
        "  {%- if message['content'] is string -%}{{- message['content'] -}}\n"
        "  {%- else -%}{%- for item in message['content'] -%}\n"
        f"    {{%- if item['type'] == 'image' -%}}{{{{- {quoted(picture + chr(10))} -}}}}\n"
        f"    {{%- elif item['type'] == 'video' -%}}{{{{- {quoted(VIDEO + chr(10))} -}}}}\n"
        "    {%- elif item['type'] == 'text' -%}{{- item['text'] -}}{%- endif -%}\n"
        "  {%- endfor -%}{%- endif -%}\n"
        "  {%- if loop.last and message['role'] == 'assistant' and not add_generation_prompt -%}\n"
        f"    {{{{- {final} -}}}}\n"
        "  {%- else -%}{{- ends[message['role']] -}}{%- endif -%}\n"
        "{%- endfor -%}\n"
        f"{{%- if add_generation_prompt -%}}{{{{- {quoted(template.assistant.head)} -}}}}{{%- endif -%}}\n"
    )
