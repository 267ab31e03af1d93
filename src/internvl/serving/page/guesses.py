"""Wrong keys, and how long whoever sends them waits for the answer. Whoever has the right one never waits.

A right key that waited behind wrong ones could be kept out by any stranger of the same address. So nothing here keeps
guesses few: keys of sixteen letters and more do. It spares the server those who try all the same.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

FREE = 3
"""Wrong keys from one address that are answered at once: people mistype."""
FIRST_SECONDS, LONGEST_SECONDS = 0.25, 4.0
"""For which the next answer waits; twice as long each time, up to the longest."""
FORGOTTEN_SECONDS = 60.0
WAITING, WAITING_ALL = 4, 64
"""Answers that wait at a time: of one address, and of all."""
ADDRESSES = 4096
"""That are remembered; the one that was quiet longest is forgotten first."""


@dataclass
class _Tried:
    wrong: int = 0
    last: float = 0.0
    waiting: int = 0

    @property
    def seconds(self) -> float:
        """For which the answer to the newest wrong key waits."""
        more = self.wrong - FREE - 1
        return min(FIRST_SECONDS * 2.0 ** min(more, 60), LONGEST_SECONDS) if more >= 0 else 0.0


class Guesses:
    """Wrong keys by address."""

    def __init__(self) -> None:
        self._tried: OrderedDict[str, _Tried] = OrderedDict()
        self._waiting = 0

    async def wrong(self, client: str) -> int | None:
        """One more from this address. Waits, or says at once after how many seconds the next may come, where enough
        answers wait already."""
        tried = self._of(network_of(client), time.monotonic())
        if tried.waiting >= WAITING or self._waiting >= WAITING_ALL:
            return math.ceil(LONGEST_SECONDS)
        tried.wrong += 1
        tried.waiting += 1
        self._waiting += 1
        try:
            if tried.seconds:
                await asyncio.sleep(tried.seconds)
        finally:
            tried.waiting -= 1
            self._waiting -= 1
        return None

    def _of(self, network: str, now: float) -> _Tried:
        tried = self._tried.setdefault(network, _Tried())
        self._tried.move_to_end(network)
        while len(self._tried) > ADDRESSES:
            self._tried.popitem(last=False)
        if tried.last < now - FORGOTTEN_SECONDS:
            tried.wrong = 0
        tried.last = now
        return tried


def network_of(client: str) -> str:
    """What one person has of addresses: of IPv6 a network of 64 bits.

    >>> network_of("2001:db8::1:2"), network_of("10.0.0.1")
    ('2001:db8::', '10.0.0.1')
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)).network_address)
