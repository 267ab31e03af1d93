"""A server under mixed traffic for as long as you like: does its memory stay where it is?

    python -m benchmarks.soak --minutes 60 > soak.md     # a row a minute, and a verdict: exit status 0 or 1

Texts, pictures that are new or known, streams, several answers, schemas, vectors, requests that are refused, requests
that nobody waits for. What is kept on purpose (features of pictures, keys and values) is full after a while: only what
comes after the first third is judged. A line is laid through each process's memory there; it grows where that line
rises by more than `--bound` in the whole time. Memory is what `tests.e2e.served.memory` says: a process's own pages in
RAM and in swap, and not those of files, so that a system that takes idle pages away changes nothing.
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
        print(f"`{' '.join(['python -m benchmarks.soak', *sys.argv[1:]])}`\n")
        print(f"| minute | requests | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
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
    faults = [f"{name} grew by {rise:,.0f}" for name, rise in rose.items()]
    faults += [f"{count} x {kind}" for kind, count in odd.items()]
    faults += [f"the worker was started again {restarts[0]:.0f} times"] if restarts[0] else []  # which hides a leak
    print("\nflat" if not faults else f"\nnot as it should be: {'; '.join(faults)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
