"""Fetching over http and https from an address that a stranger may have written.

The host is looked up once, every address found must be a public one, and the connection goes to exactly that address:
a name that answers differently a moment later changes nothing. Each redirect starts from the beginning. One deadline
covers everything, headers included, and what is read is counted whatever the server says about its length.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urljoin, urlsplit

from internvl.errors import MediaRefused, MediaUnreadable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from internvl.data.limits import Limits

PORTS = {"http": 80, "https": 443}
REDIRECTS = {301, 302, 303, 307, 308}
MOST_REDIRECTS = 5
CHUNK = 65536
HEADERS = {
    "Accept": "image/*, video/*, application/pdf, */*;q=0.1",
    "Accept-Encoding": "identity",  # a compressed body could grow without bound when it is unpacked
    "Connection": "close",
    "User-Agent": "internvl",
}
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
NEVER_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        # set aside after some versions of Python were made, a translation into a local network, and last a number
        # that looks public and is a cloud's own inner service
        ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16", "64:ff9b:1::/48", "168.63.129.16/32"),
    )
)

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[tuple[str, int], float], socket.socket]


@dataclass(frozen=True)
class Target:
    """A checked address: what to connect to, and what may be shown of it (no user, no password, no query)."""

    scheme: str
    host: str
    port: int
    path: str
    shown: str


def resolve(host: str, port: int) -> list[str]:
    """All numeric addresses of a host."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def connect(address: tuple[str, int], seconds: float) -> socket.socket:
    return socket.create_connection(address, timeout=seconds)


def fetch(url: str, limits: Limits, *, resolve: Resolve = resolve, connect: Connect = connect) -> bytes:
    """What is behind an http(s) address, at most `limits.bytes` of it, within `limits.seconds`.

    `limits.remote` or `limits.hosts` must allow it. Raises MediaRefused for what is not allowed and for what is over
    a limit, MediaUnreadable for what cannot be had. Looking the name up keeps to the system's own time limits.
    """
    deadline = time.monotonic() + limits.seconds
    for _ in range(MOST_REDIRECTS + 1):
        target = parse(url)
        check_allowed(target, limits)
        answer = _get(target, limits, deadline, resolve, connect)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer.location)
    raise MediaRefused(
        f"{shorten(without_secrets(url))}: reached after more than {MOST_REDIRECTS} redirects; name where they lead"
    )


def parse(url: str) -> Target:
    """Take an address apart; whatever two programs might read differently is refused."""
    shown = shorten(without_secrets(url))
    if re.search(r"[\s\x00-\x20\x7f\\]", url):
        raise MediaRefused(
            f"{shown!r}: an address has no spaces, control characters or backslashes; write %20 and so on"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise MediaRefused(f"{shown!r} is not a proper address; write a whole one, with its host") from None
    if parts.scheme not in PORTS:
        raise MediaRefused(f"{shown}: only http and https addresses are fetched; give one of these, or the file")
    if parts.username is not None or parts.password is not None:
        raise MediaRefused(f"{shown}: an address with a user or a password is not fetched; leave them out")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        path = re.sub(r"[^\x00-\x7f]", lambda found: "".join(f"%{b:02X}" for b in found[0].encode()), path)
    return Target(parts.scheme, _plain_host(host, shown), PORTS[parts.scheme] if port is None else port, path, shown)


def _plain_host(host: str, shown: str) -> str:
    """The host in the one form in which it is compared, looked up and sent."""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address("" if "%" in host else host))  # %eth0 would name one of our own cables
        except ValueError:
            raise MediaRefused(
                f"{shown}: its host is not an IPv6 address; expected one such as [2001:db8::1]"
            ) from None
    try:
        plain = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        plain = ""
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", plain):
        raise MediaRefused(f"{shown}: its host is not a host name; expected one such as example.org")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", plain.rpartition(".")[2]):  # such a host is read as a number
        try:
            return str(ipaddress.IPv4Address(plain))
        except ValueError:
            raise MediaRefused(f"{shown}: write numeric addresses in the usual form, four decimal numbers") from None
    return plain


def check_allowed(target: Target, limits: Limits) -> None:
    """Is this host on the list, or, without a list, is fetching allowed at all?"""
    if limits.hosts:
        if not any(_fits(target, entry) for entry in limits.hosts):
            raise MediaRefused(
                f"{target.shown}: this host is not on the list of allowed hosts (Limits.hosts); send the file itself"
            )
    elif not limits.remote:
        raise MediaRefused(f"{target.shown}: fetching from the network is off; Limits(remote=True) or hosts allow it")
    elif target.port != PORTS[target.scheme]:
        raise MediaRefused(f"{target.shown}: port {target.port} is not fetched from; Limits.hosts can list host:port")


def _fits(target: Target, entry: str) -> bool:
    """An entry is a host, a host:port, or *.domain for everything below a domain."""
    wanted = urlsplit(f"//{entry}")
    name = (wanted.hostname or "").removesuffix(".")
    below = name.startswith("*.") and target.host.endswith(name[1:])
    return (below or target.host == name) and target.port == (wanted.port or PORTS[target.scheme])


def is_public(address: str) -> bool:
    """Is this numeric address one of the open internet, and not of this machine, its network or its cloud?

    >>> is_public("93.184.216.34"), is_public("169.254.169.254"), is_public("::ffff:127.0.0.1")
    (True, False, False)
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None or found in NAT64:  # the connection goes to the IPv4 address inside
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.scope_id is not None or found.sixtofour is not None or found.teredo is not None:
            return False
    special = found.is_private or found.is_multicast or found.is_reserved or found.is_unspecified
    return found.is_global and not special and not any(found in network for network in NEVER_PUBLIC)


def _open(target: Target, limits: Limits, deadline: float, resolve: Resolve, connect: Connect) -> socket.socket:
    """A connection to an address that was looked up once and judged."""
    try:
        addresses = resolve(target.host, target.port)
    except (OSError, UnicodeError) as error:
        raise MediaUnreadable(f"{target.shown}: there is no such host; check the address") from error
    if not limits.private and not (addresses and all(is_public(address) for address in addresses)):
        raise MediaRefused(f"{target.shown}: the host is not on the public internet; send the file itself")
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            raw = connect((address, target.port), _left(deadline))
            break
        except TimeoutError:
            raise
        except OSError as error:
            failure = error
    else:
        raise failure
    if target.scheme == "http":
        return raw
    raw.settimeout(_left(deadline))
    try:
        return ssl.create_default_context().wrap_socket(raw, server_hostname=target.host)
    except BaseException:
        raw.close()
        raise


@dataclass(frozen=True)
class Redirect:
    location: str


def _get(target: Target, limits: Limits, deadline: float, resolve: Resolve, connect: Connect) -> bytes | Redirect:
    """Ask one host, and put what goes wrong in the terms of this package."""
    try:
        with closing(_open(target, limits, deadline, resolve, connect)) as connection:
            return _ask(target, connection, deadline, limits)
    except TimeoutError:
        raise MediaRefused(
            f"{target.shown}: took longer than {limits.seconds:g} s (Limits.seconds); send the file itself"
        ) from None
    except ssl.SSLError as error:
        raise MediaUnreadable(
            f"{target.shown}: no secure connection ({error.reason or 'TLS failed'}); send the file itself"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise MediaUnreadable(
            f"{target.shown}: the connection failed or broke off; try again, or send the file itself"
        ) from error


def _ask(target: Target, connection: socket.socket, deadline: float, limits: Limits) -> bytes | Redirect:
    exchange = http.client.HTTPConnection(target.host, target.port)
    exchange.sock = cast("socket.socket", _Wire(connection, deadline))
    exchange.request("GET", target.path, headers=HEADERS)
    response = exchange.getresponse()
    if response.status in REDIRECTS:
        return Redirect(response.getheader("Location") or "")
    if response.status != 200:
        raise MediaUnreadable(f"{target.shown}: the server answered {response.status}, not 200; check the address")
    if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise MediaRefused(
            f"{target.shown}: the server sent a compressed body, which was not asked for; send the file itself"
        )
    promised = response.length
    body = bytearray()
    if promised is None or promised <= limits.bytes:
        while len(body) <= limits.bytes and (piece := response.read1(CHUNK)):
            body += piece
    if max(len(body), promised or 0) > limits.bytes:
        raise MediaRefused(f"{target.shown}: larger than {limits.bytes} bytes (Limits.bytes); make it smaller")
    if len(body) < (promised or 0):
        raise MediaUnreadable(
            f"{target.shown}: ended after {len(body)} of {promised} bytes; try again, or send the file itself"
        )
    return bytes(body)


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class _Wire:
    """What http.client needs of a socket. Every read and write ends at the deadline, one for all: a server that
    sends a byte now and then does not keep the connection alive."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def sendall(self, data: ReadableBuffer) -> None:
        self._connection.settimeout(_left(self._deadline))
        self._connection.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Reader(self._connection, self._deadline), CHUNK)

    def close(self) -> None:
        """Nothing: http.client closes before the body is read, the connection is closed by who opened it."""


class _Reader(io.RawIOBase):
    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._connection.settimeout(_left(self._deadline))
        return self._connection.recv_into(buffer)


def without_secrets(address: str) -> str:
    """An address as it may be shown: no user, no password, no query."""
    return re.split(r"[?#]", re.sub(r"//[^/]*@", "//", address))[0]


def shorten(text: str, most: int = 100) -> str:
    """A text of a stranger as one printable line of bounded length."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."
