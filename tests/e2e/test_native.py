"""The server and the package say the same: the nano asked over HTTP, and asked as `Chat` and `Embedder` ask it.

What becomes of those who go away, and of a worker that is killed, is in `test_soak.py`.
"""

from __future__ import annotations

import base64
import io
import json
import re

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from internvl import Chat, Embedder
from internvl.inference.sampling import SamplingConfig
from tests.conftest import REPOSITORY
from tests.e2e.served import PATIENCE, asked

EXAMPLES = REPOSITORY / "src" / "internvl" / "nano" / "examples"
FLAG, SHAPES = EXAMPLES / "flag.png", EXAMPLES / "shapes.png"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as one:
        yield one


@pytest.fixture(scope="module")
def chat():
    return Chat.load(device="cpu")


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def answered(client: httpx.Client, body, path: str = "/chat/completions"):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(answer) -> str:
    return answer["choices"][0]["message"]["content"]


def film() -> bytes:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue", "white")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=500)
    return file.getvalue()


def document() -> bytes:
    file = io.BytesIO()
    Image.open(FLAG).convert("RGB").save(file, "PDF")
    return file.getvalue()


# ---- the same answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "max_tiles"),
    [([], None), ([FLAG], None), ([FLAG], 2), ([FLAG, SHAPES], None), ([FLAG, SHAPES], 2)],
    ids=["none", "one", "one of 2 tiles", "two", "two of 2 tiles"],
)
def test_answers_are_those_of_chat(client, chat, pictures, max_tiles):
    question = "Which flag is this?" if pictures else "Hello"
    chat.reset()
    alone = chat.ask(question, images=[str(one) for one in pictures], max_tiles=max_tiles)
    more = {} if max_tiles is None else {"max_tiles": max_tiles}
    answer = answered(client, asked(question, *(data(one.read_bytes()) for one in pictures), **more))
    assert said(answer) == alone.text
    assert answer["usage"]["completion_tokens"] == alone.usage.completion


def test_films_and_documents_are_read_as_chat_reads_them(client, chat):
    parts = {
        "video": ({"type": "video_url", "video_url": {"url": data(film(), "video/gif")}}, {"video": film()}),
        "pdf": ({"type": "file", "file": {"file_data": data(document(), "application/pdf")}}, {"pdf": document()}),
    }
    for part, shown in parts.values():
        chat.reset()
        alone = chat.ask("What is this?", **shown)
        content = [part, {"type": "text", "text": "What is this?"}]
        assert (
            said(answered(client, {"model": "nano", "messages": [{"role": "user", "content": content}]})) == alone.text
        )
    few = {"model": "nano", "num_frames": 2, "messages": [{"role": "user", "content": [parts["video"][0]]}]}
    more = few | {"num_frames": 4}
    counts = [client.post("/../tokenize", json=one).json()["count"] for one in (few, more)]
    assert counts[1] - counts[0] > 0


def test_one_tile_where_detail_is_low(client):
    wide = io.BytesIO()
    Image.open(FLAG).convert("RGB").resize((1344, 448)).save(wide, "PNG")
    tokens = {}
    for detail in ("low", "high"):
        part = {"type": "image_url", "image_url": {"url": data(wide.getvalue()), "detail": detail}}
        content = [part, {"type": "text", "text": "What?"}]
        body = {"model": "nano", "max_tiles": 6, "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
        tokens[detail] = answered(client, body)["usage"]["prompt_tokens_details"]["image_tokens"]
    assert 0 < tokens["low"] < tokens["high"]


def test_vectors_are_those_of_the_embedder(client):
    embedder = Embedder.load("nano-c", device="cpu")
    texts = ["a red circle", "two dogs"]
    picture = {"type": "image_url", "image_url": {"url": data(FLAG.read_bytes())}}
    answer = answered(client, {"model": "nano-c", "input": [texts[0], picture, texts[1]]}, "/embeddings")
    found = np.array([one["embedding"] for one in answer["data"]])
    expected = np.concatenate([embedder.texts(texts).numpy(), embedder.images([str(FLAG)]).numpy()])
    assert np.abs(found - expected[[0, 2, 1]]).max() < 1e-5


def test_an_answer_ends_where_the_context_does(client):
    text = {"model": "nano", "prompt": "one two " * 1500}
    counted = client.post("/../tokenize", json=text).json()
    room = counted["max_model_len"] - counted["count"]
    assert 0 < room < 4096
    answer = answered(client, text | {"max_tokens": 100_000, "min_tokens": 100_000}, "/completions")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == room


def test_tokens_are_those_that_are_used(client):
    for body in (asked("Hello"), asked("What?", data(FLAG.read_bytes()), max_tiles=3)):
        used = answered(client, {**body, "max_tokens": 1})["usage"]["prompt_tokens"]
        counted = client.post("/../tokenize", json=body)
        assert counted.json()["count"] == used, counted.text
    text = {"model": "nano", "prompt": "Once upon a time"}
    used = answered(client, text | {"max_tokens": 1}, "/completions")["usage"]["prompt_tokens"]
    assert client.post("/../tokenize", json=text).json()["count"] == used


# ---- what is asked of an answer --------------------------------------------------------------------------------------


def test_the_second_turn_reads_only_what_is_new(client):
    first = asked("What is in the picture?", data(SHAPES.read_bytes()), user="second turn")
    answer = answered(client, first)
    turns = [*first["messages"], answer["choices"][0]["message"], {"role": "user", "content": "Are you sure?"}]
    second = answered(client, {**first, "messages": turns})
    known = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert known >= answer["usage"]["prompt_tokens"]
    fresh = answered(client, asked("Something else entirely?"))
    assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] < known


def test_answers_have_the_form_that_is_asked_for(client):
    schema = {"type": "object", "properties": {"country": {"type": "string", "maxLength": 20}}, "required": ["country"],
              "additionalProperties": False}  # fmt: skip
    question = asked("Which country?", data(FLAG.read_bytes()))
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    fits = json.loads(said(answered(client, {**question, "response_format": form})))
    assert list(fits) == ["country"]
    assert said(answered(client, {**question, "guided_choice": ["Norway", "Chad"]})) in ("Norway", "Chad")
    assert re.fullmatch("[0-9]{3}", said(answered(client, {**question, "guided_regex": "[0-9]{3}"})))


def test_several_answers_and_their_seeds(client):
    warm = {**asked("Tell a story."), "temperature": 1.2, "max_tokens": 12, "n": 3}
    several = [one["message"]["content"] for one in answered(client, warm | {"seed": 1})["choices"]]
    assert len(several) == 3
    assert [one["message"]["content"] for one in answered(client, warm | {"seed": 1})["choices"]] == several
    assert [one["message"]["content"] for one in answered(client, warm | {"seed": 2})["choices"]] != several


def test_stop_and_log_probabilities(client, chat):
    whole = said(answered(client, asked("Hello")))
    stop = whole.split()[2]
    stopped = answered(client, {**asked("Hello"), "stop": [stop]})
    assert said(stopped) == whole[: whole.index(stop)].rstrip()
    assert stopped["choices"][0]["finish_reason"] == "stop"
    likely = answered(client, {**asked("Hello"), "logprobs": True, "top_logprobs": 3})["choices"][0]["logprobs"][
        "content"
    ]
    chat.reset()
    expected = [one.logprob for one in chat.ask("Hello", sampling=SamplingConfig(top_logprobs=3)).logprobs]
    assert b"".join(bytes(one["bytes"]) for one in likely).decode().strip() == whole
    assert [one["logprob"] for one in likely] == pytest.approx(expected[: len(likely)], abs=1e-3)
    assert all(len(one["top_logprobs"]) == 3 for one in likely)
