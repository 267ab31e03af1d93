"""A server under mixed traffic for as long as you like: does its memory stay where it is?

    python -m benchmarks.soak --minutes 60 > soak.md     # a row a minute, and a verdict; exit status 1: it grew

Texts, pictures that are new or known, streams, several answers, schemas, vectors, requests that are refused, requests
that nobody waits for. What is kept on purpose (features of pictures, keys and values) is full after a while: only what
comes after the first third is judged. A line is laid through each process's memory there; it grows where that line
rises by more than `--bound` in the whole time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.e2e.served import running, until
from tests.e2e.traffic import EXPECTED, Traffic, grown

MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--bound", type=float, default=24.0, help="MiB that memory may rise by")
    arguments = parser.parse_args()
    samples: list[tuple[float, dict[str, int]]] = []
    with running("--slots", "4") as served:
        traffic = Traffic(served, arguments.clients)
        names = list(served.held())
        print(f"`{' '.join(sys.argv)}`\n\n| minute | requests | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
        traffic.begin()
        began, told = time.monotonic(), -1
        while (at := time.monotonic() - began) < 60 * arguments.minutes:
            samples.append((at, served.held()))
            if int(at // 60) > told:
                told = int(at // 60)
                shown = [f"{value / MIB:.1f} MiB" if name.endswith("bytes") else str(value)
                         for name, value in samples[-1][1].items()]  # fmt: skip
                print(f"| {told} | {sum(traffic.outcomes.values())} | {' | '.join(shown)} |", flush=True)
            time.sleep(arguments.every)
        traffic.end()
        until(served.is_idle, "nothing is answered any more", patience=120)
        restarts = served.metric("internvl_backend_worker_restarts"), served.metric("internvl_backend_reader_restarts")
    rose = grown(samples, arguments.bound * MIB)
    odd = {kind: count for kind, count in traffic.outcomes.items() if kind not in EXPECTED}
    print(f"\n{json.dumps(dict(traffic.outcomes))}; restarts of worker and readers: {restarts}")
    print("\nflat" if not rose else f"\ngrew: {', '.join(f'{name} by {rise:,.0f}' for name, rise in rose.items())}")
    return 1 if rose or odd else 0


if __name__ == "__main__":
    sys.exit(main())
