"""What a run will need, before it starts: parameters, tokens and tiles a step, memory of each device, time.

    plan = estimate(config, devices=8)
    plan.bytes_per_device          the estimated peak; `plan.memory` says of what
    plan.seconds(989e12)           one step on devices of that rate
    plan.advice                    what would make it smaller, each with what it saves

Shapes are exact and so are weights, gradients and moments. Activations are those of the largest micro-batch that the
config allows; how far they are from what is measured stands in `tests/training/test_plan.py`. The reserve that an
allocator keeps, and what the driver takes, come on top: leave a tenth of a GPU free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from internvl.errors import InternVLError
from internvl.models.config import ChatConfig, PairConfig, TextConfig, VisionConfig
from internvl.training import cost
from internvl.training.config import TrainConfig
from internvl.training.cost import BYTES, FP32, Keeps
from internvl.training.override import change, settled
from internvl.training.parallel import POSTPONED_BYTES
from internvl.training.shapes import Part, Shapes, as_trained, parts_of, shapes_of

NODE = 8
"""Devices of one machine, which `parallel.shard=hybrid` shards over."""
PAIR_ROWS = 3
"""Rows of queries and text that InternVL-14B reads for each picture: one for each task, or two of matching and one."""
PREFERENCES = ("dpo", "mpo")
HALF = 2
"""Bytes that a weight in 16 bit takes less than one in fp32."""


@dataclass(frozen=True)
class Load:
    """What one device is given."""

    tokens: int
    """Of the largest micro-batch, image slots and padding included."""
    tiles: int
    longest: int
    """Tokens of the longest sample."""
    micro: int
    """Micro-batches of one step on one device."""


@dataclass(frozen=True)
class Advice:
    """A change, and how many bytes it saves on each device."""

    change: str
    saves: int
    fits: bool | None = None
    """Whether this alone is enough for the memory that was named."""


@dataclass(frozen=True)
class Plan:
    """An estimate; bytes are of one device."""

    parts: tuple[Part, ...]
    devices: int
    load: Load
    memory: Mapping[str, int]
    host: int
    """Bytes of host memory for the weights, gradients and moments of one device, with `parallel.offload`."""
    operations: float
    """Of one step on all devices."""
    on_cpu: bool = False
    limit: int | None = None
    advice: tuple[Advice, ...] = field(default=())
    assumed: tuple[str, ...] = ()
    """What is not known before the rows are read."""

    @property
    def bytes_per_device(self) -> int:
        """The estimated peak."""
        return sum(self.memory.values())

    @property
    def learning(self) -> int:
        """Parameters that learn."""
        return sum(part.learning for part in self.parts)

    @property
    def fits(self) -> bool | None:
        """Whether it fits the memory that was named; None where none was."""
        return None if self.limit is None else self.bytes_per_device <= self.limit

    @property
    def rates(self) -> Mapping[str, float]:
        """Operations a second of devices that it may run on, at best."""
        return cost.CPU_RATES if self.on_cpu else cost.RATES

    def seconds(self, rate: float, utilisation: float = cost.UTILISATION) -> float:
        """One step, where each device does `rate` operations a second at best and a share of it on the whole."""
        return self.operations / (self.devices * rate * utilisation)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        parts = {
            part.name: {"parameters": part.parameters, "adapters": part.adapters, "learning": part.learning}
            for part in self.parts
        }
        return {
            "parts": parts,
            "devices": self.devices,
            "tokens_per_micro_batch": self.load.tokens,
            "tiles_per_micro_batch": self.load.tiles,
            "micro_batches_per_step": self.load.micro,
            "bytes_per_device": self.bytes_per_device,
            "memory": dict(self.memory),
            "host_bytes_per_device": self.host,
            "operations_per_step": self.operations,
            "assumed_utilisation": cost.UTILISATION,
            "seconds_per_step": {name: self.seconds(rate) for name, rate in self.rates.items()},
            "limit_bytes": self.limit,
            "fits": self.fits,
            "assumed": list(self.assumed),
            "advice": [{"change": a.change, "saves": a.saves, "fits": a.fits} for a in self.advice],
        }


def estimate(
    config: TrainConfig, *, devices: int = 1, memory: float | None = None, shapes: Shapes | None = None
) -> Plan:
    """What the run needs on each of `devices`; `memory` in GiB is what each has, and makes advice say what fits.

    `shapes` replaces those of `config.start`, where its model is not here yet.

    >>> plan = estimate(TrainConfig(), devices=1)
    >>> plan.learning, plan.bytes_per_device > 12 * plan.learning
    (7810560, True)
    """
    shapes = as_trained(shapes_of(config.start) if shapes is None else shapes, config)
    limit = None if memory is None else int(memory * 2**30)
    plan = _plan(config, devices, shapes)
    found = []
    for text, changed, on in _changes(config, devices, shapes):
        try:
            smaller = _plan(changed, on, shapes).bytes_per_device
        except InternVLError:
            continue  # what this model cannot have is no advice
        if plan.bytes_per_device - smaller > plan.bytes_per_device // 100:
            fits = None if limit is None else smaller <= limit
            found.append(Advice(text, plan.bytes_per_device - smaller, fits))
    return replace(plan, limit=limit, advice=tuple(found), assumed=tuple(_assumed(shapes)))


def _assumed(shapes: Shapes) -> Iterator[str]:
    if shapes.head is not None and shapes.head.assumed:
        yield f"{shapes.head.classes} classes are assumed, because the rows are not read here; data.classes states them"


def _plan(config: TrainConfig, devices: int, shapes: Shapes) -> Plan:
    run = _Estimate(config, devices, shapes)
    memory = {name: int(count) for name, count in run.memory().items() if count >= 1}
    on_cpu = config.run.device == "cpu"
    return Plan(run.parts, devices, run.load, memory, int(run.host()), run.operations(), on_cpu)


def _changes(config: TrainConfig, devices: int, shapes: Shapes) -> Iterator[tuple[str, TrainConfig, int]]:
    """What can be changed, beginning with what does not change what is learnt."""

    def changed(values: dict[str, Any], on: int = devices) -> tuple[str, TrainConfig, int]:
        values = settled(config, values)
        text = " ".join(f"{key}={str(value).lower()}" for key, value in values.items())
        return text, change(config, values), on

    parallel, data, learn, aim = config.parallel, config.data, config.learn, config.objective
    if not parallel.checkpoint_language:
        yield changed({"parallel.checkpoint_language": True})
    if not parallel.checkpoint_vision:
        yield changed({"parallel.checkpoint_vision": True})
    if aim.kind in PREFERENCES and aim.reference == "model":
        yield changed({"objective.reference": "cache"})
    if parallel.shard == "none" and devices > 1:
        yield changed({"parallel.shard": "full"})
    if parallel.shard != "none" and devices < config.run.batch // data.rows and config.run.device != "cpu":
        yield f"--devices {devices * 2}: shard over twice as many", config, devices * 2
    if not parallel.offload and parallel.shard != "none" and config.run.device != "cpu":
        text, smaller, on = changed({"parallel.offload": True})
        yield text + " (under torchrun)" * (devices == 1), smaller, on
    compared = isinstance(shapes.config, PairConfig)  # with fewer rows at once, it is with fewer others
    if data.batching != "packed" and data.rows > 1 and not compared:
        yield changed({"data.rows": data.rows // 2 if data.rows % 2 == 0 else 1})
    tiles = shapes.tiles if data.max_tiles is None else data.max_tiles
    if tiles > 1 and data.dynamic is not False and isinstance(shapes.config, ChatConfig):
        packed = {"data.pack_tiles": max(1, data.pack_tiles // 2)} if data.batching == "packed" else {}
        yield changed({"data.max_tiles": tiles // 2, **packed})
    if isinstance(shapes.config, ChatConfig):
        shorter = {"data.max_length": data.max_length // 2}
        if data.batching == "packed":
            shorter = {"data.pack_tokens": data.pack_tokens // 2, "data.pack_tiles": max(1, data.pack_tiles // 2)}
            shorter["data.max_length"] = min(data.max_length, data.pack_tokens // 2)
        yield changed(shorter)
    if isinstance(shapes.config, VisionConfig):
        return
    if not learn.language_lora and learn.language:
        lora = {"learn.vision": False, "learn.projector": False, "learn.language_lora": 16}
        yield changed(lora)
        yield changed(lora | {"learn.quantize": "int4"})
    elif learn.language_lora and learn.quantize is None:
        yield changed({"learn.quantize": "int4"})


class _Estimate:
    """The sums of one config on so many devices."""

    def __init__(self, config: TrainConfig, devices: int, shapes: Shapes) -> None:
        self.config, self.devices, self.shapes = config, devices, shapes
        self.parts = parts_of(shapes.config, config.learn, shapes.head, shapes.family)
        self.by_name = {part.name: part for part in self.parts}
        self.sharded = config.parallel.shard != "none" and (devices > 1 or config.parallel.offload)
        within = min(devices, NODE) if config.parallel.shard == "hybrid" else devices
        self.shards = within if self.sharded else 1
        self.products = BYTES[config.run.dtype]
        self.residual = self.products if self.sharded else FP32
        model = shapes.config
        self.vision: VisionConfig = model if isinstance(model, VisionConfig) else model.vision
        self.text: TextConfig | None = None if isinstance(model, VisionConfig) else model.text
        self.load = self._load()

    def _load(self) -> Load:
        data, model = self.config.data, self.shapes.config
        micro = ceil(self.config.run.batch / (data.rows * self.devices))
        if isinstance(model, VisionConfig):
            return Load(0, data.rows, 0, micro)
        if isinstance(model, PairConfig):
            aim = self.config.objective
            if aim.kind == "pretrain_pair" and not aim.matching and not aim.captioning:  # the queries are not asked
                return Load(data.rows * data.text_length, data.rows, data.text_length, micro)
            length = model.queries + data.text_length
            return Load(PAIR_ROWS * data.rows * length, data.rows, length, micro)
        if data.batching == "packed":
            longest = min(data.max_length, data.pack_tokens)
            return Load(data.pack_tokens, data.pack_tiles, longest, micro)
        answers = 2 if self.config.objective.kind in PREFERENCES else 1
        most = 1 if data.dynamic is False else self.shapes.tiles if data.max_tiles is None else data.max_tiles
        thumbnail = self.shapes.thumbnail if data.thumbnail is None else data.thumbnail
        tiles = most + (thumbnail and most > 1)
        tiles = min(tiles, data.max_length // model.slots_per_tile)
        return Load(answers * data.rows * data.max_length, data.rows * tiles, data.max_length, micro)

    def _keeps(self, part: str) -> Keeps:
        learn, counted = self.config.learn, self.by_name.get(part)
        adapted = counted is not None and counted.adapters > 0
        return Keeps(
            products=self.products,
            residual=self.residual,
            whole=counted is not None and counted.learning > 0 and not adapted,
            adapters=adapted,
            dropout=0 if not (adapted and learn.lora_dropout) else FP32 if self.config.run.device == "cpu" else 1,
            packed=self.config.data.batching == "packed",
        )

    # --- what stays -----------------------------------------------------------------------------------------------

    def _held(self) -> dict[str, float]:
        """Weights, gradients and moments of one device, wherever they are."""
        parameters = sum(part.parameters + part.adapters for part in self.parts)
        learning = sum(part.learning for part in self.parts)
        packed = sum(part.under_adapters for part in self.parts) if self.config.learn.quantize else 0
        half = self._halved() - (0 if self.config.learn.dora else packed)
        each = cost.QUANTISED[self.config.learn.quantize] if self.config.learn.quantize else 0.0
        waits = self.sharded and self.devices > 1 and self.load.micro > 1 and FP32 * learning <= POSTPONED_BYTES
        return {
            "weights": (FP32 * (parameters - packed) - HALF * max(half, 0)) / self.shards + packed * each,
            "gradients": FP32 * learning / (1 if waits else self.shards),
            "moments of AdamW": cost.ADAM * learning / self.shards,
        }

    def _halved(self, name: str | None = None) -> int:
        """Parameters, of one part or all, that are held in 16 bit, because they come so and do not learn."""
        narrow = self.shapes.narrow and self.config.run.dtype != "fp32"
        return sum(part.frozen for part in self.parts if name in (None, part.name)) if narrow else 0

    def host(self) -> float:
        return sum(self._held().values()) if self.config.parallel.offload else 0.0

    def _copies(self) -> float:
        """Weights in the type of the products: gathered from shards, or made by autocast for what is at work."""
        p, text = self.products, self.text
        decoder = 0 if text is None else (cost.text_products(text) - text.vocab * text.dim) // max(text.layers, 1)
        tower = cost.vision_products(self.vision) // self.vision.layers
        layer = max(decoder, tower)
        if self.sharded:
            return p * sum(part.embeddings for part in self.parts) + p * self._head() + (2 * p + FP32) * layer
        if p == FP32:
            return 0.0
        all_of = 0.0
        for part, recomputed in (
            ("language", self.config.parallel.checkpoint_language),
            ("vision", self.config.parallel.checkpoint_vision),
        ):
            counted = self.by_name.get(part)
            if counted is not None and not recomputed and (part == "language" or counted.learning):
                spoken = max(0, self._halved(part) - counted.embeddings)  # used as they are held
                all_of += p * (counted.parameters - counted.embeddings - spoken)
        whole = any(part.learning > part.adapters for part in self.parts)
        return all_of or (p * (layer + self._head()) if whole or not self._halved() else 0.0)

    def _head(self) -> int:
        return 0 if self.text is None else self.text.vocab * self.text.dim

    # --- what comes and goes --------------------------------------------------------------------------------------

    def memory(self) -> dict[str, float]:
        """Bytes of one device at the peak, by what they are for."""
        held = {} if self.config.parallel.offload and self.sharded else self._held()
        vision, projector, decoder, working = self._activations()
        aim = self.config.objective
        if aim.kind in PREFERENCES and aim.reference == "model":
            narrow = self.shapes.narrow and self.config.run.dtype != "fp32"
            halved = HALF * narrow * sum(part.products for part in self.parts)
            held["reference model"] = (FP32 * sum(part.parameters for part in self.parts) - halved) / self.shards
        if "gradients" in held:
            kept = vision + projector + decoder
            whole = held["gradients"]
            if self.load.micro == 1:
                # They grow while activations go: the peak is where the backward pass begins, or where it ends.
                first = FP32 * self._head() / self.shards if self._keeps("language").whole else 0.0
                held["gradients"] = max(min(first, whole), whole - kept)
            # After the backward pass the optimiser works on all of them; its temporaries are as large.
            beside = 0.0 if self.config.run.device == "cpu" else cost.STEP * sum(p.learning for p in self.parts)
            working = max(working, whole + beside / self.shards - kept - held["gradients"])
        return held | {
            "weights at work": self._copies(),
            "activations: tower": vision,
            "activations: projector": projector,
            "activations: language": decoder,
            "at work in one layer, logits or step": working,
        }

    def _activations(self) -> tuple[float, float, float, float]:
        """Kept by the tower, the projector and the decoder; and the most that comes on top for a moment."""
        parallel, load, model = self.config.parallel, self.load, self.shapes.config
        patches = load.tiles * cost.patches_of(model)
        keeps = self._keeps("vision")
        block = cost.vision_layer(self.vision, keeps)
        inner = cost.WORKING * self.products * self.vision.mlp_dim
        tower, working = 0.0, patches * inner
        if keeps.whole or keeps.adapters:
            stays = self.residual * self.vision.dim if parallel.checkpoint_vision else block
            tower = patches * stays * self.vision.layers
            working = patches * (inner + (block if parallel.checkpoint_vision else 0))
        if self.text is None:
            return tower, 0.0, 0.0, working
        keeps = self._keeps("language")
        layers = [cost.text_layer(self.text, keeps, i) for i in range(self.text.layers)]
        stays = self.residual * self.text.dim * len(layers) if parallel.checkpoint_language else sum(layers)
        # embedded, with the pictures in their slots, and normalised at the end
        decoder = load.tokens * (stays + self.text.dim * (3 * self.residual + FP32))
        inner = cost.WORKING * self.products * self._widest(self.text)
        recomputed = max(layers) if parallel.checkpoint_language else 0
        learnt_at_once = min(1.0, load.tokens / cost.LOGIT_CHUNK)
        head = learnt_at_once * cost.logits(self.text.vocab, self.products)
        working = max(working, load.tokens * (recomputed + inner), head)
        slots = load.tiles * model.slots_per_tile if isinstance(model, ChatConfig) else 0
        shuffled = slots * cost.projector(model, self._keeps("projector")) if isinstance(model, ChatConfig) else 0.0
        return tower, shuffled, decoder, working

    @staticmethod
    def _widest(text: TextConfig) -> int:
        return text.mlp_dim if text.experts is None else text.experts.active * text.experts.dim

    # --- operations -----------------------------------------------------------------------------------------------

    def operations(self) -> float:
        """Of one step on all devices: forward, backward, and what is recomputed."""
        load, parallel, aim = self.load, self.config.parallel, self.config.objective
        patches = cost.patches_of(self.shapes.config)
        tower = (
            load.tiles * patches * (2 * cost.vision_products(self.vision) + cost.vision_attention(self.vision, patches))
        )
        total = tower * self._passes("vision", parallel.checkpoint_vision)
        again = aim.kind in PREFERENCES and aim.reference != "cache"
        if again and aim.reference == "model":
            total += tower
        if self.text is not None:
            decoder = load.tokens * (2 * cost.text_products(self.text) + cost.text_attention(self.text, load.longest))
            total += decoder * (self._passes("language", parallel.checkpoint_language) + again)
        return total * load.micro * self.devices

    def _passes(self, part: str, recomputed: bool) -> int:
        """Forward; the gradient of what goes in, and of weights; forward again."""
        keeps = self._keeps(part)
        if part == "vision" and not (keeps.whole or keeps.adapters):
            return 1
        return 2 + keeps.whole + recomputed
