"""How fast few rows are multiplied: every way of writing the product, in GB/s of weight read.

    python benchmarks/linear.py --threads 2

The weights of one shape are cycled so that none is found in a cache. The rule of `internvl.models.linear` is marked *.
"""

from __future__ import annotations

import argparse
import time

import torch

from internvl.models.linear import multiply, product_for

SHAPES = {"attention": (896, 896), "MLP up": (4864, 896), "MLP down": (896, 4864), "head": (151674, 896)}
PRODUCTS = [("linear", 1), ("left", 1), ("left", 2), ("left", 8), ("right", 2), ("right", 8)]
BYTES = 200_000_000


@torch.inference_mode()
def main(threads: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    print(f"fp32, {threads} threads, torch {torch.__version__}; GB/s, best of {repeats}\n")
    print("| projection | rows | " + " | ".join(f"{kind} {s}" for kind, s in PRODUCTS) + " |")
    print("|---|---" + "|---" * len(PRODUCTS) + "|")
    for name, (out, width) in SHAPES.items():
        weights = [torch.randn(out, width) for _ in range(max(1, BYTES // (4 * out * width)))]
        for rows in (1, 2, 4, 8):
            x, best = torch.randn(rows, width), dict.fromkeys(PRODUCTS, float("inf"))
            for _ in range(repeats):
                for product in PRODUCTS:
                    if out % product[1]:
                        continue
                    start = time.perf_counter()
                    for weight in weights:
                        multiply(weight, x, product)
                    best[product] = min(best[product], time.perf_counter() - start)
            size, chosen = 4e-9 * out * width * len(weights), product_for(rows, weights[0])
            cells = (f"{size / s:.0f}{'*' * (p == chosen)}" if s < 1e9 else "" for p, s in best.items())
            print(f"| {name} {out} x {width} | {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    main(**vars(parser.parse_args()))
