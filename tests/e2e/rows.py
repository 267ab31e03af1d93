"""What the tests of rows share: requests, what is read of their answers, and media that are no such thing."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zlib
from pathlib import Path

from PIL import Image

import internvl

KEY = "sk-rows-0123456789abcdef"
LIMITS = {"body": 4 * 2**20, "n": 4, "messages": 64, "media": 16}
"""Of the server that they are asked of."""
FLAG_FILE = Path(internvl.__file__).parent / "nano" / "examples" / "flag.png"
FLAG = "data:image/png;base64," + base64.b64encode(FLAG_FILE.read_bytes()).decode()
SLOTS = 16
"""Image tokens of a picture of nano's."""


def chat(served, body) -> dict:
    status, said = served.send("POST", "/v1/chat/completions", body)
    assert status == 200, said
    return json.loads(said)


def refused(served, body, path="/v1/chat/completions") -> tuple[int, dict]:
    """What it is refused with, in OpenAI's shape and without a word of this machine."""
    status, said = served.send("POST", path, body)
    assert status >= 400, said
    error = json.loads(said)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not re.search(r"0x[0-9a-f]{6}|/(tmp|home|root|work|usr|proc|etc)/|Traceback|\.py\b", said), said
    return status, error


def said(answer) -> str:
    return answer["choices"][0]["message"]["content"]


def image_tokens(answer) -> int:
    return answer["usage"]["prompt_tokens_details"]["image_tokens"]


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return data("image/png", buffer.getvalue())


def data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> str:
    """A PNG that says it has 40000 x 40000 pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    return data("image/png", b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))))


def part(kind: str, address: str):
    if kind == "file":
        return {"type": "file", "file": {"file_data": address}}
    return {"type": kind, kind: {"url": address}}


def shown(kind: str, address: str) -> dict:
    content = [part(kind, address), {"type": "text", "text": "What is this?"}]
    return {"model": "nano", "messages": [{"role": "user", "content": content}], "max_tokens": 4}
