"""Speed at the shape of InternVL2.5-1B, beside transformers' own InternVL, interleaved in one run.

    python benchmarks/speed.py forward --threads 2     # ViT, prefill, decode; random fp32 weights
    python benchmarks/speed.py load                    # import, load and peak memory, each in a fresh process

Both sides get the same weights, the same inputs and the same number of threads; each measurement alternates between
them, and what is printed is the ratio of their medians (above 1: ours is faster). Needs about 9 GB of memory (`load`:
4 GB of disk) and `pip install internvl[parity]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from internvl import zoo
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig
from internvl.models.init import initialise

ROW = "InternVL2_5-1B"


def transformers_model(config: ChatConfig, **changes: object) -> torch.nn.Module:
    """Their InternVL of the same shape, with whatever weights it starts with."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

    vision, text = config.vision, config.text
    theirs = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=vision.dim, num_hidden_layers=vision.layers, num_attention_heads=vision.heads,
            intermediate_size=vision.mlp_dim, image_size=[vision.image_size] * 2, patch_size=[vision.patch_size] * 2,
            attention_bias=vision.qkv_bias, norm_type=vision.norm, layer_norm_eps=vision.eps, use_mean_pooling=True,
        ),
        text_config=Qwen2Config(
            vocab_size=text.vocab, hidden_size=text.dim, num_hidden_layers=text.layers, intermediate_size=text.mlp_dim,
            num_attention_heads=text.heads, num_key_value_heads=text.kv_heads, rms_norm_eps=text.eps,
            max_position_embeddings=text.max_positions, tie_word_embeddings=False,
        ),
        image_token_id=config.image_token, downsample_ratio=config.downsample, tie_word_embeddings=False,
    )  # fmt: skip
    return InternVLForConditionalGeneration(theirs).eval()


def interleaved(ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, and the ratio of the medians; the first of each is thrown away."""
    runs, seconds = (ours, theirs), ([], [])
    for repeat in range(repeats + 1):
        for side in (0, 1) if repeat % 2 else (1, 0):
            taken = runs[side]()
            if repeat:
                seconds[side].append(taken)
    a, b = statistics.median(seconds[0]), statistics.median(seconds[1])
    return a, b, b / a


def timed(run: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return measure


@torch.inference_mode()
def forward(threads: int, repeats: int) -> None:
    from transformers import DynamicCache

    torch.set_num_threads(threads)
    config = zoo.find(ROW).config
    assert isinstance(config, ChatConfig)
    model, peer = ChatModel(config).eval(), transformers_model(config)
    initialise(model)
    print(f"{ROW}, fp32, {threads} threads, torch {torch.__version__}\n")
    print("| what | ours s | transformers s | ratio |\n|---|---|---|---|")

    pixels = torch.randn(1, 3, 448, 448)
    row("ViT and projector, one tile", interleaved(
        timed(lambda: model.image_features(pixels)),
        timed(lambda: peer.model.get_image_features(pixel_values=pixels)), repeats))  # fmt: skip
    for tokens in (320, 2368):
        ids = torch.randint(0, 1000, (1, tokens))

        def ours(ids: torch.Tensor = ids) -> object:
            return model.prefill(ids, cache=KVCache(config.text, 1, ids.shape[1]))

        def theirs(ids: torch.Tensor = ids) -> object:
            return peer(input_ids=ids, past_key_values=DynamicCache(config=peer.config), logits_to_keep=1)

        row(f"prefill of {tokens} tokens", interleaved(timed(ours), timed(theirs), repeats))
    for rows in (1, 4):
        row(f"decode, batch {rows}, a step", decode(model, peer, rows, repeats))


def decode(model: ChatModel, peer: torch.nn.Module, rows: int, repeats: int) -> tuple[float, float, float]:
    """A step after 320 tokens: 8 steps a measurement."""
    from transformers import DynamicCache

    ids, token, steps = torch.randint(0, 1000, (rows, 320)), torch.zeros(rows, 1, dtype=torch.long), 8
    ours_cache = KVCache(model.config.text, rows, 320 + steps)
    model.prefill(ids, cache=ours_cache)
    theirs_cache = DynamicCache(config=peer.config)
    peer(input_ids=ids, past_key_values=theirs_cache, logits_to_keep=1)

    def ours() -> float:
        ours_cache.truncate(torch.full((rows,), 320))
        return timed(lambda: [model.step(token, cache=ours_cache) for _ in range(steps)])() / steps

    def theirs() -> float:
        if (more := theirs_cache.get_seq_length() - 320) > 0:
            theirs_cache.crop(-more)
        return timed(lambda: [peer(input_ids=token, past_key_values=theirs_cache) for _ in range(steps)])() / steps

    return interleaved(ours, theirs, repeats)


def row(what: str, result: tuple[float, float, float]) -> None:
    print(f"| {what} | {result[0]:.4f} | {result[1]:.4f} | {result[2]:.2f} |", flush=True)


PROBE = """
import json, resource, sys, time
start = time.perf_counter()
{imports}
imported = time.perf_counter()
model = {load}
loaded = time.perf_counter()
total = sum(p.float().sum().item() for p in model.parameters())  # every page was read
nbytes = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps([imported - start, loaded - imported, time.perf_counter() - imported,
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, nbytes]))
"""
SIDES = {
    "ours": ("import internvl", "internvl.load(sys.argv[1], dtype='{dtype}')"),
    "transformers": (
        "from transformers import InternVLForConditionalGeneration\nimport torch",
        "InternVLForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.{dtype})",
    ),
}


def load(repeats: int, dtype: str) -> None:
    """The same bf16 folder in the transformers layout is loaded by both."""
    config = zoo.find(ROW).config
    assert isinstance(config, ChatConfig)
    with tempfile.TemporaryDirectory() as folder:
        transformers_model(config).to(torch.bfloat16).save_pretrained(folder)
        results: dict[str, list[list[float]]] = {side: [] for side in SIDES}
        for _ in range(repeats + 1):
            for side, (imports, call) in SIDES.items():
                code = PROBE.format(imports=imports, load=call.format(dtype=dtype))
                out = subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True)
                results[side].append(json.loads(out.stdout.splitlines()[-1]))
    print(f"{ROW}, a bf16 folder loaded as {dtype}, torch {torch.__version__}\n")
    print("| side | import s | load s | load and read all s | peak memory / weights |\n|---|---|---|---|---|")
    for side, runs in results.items():
        imported, loaded, read, peak, weights = (statistics.median(column) for column in zip(*runs[1:], strict=True))
        print(f"| {side} | {imported:.2f} | {loaded:.2f} | {read:.2f} | {peak / weights:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["forward", "load"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    if arguments.what == "forward":
        forward(arguments.threads, arguments.repeats)
    else:
        load(arguments.repeats, arguments.dtype)
