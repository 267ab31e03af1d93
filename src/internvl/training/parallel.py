"""Many ranks as one: sharding, recomputation and compilation of a model, and the sums that make the objective exact.

    alone, or shard = none      every rank has all weights; the loop's autocast makes the products 16 bit
    shard = full, hybrid        FSDP2: each rank keeps its rows of every weight; a layer is gathered when it is used, in
                                the training type, and its gradients are added up in fp32

Weights are kept in fp32, but for frozen ones that came in 16 bit (`training.held`).

Gradients are summed over ranks, never averaged: each loss is already a share of the whole step.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from internvl.errors import UsageError
from internvl.models.chat import ChatModel
from internvl.models.decoder import Decoder, DecoderLayer
from internvl.models.heads import Probe
from internvl.models.moe import MixtureOfExperts
from internvl.models.qllama import QLlama, QLlamaLayer
from internvl.models.vit import VisionBlock, VisionTransformer
from internvl.training.config import Parallel
from internvl.training.held import steady
from internvl.training.world import World, start_world

# fmt: off
__all__ = [
    "World", "start_world", "parallelise",
    "gathered", "last_backward", "reduce_gradients", "clip", "rng_state", "set_rng_state",
]
# fmt: on

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYERS = (DecoderLayer, QLlamaLayer, VisionBlock)
METHODS = (
    "token_logprobs", "image_features", "prefill", "step",
    "pair_outputs", "encode_image", "encode_text", "query_features", "text_features",
)  # fmt: skip
"""What is called on a model besides `forward`; each gathers the weights that no layer owns."""
POSTPONED_BYTES = 2 << 30
"""Gradients of accumulated micro-batches are exchanged once where keeping them whole takes at most this much a rank."""


def parallelise(model: nn.Module, parallel: Parallel, world: World, *, dtype: str | torch.dtype) -> nn.Module:
    """Make a model ready for its world: recomputation, compilation, sharding. Changes and returns the model.

    Call it after adapters are put on and what learns is chosen, before the optimiser is made. Names of parameters stay.
    Every rank begins with the weights of rank 0, and must use the same parameters in every step. `dtype` is that of the
    products of a sharded model; otherwise it is the business of autocast, and weights stay as they are.

    >>> model = parallelise(model, Parallel(), world, dtype="bf16")  # doctest: +SKIP
    """
    kind = DTYPES[dtype] if isinstance(dtype, str) else dtype
    recompute(model, parallel)
    if parallel.compile:
        compile_parts(model)
    if isinstance(model, ChatModel):
        # Ranks that have only text must meet the others in the tower. Where it learns, a step without pictures treats
        # it alike on one rank: its gradients are zeros, which decay and moments take note of.
        model.always_look = world.size > 1 or any(p.requires_grad for p in model.vision_model.parameters())
    if world.size > 1:
        for module in model.modules():
            if isinstance(module, Probe):
                module.together = functools.partial(_together, world)
        _equal_weights(model)
    if parallel.shard != "none" and dist.is_initialized():
        return _shard(model, parallel, world, kind)
    if parallel.offload:
        raise UsageError(
            "parallel.offload moves shards between host and device, and nothing is sharded here; start with torchrun "
            "(--nproc-per-node 1 is enough) and parallel.shard=full"
        )
    steady(model)
    return model.to(world.device)


def recompute(model: nn.Module, parallel: Parallel) -> None:
    """Say of every tower and decoder in the model whether its layers are recomputed in the backward pass."""
    for module in model.modules():
        if isinstance(module, VisionTransformer):
            module.checkpointing = parallel.checkpoint_vision
        elif isinstance(module, Decoder | QLlama):
            module.checkpointing = parallel.checkpoint_language


def compile_parts(model: nn.Module) -> None:
    """Compile, in place, what has few shapes and no branches: blocks of the tower, norms and MLPs of decoders.

    Attention of a decoder stays eager: packed rows have other segments in every batch, and each would be compiled anew.
    So does a mixture of experts, whose shapes follow from the data. Forward hooks stay outside.
    """
    for module in model.modules():
        if isinstance(module, VisionBlock) and module.drop_path.rate == 0:
            _compile(module)
        elif isinstance(module, VisionBlock):  # each block has a rate of its own, and would be compiled anew
            _compile(module.attn)
            _compile(module.mlp)
        elif isinstance(module, DecoderLayer | QLlamaLayer):
            _compile(module.input_layernorm)
            _compile(module.post_attention_layernorm)
            if not isinstance(module.mlp, MixtureOfExperts):
                _compile(module.mlp)


def _compile(module: nn.Module) -> None:
    setattr(module, "forward", torch.compile(module.forward))  # noqa: B010  # an attribute that shadows the method


def _equal_weights(model: nn.Module) -> None:
    """What one rank drew at random, all have."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != "meta":
            dist.broadcast(tensor.detach(), src=0)


def _together(world: World, features: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks, and where those of this one begin."""
    counts: list[int] = world.gather_json(len(features))
    return world.gather(features), sum(counts[: world.rank])


# --- sharding ---------------------------------------------------------------------------------------------------------


def _shard(model: nn.Module, parallel: Parallel, world: World, dtype: torch.dtype) -> nn.Module:
    """FSDP2: a group for every layer; the root keeps the rest, which is called here and there: embeddings, head.

    The head is applied in chunks, whose number differs between ranks; as a group of its own it would make them wait for
    each other forever. So the root group is gathered once, for the whole of a forward and backward pass.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UsageError(
            f"torch {torch.__version__} cannot add up the gradients of shards as they are; upgrade torch, or use "
            "parallel.shard=none"
        )
    on_gpu = world.device.type == "cuda"
    # Plain numbers cannot be cut into rows, and quantised weights are not gathered in the training type.
    whole = {p for p in model.parameters() if p.ndim == 0 or not p.dtype.is_floating_point}
    # The head of a classifier is small, and normalises in fp32.
    whole |= {p for module in model.modules() if isinstance(module, Probe) for p in module.parameters()}
    for parameter in whole:
        parameter.data = parameter.data.to(world.device)
    shard = functools.partial(
        fully_shard,
        mesh=_mesh(parallel, world),
        ignored_params=whole,
        mp_policy=MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
        # on a CPU weights are in host memory already
        offload_policy=CPUOffloadPolicy() if parallel.offload and on_gpu else OffloadPolicy(),
    )
    for layer in [module for module in model.modules() if isinstance(module, LAYERS)]:
        shard(layer)
    shard(model)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    inside: list[bool] = []
    for name in METHODS:
        if hasattr(model, name):
            _enters(model, name, inside)
    return model


def _mesh(parallel: Parallel, world: World) -> Any:
    """All ranks in a row; `hybrid`: a row for each machine, over which weights are cut, and copies from row to row."""
    from torch.distributed.device_mesh import init_device_mesh

    if parallel.shard == "full" or world.node_size == world.size:
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("rows",))
    if world.size % world.node_size:
        raise UsageError(
            f"parallel.shard is hybrid, and {world.size} ranks are not the same number on each machine (here "
            f"{world.node_size}); start as many on each, or use parallel.shard=full"
        )
    sizes = (world.size // world.node_size, world.node_size)
    return init_device_mesh(world.device.type, sizes, mesh_dim_names=("copies", "rows"))


def _enters(model: nn.Module, name: str, inside: list[bool]) -> None:
    """Make a method gather the root's weights as `forward` does; once, however these methods call each other."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    plain: Callable[..., Any] = getattr(model, name)
    register_fsdp_forward_method(model, name)
    entering: Callable[..., Any] = getattr(model, name)

    @functools.wraps(plain)
    def method(*args: Any, **kwargs: Any) -> Any:
        if inside:
            return plain(*args, **kwargs)
        inside.append(True)
        try:
            return entering(*args, **kwargs)
        finally:
            inside.pop()

    setattr(model, name, method)


@contextmanager
def gathered(model: nn.Module) -> Generator[None]:
    """Between these lines every rank holds all weights, in the training type, and its forward passes wait for nobody.

    For answers, whose lengths differ between ranks. It takes the memory of the whole model on each.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule):
        yield
        return
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        model.set_reshard_after_forward(True)
        model.set_reshard_after_forward(False, recurse=False)  # the root, as it was
        for part in parts:
            part.reshard()


# --- gradients --------------------------------------------------------------------------------------------------------


@contextmanager
def last_backward(model: nn.Module, world: World, *, last: bool) -> Generator[None]:
    """Around forward and backward of each micro-batch of a step: before the last one, nothing needs to be exchanged.

    Gradients that wait are whole on every rank. Where that takes more than `POSTPONED_BYTES`, each micro-batch is
    exchanged within the shards at once (and between copies only at the end): more traffic, far less memory.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule) or world.size == 1:
        yield
        return
    waits = sum(4 * p.numel() for p in model.parameters() if p.requires_grad) <= POSTPONED_BYTES
    model.set_requires_gradient_sync(last or not waits)
    model.set_requires_all_reduce(last)
    yield


@torch.no_grad()
def reduce_gradients(model: nn.Module, world: World) -> None:
    """After the last backward pass of a step: add up, over all ranks, the gradients of what is not sharded.

    A gradient that some ranks lack counts as zero there; one that all lack stays away, as it would on one rank.
    """
    if world.size == 1:
        return
    plain = [p for p in model.parameters() if p.requires_grad and not is_sharded(p)]
    if not plain:
        return
    have = torch.tensor([p.grad is not None for p in plain], dtype=torch.int32, device=world.device)
    dist.all_reduce(have)
    waiting: list[Any] = []
    for parameter, count in zip(plain, have.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if count:
            waiting.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in waiting:
        work.wait()


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], largest: float, world: World) -> float:
    """Scale all gradients so that their norm, over all shards together, is at most `largest`; returns the norm before.

    0 only measures. A norm that is not finite changes nothing: whoever asked decides. The same bits on every rank.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    squares = [(_norm(_local(grad)) ** 2 / _copies(grad, world)).to(world.device) for grad in grads]
    own = float(torch.stack(squares).sum()) if squares else 0.0
    norm = world.sum({"squares": own})["squares"] ** 0.5
    if largest and largest < norm < float("inf"):
        for grad in grads:
            _local(grad).mul_(largest / norm)
    return norm


def _norm(tensor: Tensor) -> Tensor:
    """In fp64, so that it does not depend on how the rows are divided; MPS has none."""
    kind = torch.float32 if tensor.device.type == "mps" else torch.float64
    return torch.linalg.vector_norm(tensor, dtype=kind)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only some rows of it."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _local(tensor: Tensor) -> Tensor:
    """The rows that this rank holds, as a view."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copies(tensor: Tensor, world: World) -> int:
    """How many ranks hold the same part of it."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return world.size
    sizes = (tensor.device_mesh.size(i) for i, place in enumerate(tensor.placements) if place.is_shard())
    return world.size // functools.reduce(int.__mul__, sizes, 1)


# --- random numbers ---------------------------------------------------------------------------------------------------


def rng_state() -> dict[str, str]:
    """The state of this process's generators (CPU, and its GPU), as text."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: base64.b64encode(state.numpy().tobytes()).decode() for name, state in states.items()}


def set_rng_state(state: Mapping[str, str]) -> None:
    """Go on drawing where `rng_state` was asked; a device that is not here is left out."""
    states = {
        name: torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for name, text in state.items()
    }
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
