"""Every published checkpoint of the family, one row each: what it is made of and how it is fed.

    TOWERS, DECODERS   the parts, by the name they were published under; a `VisionConfig` and a `TextConfig` each
    TABLE              the rows, oldest generation first
    find, matching     a row by zoo name, hub id or unique ending; all rows with some text in their name
    render, as_json    the same rows for people and for programs (`internvl zoo`, `internvl zoo --json`)

The configs are what the checkpoints' own `config.json` says, as far as it could be read; loading a checkpoint reads
its file, never this table. A cell that could not be checked against a published file is named in `Row.unverified`.
Parameter counts are those of the tensors in the file, so every head that is stored counts, and all of them are
stored: no published chat checkpoint ties its head, also where the language model it started from does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from internvl.errors import NoSuchName
from internvl.errors import find as find_name
from internvl.models.config import ChatConfig, Experts, PairConfig, RopeScaling, TextConfig, VisionConfig

Layout = Literal["custom", "hf", "llava", "pair", "pair-pth", "vit", "vit-pth"]
Kind = Literal["chat", "pair", "vision"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published checkpoint."""

    name: str
    """How this project calls it: `internvl.load("internvl2.5-8b")`."""
    hub: str
    file: str | None = None
    """The one file of the hub repository that is this checkpoint, where it is not the whole repository."""
    generation: str
    layout: Layout
    config: ChatConfig | PairConfig | VisionConfig
    tower: str
    decoder: str | None = None
    template: str | None = None
    """Conversation template; None where one does not converse."""
    tiles: int = 1
    """The most tiles a picture is cut into, thumbnail not counted; 1: the whole picture is one tile."""
    thumbnail: bool = False
    pad_to_square: bool = False
    parameters: int
    published: str | None = None
    """The size its authors give."""
    released: str | None = None
    licence: str | None = None
    """Of the weights, as their model card says."""
    variant_of: str | None = None
    """The row that this one differs from only by its training stage or its file layout."""
    unverified: tuple[str, ...] = ()
    """Cells that could not be checked against a published file."""

    @property
    def kind(self) -> Kind:
        match self.config:
            case ChatConfig():
                return "chat"
            case PairConfig():
                return "pair"
            case VisionConfig():
                return "vision"

    @property
    def tile_size(self) -> int:
        """Side in pixels of what the tower is given."""
        return self.config.image_size if isinstance(self.config, VisionConfig) else self.config.tile_size


# --- parts ------------------------------------------------------------------------------------------------------------

_VIT_6B_224 = VisionConfig(
    image_size=224, dim=3200, layers=48, heads=25, mlp_dim=12800, norm="rms_norm", qkv_bias=False, qk_norm=True
)
_VIT_6B_448 = replace(_VIT_6B_224, image_size=448)
_VIT_6B_448_CUT = replace(_VIT_6B_448, layers=45)
"""The last three layers, which no chat model read, were dropped from the file."""
_VIT_300M = VisionConfig(layer_scale=1.0)

TOWERS: dict[str, VisionConfig] = {
    "InternViT-6B-224px": _VIT_6B_224,
    "InternViT-6B-448px-V1-0": _VIT_6B_448,
    "InternViT-6B-448px-V1-2": _VIT_6B_448_CUT,
    "InternViT-6B-448px-V1-5": _VIT_6B_448_CUT,
    "InternViT-6B-448px-V2_5": _VIT_6B_448_CUT,
    "InternViT-300M-448px": _VIT_300M,
    "InternViT-300M-448px-V2_5": _VIT_300M,
}


@dataclass(frozen=True)
class Decoder:
    """A language model as it stands in the checkpoints: with the tokens that pictures and boxes need."""

    text: TextConfig
    image_token: int
    unverified: tuple[str, ...] = ()


def _decoder(length: int, sizes: tuple[int, ...], *unverified: str, **text: Any) -> Decoder:
    """`length`: tokens of the original vocabulary; nine follow, <IMG_CONTEXT> being the third."""
    dim, layers, heads, kv_heads, mlp_dim = sizes
    text = {"vocab": length + 9} | text
    config = TextConfig(dim=dim, layers=layers, heads=heads, kv_heads=kv_heads, mlp_dim=mlp_dim, **text)
    return Decoder(config, length + 2, unverified)


def _vicuna(*sizes: int) -> Decoder:
    dim, layers, heads, kv_heads, mlp_dim = sizes
    text = TextConfig(vocab=32000, dim=dim, layers=layers, heads=heads, kv_heads=kv_heads, mlp_dim=mlp_dim,
                      eps=1e-5, max_positions=4096)  # fmt: skip
    return Decoder(text, -200)  # picture slots are no token there: LLaVA marks them with -200


def _internlm2(*sizes: int, factor: float = 2.0, unverified: tuple[str, ...] = ()) -> Decoder:
    rope = RopeScaling(kind="dynamic", factor=factor)
    return _decoder(92544, sizes, *unverified, eps=1e-5, rope_theta=1e6, rope=rope)


def _qwen2_5(*sizes: int, unverified: tuple[str, ...] = ()) -> Decoder:
    return _decoder(151665, sizes, *unverified, qkv_bias=True, rope_theta=1e6)


def _qwen3(*sizes: int, experts: Experts | None = None) -> Decoder:
    # The rows that Qwen3 keeps in reserve, 151936 in all, already had room for the nine tokens.
    return _decoder(151669, sizes, vocab=151936, head_dim=128, qk_norm=True, rope_theta=1e6, max_positions=40960,
                    experts=experts)  # fmt: skip


def _stretched(of: Decoder, *unverified: str) -> Decoder:
    """Qwen2.5 as InternVL3 has it: its config asks for dynamic rope beyond 32768 positions."""
    text = replace(of.text, rope=RopeScaling(kind="dynamic", factor=2.0))
    return replace(of, text=text, unverified=unverified)


# fmt: off
# Phi-3: one factor for each pair of dimensions of a head, the short ones for up to 4096 tokens.
_PHI3_SHORT = (
    *(1.05,) * 3, *(1.1,) * 3, *(1.2500000000000002,) * 2, 1.4000000000000004, 1.4500000000000004, 1.5500000000000005,
    1.8500000000000008, 1.9000000000000008, *(2.000000000000001,) * 19, *(2.1000000000000005,) * 2, 2.2,
    *(2.3499999999999996,) * 4, *(2.3999999999999995,) * 2, 2.6499999999999986, 2.6999999999999984,
    2.8999999999999977, 2.9499999999999975, *(3.049999999999997,) * 3,
)
_PHI3_LONG = (
    1.0299999713897705, 1.0499999523162842, 1.0499999523162842, 1.0799999237060547, 1.2299998998641968,
    1.2299998998641968, 1.2999999523162842, 1.4499999284744263, 1.5999999046325684, 1.6499998569488525,
    1.8999998569488525, 2.859999895095825, 3.68999981880188, 5.419999599456787, 5.489999771118164, 5.489999771118164,
    9.09000015258789, 11.579999923706055, 15.65999984741211, 15.769999504089355, 15.789999961853027,
    18.360000610351562, 21.989999771118164, 23.079999923706055, 30.009998321533203, 32.35000228881836,
    32.590003967285156, 35.56000518798828, 39.95000457763672, 53.840003967285156, 56.20000457763672,
    57.95000457763672, 59.29000473022461, 59.77000427246094, 59.920005798339844, 61.190006256103516,
    61.96000671386719, 62.50000762939453, 63.3700065612793, 63.48000717163086, 63.48000717163086, 63.66000747680664,
    63.850006103515625, 64.08000946044922, 64.760009765625, 64.80001068115234, 64.81001281738281, 64.81001281738281,
)
_PHI3: dict[str, Any] = {"eps": 1e-5, "max_positions": 131072, "rope": RopeScaling(
    kind="longrope", temperature="su", original=4096, short_factors=_PHI3_SHORT, long_factors=_PHI3_LONG)}
_YI: dict[str, Any] = {"eps": 1e-5, "rope_theta": 5e6, "max_positions": 4096}
_LLAMA2: dict[str, Any] = {"eps": 1e-5, "max_positions": 4096}
_LLAMA3: dict[str, Any] = {"eps": 1e-5, "rope_theta": 5e5, "max_positions": 8192}
_INTERNLM3: dict[str, Any] = {"eps": 1e-5, "rope_theta": 5e7, "rope": RopeScaling(kind="dynamic", factor=6.0)}
_GPT_OSS: dict[str, Any] = {
    "head_dim": 64, "eps": 1e-5, "rope_theta": 150000.0, "max_positions": 131072,
    "rope": RopeScaling(kind="yarn", factor=32.0, original=4096, truncate=False),
    "qkv_bias": True, "out_bias": True, "sinks": True, "window": 128, "windowed_layers": tuple(range(0, 24, 2)),
    "experts": Experts(count=32, active=4, dim=2880, bias=True, gate="clamped")}

_RELEASED = {
    #                                          dim layers heads kv   mlp
    "vicuna-7b-v1.5":                  _vicuna(4096, 32, 32, 32, 11008),
    "vicuna-13b-v1.5":                 _vicuna(5120, 40, 40, 40, 13824),
    "LLaMA2-13B":              _decoder(32000, (5120, 40, 40, 40, 13824), "vocab", "context", **_LLAMA2),
    "Nous-Hermes-2-Yi-34B":    _decoder(64000, (7168, 60, 56,  8, 20480), "vocab", "eps", "context", **_YI),
    "Hermes-2-Theta-Llama-3-70B": _decoder(128256, (8192, 80, 64, 8, 28672), **_LLAMA3),
    "Phi-3-mini-128k-instruct": _decoder(32011, (3072, 32, 32, 32, 8192), "vocab", "rope factors", **_PHI3),
    "internlm2-chat-1_8b":          _internlm2(2048, 24, 16,  8,  8192),
    "internlm2_5-1_8b-chat":        _internlm2(2048, 24, 16,  8,  8192),
    "internlm2_5-7b-chat":          _internlm2(4096, 32, 32,  8, 14336),
    "internlm2-chat-20b":           _internlm2(6144, 48, 48,  8, 16384, factor=3.0),
    "internlm2_5-20b-chat":         _internlm2(6144, 48, 48,  8, 16384, unverified=("rope factor",)),
    "internlm3-8b-instruct":  _decoder(128512, (4096, 48, 32,  2, 10240), "vocab", **_INTERNLM3),
    "Qwen2-0.5B-Instruct":    _decoder(151646, (896,  24, 14,  2,  4864), qkv_bias=True, rope_theta=1e6),
    "Qwen2.5-0.5B-Instruct":          _qwen2_5(896,  24, 14,  2,  4864),
    "Qwen2.5-1.5B-Instruct":          _qwen2_5(1536, 28, 12,  2,  8960),
    "Qwen2.5-3B-Instruct":            _qwen2_5(2048, 36, 16,  2, 11008),
    "Qwen2.5-7B-Instruct":            _qwen2_5(3584, 28, 28,  4, 18944),
    "Qwen2.5-14B-Instruct":           _qwen2_5(5120, 48, 40,  8, 13824),
    "Qwen2.5-32B-Instruct":           _qwen2_5(5120, 64, 40,  8, 27648, unverified=("eps",)),
    "Qwen2.5-72B-Instruct":           _qwen2_5(8192, 80, 64,  8, 29568),
    "Qwen3-0.6B":                       _qwen3(1024, 28, 16,  8,  3072),
    "Qwen3-1.7B":                       _qwen3(2048, 28, 16,  8,  6144),
    "Qwen3-4B":                         _qwen3(2560, 36, 32,  8,  9728),
    "Qwen3-8B":                         _qwen3(4096, 36, 32,  8, 12288),
    "Qwen3-14B":                        _qwen3(5120, 40, 40,  8, 17408),
    "Qwen3-32B":                        _qwen3(5120, 64, 64,  8, 25600),
    "Qwen3-30B-A3B":                    _qwen3(2048, 48, 32,  4,  6144, experts=Experts(count=128, active=8, dim=768)),
    "Qwen3-235B-A22B":                  _qwen3(4096, 94, 64,  4, 12288, experts=Experts(count=128, active=8, dim=1536)),
    "gpt-oss-20b":            _decoder(200019, (2880, 24, 64,  8,  2880), **_GPT_OSS),
}
DECODERS: dict[str, Decoder] = _RELEASED | {
    "Qwen2.5-0.5B": _stretched(_RELEASED["Qwen2.5-0.5B-Instruct"]),
    "Qwen2.5-1.5B": _stretched(_RELEASED["Qwen2.5-1.5B-Instruct"]),
    "Qwen2.5-7B":   _stretched(_RELEASED["Qwen2.5-7B-Instruct"]),
    "Qwen2.5-14B":  _stretched(_RELEASED["Qwen2.5-14B-Instruct"], "eps"),
    "Qwen2.5-32B":  _stretched(_RELEASED["Qwen2.5-32B-Instruct"], "eps"),
    "Qwen2.5-72B":  _stretched(_RELEASED["Qwen2.5-72B-Instruct"]),
}
# fmt: on

_QLLAMA = TextConfig(vocab=49954, dim=4096, layers=32, heads=32, kv_heads=32, mlp_dim=11008, max_positions=2048)
"""Chinese-Alpaca-7B, the text tower of InternVL-14B."""


# --- rows -------------------------------------------------------------------------------------------------------------


def _row(hub: str, parameters: int, published: str | None, released: str | None, **cells: Any) -> Row:
    """The zoo name is the hub's in lower case, with a dot in the version: InternVL2_5-8B, internvl2.5-8b."""
    names: dict[str, Any] = {"name": hub.lower().replace("_", "."), "hub": f"OpenGVLab/{hub}"}
    return Row(parameters=parameters, published=published, released=released, **(names | cells))


def _chat(
    hub: str, tower: str, decoder: str, template: str, parameters: int, published: str | None, **cells: Any
) -> Row:
    """A tower, a projector and a decoder. Of the cells, those that belong to the config go there."""
    parts = DECODERS[decoder]
    of_config = {k: cells.pop(k) for k in ("select_layer", "pixel_shuffle", "projector", "image_size") if k in cells}
    config = ChatConfig(vision=TOWERS[tower], text=parts.text, image_token=parts.image_token, **of_config)
    unverified = parts.unverified + cells.pop("unverified", ())
    cells = {"layout": "custom"} | cells
    released = cells.pop("released")
    return _row(hub, parameters, published, released, config=config, tower=tower, decoder=decoder,
                template=template, unverified=unverified, **cells)  # fmt: skip


def _pair(hub: str, parameters: int, released: str | None, image_size: int = 224) -> Row:
    vision = replace(_VIT_6B_224, image_size=image_size)  # the file holds a position table of that size
    config = PairConfig(vision=vision, text=_QLLAMA)
    return _row(hub, parameters, "14B", released, config=config, generation="1.0", layout="pair",
                tower="InternViT-6B-224px", decoder="QLLaMA")  # fmt: skip


def _tower(generation: str, hub: str, parameters: int, published: str | None, released: str) -> Row:
    return _row(hub, parameters, published, released, config=TOWERS[hub], generation=generation, layout="vit",
                tower=hub)  # fmt: skip


def _file(file: str, parameters: int, published: str, **cells: Any) -> Row:
    """One file of the repository that the first release lies in; the zoo name is the file's.

    The tower's file also carries the contrastive pool of InternVL-C, 33,207,168 numbers that are not counted.
    """
    return _row("InternVL", parameters, published, None, name=file.removesuffix(".pth"), file=file,
                generation="1.0", tower="InternViT-6B-224px", **cells)  # fmt: skip


def _variants(rows: Iterable[Row], suffix: str, **changes: Any) -> list[Row]:
    """The same models at another stage of training, or in another file layout."""
    return [
        replace(row, name=row.name + suffix.lower(), hub=row.hub + suffix, variant_of=row.name, **changes)
        for row in rows
    ]


_300M, _300M_V2_5 = "InternViT-300M-448px", "InternViT-300M-448px-V2_5"
_6B_V0, _6B_V1_0 = "InternViT-6B-224px", "InternViT-6B-448px-V1-0"
_6B_V1_2, _6B_V1_5, _6B_V2_5 = "InternViT-6B-448px-V1-2", "InternViT-6B-448px-V1-5", "InternViT-6B-448px-V2_5"
_YI_34B, _LLAMA_70B = "Nous-Hermes-2-Yi-34B", "Hermes-2-Theta-Llama-3-70B"
_PHI3_MINI = "Phi-3-mini-128k-instruct"
_HERMES, _INTERNLM, _PHI, _V25 = "Hermes-2", "internlm2-chat", "phi3-chat", "internvl2_5"

# What all rows of a generation share.
_MIT: dict[str, Any] = {"licence": "mit", "unverified": ("licence",)}
_TILED: dict[str, Any] = {"tiles": 12, "thumbnail": True}
_PLAIN: dict[str, Any] = {"unverified": ("pad_to_square",)}
_V1_0: dict[str, Any] = {
    "generation": "1.0", "layout": "llava", "projector": "llava", "select_layer": -4, "pad_to_square": True,
    "released": "2023-12-25", "unverified": ("pad_to_square",),
}  # fmt: skip
_V1_1: dict[str, Any] = {"generation": "1.1", "select_layer": -4, "pixel_shuffle": "v1"} | _PLAIN
_V1_2: dict[str, Any] = {"generation": "1.2", "pixel_shuffle": "v1"} | _PLAIN
_V1_5: dict[str, Any] = {"generation": "1.5"} | _TILED | _MIT
_V2: dict[str, Any] = {"generation": "2.0", "released": "2024-07-04"} | _TILED | _MIT
_V2_5: dict[str, Any] = {"generation": "2.5", "released": "2024-12-05"} | _TILED | _MIT
_V3: dict[str, Any] = {"generation": "3", "released": "2025-04-11"} | _TILED
_V3_5: dict[str, Any] = {"generation": "3.5", "released": "2025-08-26", "licence": "apache-2.0"} | _TILED

# fmt: off
_CHAT_1 = [
    _chat("InternVL-Chat-ViT-6B-Vicuna-7B",        _6B_V0,   "vicuna-7b-v1.5",  "vicuna_v1",   12_671_101_824, None,
          image_size=336, **_V1_0),
    _chat("InternVL-Chat-ViT-6B-Vicuna-13B",       _6B_V0,   "vicuna-13b-v1.5", "vicuna_v1",   18_961_266_560, "19B",
          image_size=336, **_V1_0),
    _chat("InternVL-Chat-ViT-6B-Vicuna-13B-448px", _6B_V1_0, "vicuna-13b-v1.5", "vicuna_v1",   18_963_724_160, "19B",
          **_V1_0),
    _chat("InternVL-Chat-V1-1",                    _6B_V1_0, "LLaMA2-13B",      "internvl_zh", 19_012_993_920, "19B",
          released="2024-01-24", **_V1_1),
    _chat("InternVL-Chat-V1-2",         _6B_V1_2, _YI_34B,               _HERMES,   40_068_712_832, "40B",
          released="2024-02-11", **_V1_2),
    _chat("InternVL-Chat-V1-2-Plus",    _6B_V1_2, _YI_34B,               _HERMES,   40_068_712_832, "40B",
          released="2024-02-21", **_V1_2),
    _chat("InternVL-Chat-V1-5",         _6B_V1_5, "internlm2-chat-20b",  _INTERNLM, 25_514_186_112, "25.5B",
          released="2024-04-18", **_V1_5),
    _chat("Mini-InternVL-Chat-2B-V1-5", _300M,    "internlm2-chat-1_8b", _INTERNLM, 2_205_754_368, "2.2B",
          released="2024-05-19", **_V1_5),
    _chat("Mini-InternVL-Chat-4B-V1-5", _300M,    _PHI3_MINI,            _PHI,      4_146_855_936, "4.2B",
          released="2024-05-28", **_V1_5),
]
_CHAT_2 = [
    _chat("InternVL2-1B",         _300M,    "Qwen2-0.5B-Instruct", _HERMES,   938_158_976, "0.9B",  **_V2),
    _chat("InternVL2-2B",         _300M,    "internlm2-chat-1_8b", _INTERNLM, 2_205_754_368, "2.2B",  **_V2),
    _chat("InternVL2-4B",         _300M,    _PHI3_MINI,            _PHI,      4_146_855_936, "4.2B",  **_V2),
    _chat("InternVL2-8B",         _300M,    "internlm2_5-7b-chat", _INTERNLM, 8_075_365_376, "8.1B",
          **_V2 | {"unverified": ()}),
    _chat("InternVL2-26B",        _6B_V1_5, "internlm2-chat-20b",  _INTERNLM, 25_514_186_112, "25.5B", **_V2),
    _chat("InternVL2-40B",        _6B_V1_5, _YI_34B,               _HERMES,   40_068_712_832, "40.1B", **_V2),
    _chat("InternVL2-Llama3-76B", _6B_V1_5, _LLAMA_70B,            _INTERNLM, 76_262_358_400, "76.3B",
          **_V2 | {"licence": "llama3"}),
]
_CHAT_2_5 = [
    _chat("InternVL2_5-1B",  _300M_V2_5, "Qwen2.5-0.5B-Instruct", _V25, 938_193_024, "0.9B",  **_V2_5),
    _chat("InternVL2_5-2B",  _300M_V2_5, "internlm2_5-1_8b-chat", _V25, 2_205_754_368, "2.2B",  **_V2_5),
    _chat("InternVL2_5-4B",  _300M_V2_5, "Qwen2.5-3B-Instruct",   _V25, 3_712_637_952, None,    **_V2_5),
    _chat("InternVL2_5-8B",  _300M_V2_5, "internlm2_5-7b-chat",   _V25, 8_075_365_376, "8.1B",  **_V2_5),
    _chat("InternVL2_5-26B", _6B_V2_5,   "internlm2_5-20b-chat",  _V25, 25_514_186_112, "25.5B", **_V2_5),
    _chat("InternVL2_5-38B", _6B_V2_5,   "Qwen2.5-32B-Instruct",  _V25, 38_388_164_992, None,    **_V2_5),
    _chat("InternVL2_5-78B", _6B_V2_5,   "Qwen2.5-72B-Instruct",  _V25, 78_408_318_336, None,
          **_V2_5 | {"licence": None}),
]
_CHAT_3 = [
    _chat("InternVL3-1B",  _300M_V2_5, "Qwen2.5-0.5B", _V25, 938_193_024, None, **_V3),
    _chat("InternVL3-2B",  _300M_V2_5, "Qwen2.5-1.5B", _V25, 2_088_957_440, None, **_V3),
    _chat("InternVL3-8B",  _300M_V2_5, "Qwen2.5-7B",   _V25, 7_944_373_760, None, **_V3),
    _chat("InternVL3-14B", _300M_V2_5, "Qwen2.5-14B",  _V25, 15_117_256_704, None, **_V3),
    _chat("InternVL3-38B", _6B_V2_5,   "Qwen2.5-32B",  _V25, 38_388_164_992, None, **_V3),
    _chat("InternVL3-78B", _6B_V2_5,   "Qwen2.5-72B",  _V25, 78_408_318_336, None, **_V3),
]
_CHAT_3_9B = [
    _chat("InternVL3-9B",  _300M_V2_5, "internlm3-8b-instruct", _V25, 9_141_898_240, None, **_V3),
]
_CHAT_3_5 = [
    _chat("InternVL3_5-1B",        _300M_V2_5, "Qwen3-0.6B",      _V25, 1_060_897_792, "1.1B",   **_V3_5),
    _chat("InternVL3_5-2B",        _300M_V2_5, "Qwen3-1.7B",      _V25, 2_348_347_392, "2.3B",   **_V3_5),
    _chat("InternVL3_5-4B",        _300M_V2_5, "Qwen3-4B",        _V25, 4_732_489_216, "4.7B",   **_V3_5),
    _chat("InternVL3_5-8B",        _300M_V2_5, "Qwen3-8B",        _V25, 8_528_318_464, "8.5B",   **_V3_5),
    _chat("InternVL3_5-14B",       _300M_V2_5, "Qwen3-14B",       _V25, 15_119_523_840, "15.1B",  **_V3_5),
    _chat("InternVL3_5-38B",       _6B_V2_5,   "Qwen3-32B",       _V25, 38_390_405_504, "38.4B",  **_V3_5),
    _chat("InternVL3_5-30B-A3B",   _300M_V2_5, "Qwen3-30B-A3B",   _V25, 30_848_730_112, "30.8B",  **_V3_5),
    _chat("InternVL3_5-241B-A28B", _6B_V2_5,   "Qwen3-235B-A22B", _V25, 240_699_370_368, "240.7B", **_V3_5),
]
_CHAT_3_5_OSS = [
    _chat("InternVL3_5-GPT-OSS-20B-A4B-Preview", _300M_V2_5, "gpt-oss-20b", "internvl3_5_gpt_oss",
          21_232_768_704, "21.2B", **_V3_5),
]
_OTHERS = [
    _pair("InternVL-14B-224px",              13_834_975_747, "2023-12-22"),
    _pair("InternVL-14B-Flickr30K-FT-364px", 13_836_319_747, None, image_size=364),
    _pair("InternVL-14B-FlickrCN-FT-364px",  13_836_319_747, None, image_size=364),
    _file("internvl_c_13b_224px.pth",        12_620_029_697, "13B", layout="pair-pth", decoder="QLLaMA",
          config=PairConfig(vision=_VIT_6B_224, text=_QLLAMA, queries=0)),
    _file("intern_vit_6b_224px.pth",         5_902_793_600, "5.903B", layout="vit-pth", config=_VIT_6B_224),
    _tower("1.0", _6B_V0,     5_902_793_600, "5.903B", "2023-12-22"),
    _tower("1.1", _6B_V1_0,   5_905_251_200, None,     "2024-01-30"),
    _tower("1.2", _6B_V1_2,   5_536_496_000, None,     "2024-02-11"),
    _tower("1.5", _6B_V1_5,   5_536_496_000, None,     "2024-04-20"),
    _tower("1.5", _300M,      304_012_288, "0.3B",   "2024-05-25"),
    _tower("2.5", _300M_V2_5, 304_012_288, "0.3B",   "2024-12-05"),
    _tower("2.5", _6B_V2_5,   5_536_496_000, "5.5B",   "2024-12-05"),
]
# fmt: on

_ROWS = [
    *_OTHERS,
    *_CHAT_1,
    *_CHAT_2,
    *_variants([row for row in _CHAT_2 if row.name == "internvl2-8b"], "-MPO", released="2024-11-14", **_MIT),
    *_CHAT_2_5,
    *_variants(_CHAT_2_5, "-MPO", released="2024-12-20"),
    *_CHAT_3,
    *_CHAT_3_9B,
    *_variants(_CHAT_3 + _CHAT_3_9B, "-Instruct"),
    *_variants(_CHAT_3 + _CHAT_3_9B, "-Pretrained"),
    *_variants(_CHAT_3, "-hf", layout="hf"),
    *_CHAT_3_5,
    *_CHAT_3_5_OSS,
    *_variants(_CHAT_3_5, "-Instruct"),
    *_variants(_CHAT_3_5, "-MPO"),
    *_variants(_CHAT_3_5, "-Pretrained"),
    *_variants(_CHAT_3_5 + _CHAT_3_5_OSS, "-HF", layout="hf"),
]
TABLE: dict[str, Row] = {row.name: row for row in sorted(_ROWS, key=lambda row: float(row.generation))}


# --- looking things up ------------------------------------------------------------------------------------------------


def find(name: str) -> Row:
    """The row called `name`: a zoo name, a hub id, or an ending that only one of them has; case does not matter.

    >>> find("InternVL2_5-8B").name, find("2.5-8b-mpo").hub
    ('internvl2.5-8b', 'OpenGVLab/InternVL2_5-8B-MPO')

    Raises NoSuchName with the nearest name, or with all candidates where the ending is not unique.
    """
    wanted = name.casefold()
    for row in TABLE.values():
        if wanted in (row.name, (row.file or row.hub).casefold()):
            return row
    ends = [row for row in TABLE.values() if wanted and _ends_with(row, wanted)]
    if len(ends) == 1:
        return ends[0]
    if ends:
        candidates = ", ".join(row.name for row in ends)
        raise NoSuchName(f"{name!r} is the ending of {len(ends)} models ({candidates}); give one of these names")
    return find_name("model", name, TABLE, hint="`internvl zoo` lists them all.")


def _ends_with(row: Row, ending: str) -> bool:
    """Whole words and numbers only: "8b" is an ending of internvl2-8b, not of internvl2.5-38b."""
    for name in (row.name, (row.file or row.hub).casefold()):
        if name.endswith(ending):
            pair = name[-len(ending) - 1], ending[0]
            if not all(c.isdigit() for c in pair) and not all(c.isalpha() for c in pair):
                return True
    return False


def matching(text: str = "") -> list[Row]:
    """All rows that have `text` in their name, hub id or a part's name, in the order of the table."""
    wanted = text.casefold()
    return [
        row
        for row in TABLE.values()
        if any(wanted in cell.casefold() for cell in (row.name, row.hub, row.tower, row.decoder or ""))
    ]


def as_json(row: Row) -> dict[str, Any]:
    """One row as plain values: what `internvl zoo --json` prints.

    >>> as_json(find("internvl2.5-8b"))["decoder"]
    'internlm2_5-7b-chat'
    """
    config = row.config
    cells: dict[str, Any] = {
        "name": row.name,
        "hub": row.hub,
        "file": row.file,
        "kind": row.kind,
        "generation": row.generation,
        "layout": row.layout,
        "tower": row.tower,
        "decoder": row.decoder,
        "template": row.template,
        "tile_size": row.tile_size,
        "tiles": row.tiles,
        "thumbnail": row.thumbnail,
        "pad_to_square": row.pad_to_square,
    }
    if isinstance(config, ChatConfig):
        cells |= {
            "slots_per_tile": config.slots_per_tile,
            "pixel_shuffle": config.pixel_shuffle if config.projector == "mlp1" else None,
            "select_layer": config.select_layer,
            "vocab": config.text.vocab,
            "image_token": config.image_token,
            "context": config.text.max_positions,
        }
    return cells | {
        "parameters": row.parameters,
        "published": row.published,
        "released": row.released,
        "licence": row.licence,
        "variant_of": row.variant_of,
        "unverified": list(row.unverified),
    }


def render(rows: Iterable[Row]) -> str:
    """Rows as a table of plain text, one line each; variants of a row that is also there are named in its line."""
    rows = list(rows)
    names = {row.name for row in rows}
    lines = [("name", "parameters", "tower", "decoder", "template", "tiles", "released", "variants")]
    for row in rows:
        if row.variant_of in names:
            continue
        variants = [v.name.removeprefix(row.name) for v in rows if v.variant_of == row.name]
        tiles = f"{row.tiles}+1" if row.thumbnail else str(row.tiles)
        lines.append((row.name, _short(row.parameters), row.tower, row.decoder or "-", row.template or "-",
                      f"{tiles} x {row.tile_size}", row.released or "-", " ".join(variants)))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _short(parameters: int) -> str:
    return f"{parameters / 1e6:.0f} M" if parameters < 1e9 else f"{parameters / 1e9:.2f} B"
