"""An order of many numbers that needs no memory: a keyed permutation, computed for the one number asked for."""

from __future__ import annotations

import hashlib
import math

_ROUNDS = 6
_MASK = 2**64 - 1


class Permutation:
    """The numbers 0 to n - 1 in an order that a key determines, in constant memory.

    A Feistel network over the smallest a x b that holds n, a and b about its root (Black and Rogaway, "Ciphers with
    arbitrary finite domains", 2002: here each round adds, modulo a and b in turn, a hash of the other half); what falls
    between n and a x b is put through again.

    >>> order = Permutation(5, "some key")
    >>> sorted(order(number) for number in range(5))
    [0, 1, 2, 3, 4]
    """

    def __init__(self, n: int, key: str) -> None:
        self._n = n
        self._a = max(1, math.isqrt(max(0, n - 1)) + 1)
        self._b = max(1, -(-n // self._a))
        digest = hashlib.blake2b(f"{key}/{n}".encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * at : 8 * at + 8], "little") for at in range(_ROUNDS)]

    def __call__(self, number: int) -> int:
        if not 0 <= number < self._n:
            raise IndexError(f"{number} is not among 0 to {self._n - 1}")
        while True:
            number = self._once(number)
            if number < self._n:
                return number

    def _once(self, number: int) -> int:
        left, right = divmod(number, self._b)  # of a and b values
        for at, key in enumerate(self._keys):
            if at % 2:
                right = (right + _mixed(left ^ key)) % self._b
            else:
                left = (left + _mixed(right ^ key)) % self._a
        return left * self._b + right


def _mixed(x: int) -> int:
    """A hash of 64 bits (the finaliser of SplitMix64)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
