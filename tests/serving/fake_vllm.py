#!/usr/bin/env python3
"""A vLLM without a model, for tests: it speaks the routes that are used of it, over a socket file, and says a prompt's
tokens backwards. Each request is written down beside it as a line of JSON; seeds make it misbehave."""

import base64
import json
import math
import os
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

BREAKS, GARBAGE, REFUSES, ENDLESS, DIES, CUT = 13, 14, 15, 16, 17, 18
LOG = Path(__file__).with_name("asked.jsonl")


def unpacked(data: bytes):
    """MessagePack by the book, as far as it is used: the value at the start of the data, and what comes after it."""
    first, rest = data[0], data[1:]
    if first >> 4 in (8, 9) or first in (0xDD, 0xDF):
        small = first >> 4 in (8, 9)
        count, rest = (first & 15, rest) if small else (struct.unpack(">I", rest[:4])[0], rest[4:])
        values = []
        for _ in range(count * (2 if first >> 4 == 8 or first == 0xDF else 1)):
            value, rest = unpacked(rest)
            values.append(value)
        if first >> 4 == 8 or first == 0xDF:
            return dict(zip(values[::2], values[1::2], strict=True)), rest
        return values, rest
    if first >> 5 == 5:
        return rest[: first & 31].decode(), rest[first & 31 :]
    if first == 0xDB:
        size = struct.unpack(">I", rest[:4])[0]
        return rest[4 : 4 + size].decode(), rest[4 + size :]
    if first == 0xC9:
        size, kind = struct.unpack(">Ib", rest[:5])
        assert kind == 3
        return rest[5 : 5 + size], rest[5 + size :]
    if first == 0xD3:
        return struct.unpack(">q", rest[:8])[0], rest[8:]
    return {0xC0: None, 0xC2: False, 0xC3: True}[first], rest


def pictures(asked):
    """Shape, mean and hash of each picture, and where it stands."""
    features = asked.get("features")
    if not features:
        return []
    found = []
    for name, place, data in zip(*(features[key]["image"] for key in ("mm_hashes", "mm_placeholders", "kwargs_data")),
                                 strict=True):  # fmt: skip
        item, rest = unpacked(base64.b64decode(data))
        assert not rest
        dtype, shape, raw = item["pixel_values"]["data"]
        assert dtype == "float32"
        assert len(raw) == 4 * math.prod(shape)
        values = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert item["pixel_values"]["field"][0] == "flat"
        assert struct.unpack("<q", item["image_num_patches"]["data"][2]) == (shape[0],)
        (slot,) = struct.unpack("<q", item["image_token_id"]["data"][2])
        start, length = place["offset"], place["length"]
        assert set(asked["token_ids"][start : start + length]) == {slot}
        found.append({"hash": name, "shape": shape, "first": values[:3], "length": length})
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        old = Path(__file__).with_name("old").exists()
        found = {"/health": {}, "/openapi.json": {"paths": {} if old else {"/inference/v1/generate": {}}}}
        self.whole(200, found[self.path])

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sampling = asked["sampling_params"]
        note = {"sampling": sampling, "pictures": pictures(asked), "ids": len(asked["token_ids"]),
                "priority": asked["priority"]}  # fmt: skip
        with LOG.open("a") as file:
            file.write(json.dumps(note) + "\n")
        seed = sampling.get("seed")
        several = sampling["temperature"] == 0 and sampling["n"] > 1
        if seed == REFUSES or several or self.headers["Content-Type"] != "application/json":  # as the real one does
            return self.whole(400, {"error": {"message": "/secret/path: no"}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.answers(asked, sampling, seed)
        except OSError:
            LOG.with_name("hung_up").touch()
            self.close_connection = True

    def answers(self, asked, sampling, seed):
        stop = sampling["stop_token_ids"][0]
        most = sampling["max_tokens"]
        said = (asked["token_ids"][::-1] * (most if seed == ENDLESS else 1))[:most]
        for place, token in enumerate(said):
            if seed == DIES and place == 1:
                os._exit(3)
            if seed == CUT and place == 1:
                return self.piece(b"")
            if seed in (BREAKS, GARBAGE) and place == 1:
                self.line({"error": {"message": "broken"}} if seed == BREAKS else {"choices": [{"tokens": 3}]})
                return self.piece(b"")
            for answer in range(sampling["n"]):
                self.choice(answer, [token], None, sampling)
            time.sleep(0.02 if seed == ENDLESS else 0)
        ended = len(said) < most
        for answer in range(sampling["n"]):
            self.choice(answer, [stop] if ended else [], "stop" if ended else "length", sampling)
        usage = {"prompt_tokens_details": {"cached_tokens": 3}}
        self.line({"choices": [], "usage": usage})
        self.piece(b"data: [DONE]\n\n")
        return self.piece(b"")

    def choice(self, answer, tokens, finish, sampling):
        logprobs = None
        if "logprobs" in sampling:  # the drawn token first, then the likeliest, as vLLM has it
            likely = [((tokens or [0])[0], -2.0), (5, -0.5), (6, -1.0)][: sampling["logprobs"]]
            top = [{"token_id": one, "logprob": value} for one, value in likely]
            logprobs = {"content": [{"token_id": one, "logprob": -2.0, "top_logprobs": top} for one in tokens]}
        self.line({"choices": [{"index": answer, "token_ids": tokens, "finish_reason": finish, "logprobs": logprobs}]})

    def line(self, value):
        self.piece(b"data: " + json.dumps(value).encode() + b"\n\n")

    def piece(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def whole(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self):
        return "here"

    def log_message(self, *_):
        pass


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


if __name__ == "__main__":
    with LOG.with_name("started.jsonl").open("a") as file:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("VLLM_", "HF_", "INTERNVL_"))}
        file.write(json.dumps({"words": sys.argv[1:], "environment": kept, "pid": os.getpid()}) + "\n")
    if LOG.with_name("broken").exists():
        print("(EngineCore pid=7) ERROR 01-02 03:04:05 [core.py:7] ValueError: no \x1b[31mmemory is left " + 999 * "x")
        print("See root cause above.")
        sys.exit("RuntimeError: the engine did not begin")
    server = Server(sys.argv[sys.argv.index("--uds") + 1], Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()
