"""What headers say of who asks and of whom: names in Host, keys in Authorization."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence


def host_of(header: str) -> str:
    """The name in a Host header, without its port.

    >>> host_of("[::1]:8000"), host_of("Localhost:8000")
    ('::1', 'localhost')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower().rstrip(".")


def key_of(header: str, *, basic: bool = False) -> bytes | None:
    """The key of an Authorization header: Bearer KEY; with `basic` also Basic, with the key as the password.

    >>> key_of("Bearer sk-1234"), key_of("Basic eDpzay0xMjM0"), key_of("Basic eDpzay0xMjM0", basic=True)
    (b'sk-1234', None, b'sk-1234')
    """
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape") or None
    if basic and scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2] or None
        except ValueError:
            return None
    return None


def known(key: bytes, keys: Sequence[bytes]) -> bytes | None:
    """The one of these that a key is. All are compared, each in constant time."""
    found = None
    for one in keys:
        if hmac.compare_digest(key, one):
            found = one
    return found


def digest(key: bytes) -> str:
    """What logs call the owner of a key."""
    return hashlib.sha256(key).hexdigest()[:12]
