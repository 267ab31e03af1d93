"""A reader in which something is wrong wherever a picture's address asks for it: data:image/png,FAULT."""

import json
import os
import resource
import signal
import sys
import tempfile
from dataclasses import replace

from internvl.data import fetch
from internvl.data.prompts import Text
from internvl.serving import reader, reading
from internvl.serving.refusal import Refusal

PUBLIC = "93.184.216.34"
whole_open, whole_prompt, whole_connect = reading._open, reader.prompt_of, fetch.connect


def written() -> str:
    """What became of an attempt to write a file."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        return "written"
    except OSError as error:
        return type(error).__name__


def told() -> str:
    names = ("AS", "CORE", "FSIZE", "NOFILE", "CPU")
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names}
    found = {"environment": sorted(os.environ), "limits": limits, "file": written(), "torch": "torch" in sys.modules}
    return json.dumps(found)


def opened(reference, *rest):
    fault = reference.address.rpartition(",")[2]
    if fault == "loop":
        while True:
            pass
    if fault == "hog":
        held = []
        while True:
            held.append(bytearray(64 << 20))  # taken, not touched: it shall run out of memory and not of time
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "words":
        raise RuntimeError("0x7f00dead in /secret/place of https://user:key@host")
    if fault == "tell":
        raise Refusal(told()[:600])
    return whole_open(reference, *rest)


def prompted(order, *rest, **more):
    prompt, tiles = whole_prompt(order, *rest, **more)
    words = {part.text for one in order.unopened for part in one.parts if isinstance(part, Text)}
    if "lie" in words:
        prompt = replace(prompt, tiles=(len(tiles) + 1,))
    return (replace(prompt, ids=5, shape=7) if "babble" in words else prompt), tiles


def resolve(host: str, port: int) -> list[str]:
    """A name that is public when it is judged, and this machine a moment later."""
    seen[host] = seen.get(host, 0) + 1
    if host.startswith("mixed"):
        return [PUBLIC, "127.0.0.1"]
    return [PUBLIC] if seen[host] == 1 else ["127.0.0.1"]


def connect(address, seconds):
    """What would go to the public host goes to the server of the test instead, whose port is the path's."""
    if address[0] != PUBLIC:
        raise OSError("connected to what was not judged")
    return whole_connect(("127.0.0.1", address[1]), seconds)


seen: dict[str, int] = {}
reading._open, reader.prompt_of = opened, prompted
fetch.fetch.__kwdefaults__.update(resolve=resolve, connect=connect)
reader.main()
