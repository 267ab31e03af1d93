"""vLLM behind the API: it is given the tokens and pixels of the native engine, and what it draws comes back as the same
text; when it dies it is started again, and nothing of it is left at the end.

A real one is asked in test_vllm_real.py.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from internvl.data.image import normalise
from internvl.data.prompts import Text
from internvl.errors import InternVLError, UsageError
from internvl.inference.constraint import Constraint
from internvl.inference.sampling import SamplingConfig
from internvl.serving.backend import Counted
from internvl.serving.order import Order, Reference, Sampling, Unopened
from internvl.serving.refusal import Refusal
from internvl.serving.settings import KEYS_VARIABLE, Settings
from internvl.serving.vllm import VllmBackend, VllmOptions
from internvl.serving.vllm_model import Plan, command, environment, fingerprint, gibibytes, servable
from internvl.serving.vllm_request import Look, VllmError, body, chunk, packed, runs, sampled
from internvl.serving.wire import Done, Piece
from internvl.weights.load import load_encoder, resolve
from tests.serving import fake_vllm

FAKE = Path(fake_vllm.__file__)
PATIENCE = 540.0
"""Seconds; 155 were seen on a machine that trained meanwhile. A test has 600."""
LOOK = Look(normalisation="imagenet", dtype=torch.float32, slot=9, slots_per_tile=2)


# ---- what vLLM is asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**40, "", "x" * 31, "é" * 40, None, True, False, b"", b"ab" * 200, [], list(range(20)), {"a": {"b": [1]}},
     {str(n): n for n in range(30)}],
)  # fmt: skip
def test_what_is_packed_is_unpacked(value):
    assert fake_vllm.unpacked(packed(value)) == (value, b"")


def test_a_picture_comes_with_the_pixels_that_the_native_engine_sees():
    tiles = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    asked = json.loads(body([1, 9, 9, 9, 9, 9, 9, 2], [("name", tiles)], {}, LOOK, priority=3))
    item, rest = fake_vllm.unpacked(base64.b64decode(asked["features"]["kwargs_data"]["image"][0]))
    dtype, shape, raw = item["pixel_values"]["data"]
    assert (dtype, shape, rest) == ("float32", [3, 3, 4, 4], b"")
    assert np.array_equal(np.frombuffer(raw, "<f4").reshape(shape), normalise(tiles).numpy())
    assert asked["features"]["mm_placeholders"] == {"image": [{"offset": 1, "length": 6}]}
    assert asked["features"]["mm_hashes"] == {"image": ["name"]}
    assert asked["priority"] == -3  # vLLM takes the lowest first


def test_half_precision_has_two_bytes_a_value():
    look = Look(normalisation="clip", dtype=torch.bfloat16, slot=9, slots_per_tile=2)
    asked = json.loads(body([9, 9], [("name", np.zeros((1, 2, 2, 3), np.uint8))], {}, look))
    item, _ = fake_vllm.unpacked(base64.b64decode(asked["features"]["kwargs_data"]["image"][0]))
    assert item["pixel_values"]["data"][0] == "bfloat16"
    assert len(item["pixel_values"]["data"][2]) == 24


@pytest.mark.parametrize("ids", [[1, 9], [9, 1, 9], [1, 2], []])
def test_slots_that_do_not_fit_the_pictures_are_an_error(ids):
    with pytest.raises(VllmError, match="do not fit"):
        runs(ids, [2], 9)


def test_sampling_says_what_was_asked_and_nothing_else():
    config = SamplingConfig(max_new_tokens=7, temperature=0.5, top_k=4, top_p=0.5, seed=2**62, repetition_penalty=1.5,
                            min_new_tokens=2, stop=("END",), top_logprobs=3)  # fmt: skip
    said = sampled(config, (2, 5), n=3, logprobs=True, grammar="start: /a/")
    assert said == {
        "n": 3, "max_tokens": 7, "min_tokens": 2, "temperature": 0.5, "repetition_penalty": 1.5, "top_k": 4,
        "top_p": 0.5, "seed": 2**62, "stop_token_ids": [2, 5], "ignore_eos": True, "detokenize": False,
        "skip_special_tokens": False, "logprobs": 4, "structured_outputs": {"grammar": "start: /a/"},
    }  # fmt: skip
    assert not {"top_k", "top_p", "seed", "logprobs", "structured_outputs"} & set(sampled(SamplingConfig(), (2,)))


def test_the_likeliest_tokens_are_in_order_whichever_was_drawn():
    top = [{"token_id": 4, "logprob": -3.0}, {"token_id": 1, "logprob": -0.1}, {"token_id": 2, "logprob": -2.0}]
    content = [{"token_id": 4, "logprob": -3.0, "top_logprobs": top}]
    choice = {"index": 1, "token_ids": [4], "finish_reason": None, "logprobs": {"content": content}}
    said = chunk("data: " + json.dumps({"choices": [choice]}), SamplingConfig(top_logprobs=2), logprobs=True)
    assert said is not None
    assert said.drawn[0].tokens[0].top == ((1, -0.1), (2, -2.0))


@pytest.mark.parametrize(
    "line",
    ["data: {", 'data: {"error": {"message": "x"}}', 'data: {"choices": [{}]}', "data: []", "data: 3",
     'data: {"choices": [{"index": 0, "token_ids": [1], "finish_reason": "abort"}]}'],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(line):
    with pytest.raises(VllmError):
        chunk(line, SamplingConfig(), logprobs=False)


def test_comments_and_the_end_say_nothing():
    assert [chunk(line, SamplingConfig(), logprobs=False) for line in ("", ": ping", "data: [DONE]")] == [None] * 3


# ---- what vLLM is started with ---------------------------------------------------------------------------------------


def plan(**changes: Any) -> Plan:
    values = {"folder": Path("m"), "name": "m", "dtype": "float32", "context": 100, "slots": 4, "slots_per_tile": 16,
              "cpu": True}  # fmt: skip
    return Plan(**(values | changes))


def test_the_command_has_what_the_checkpoint_and_the_user_say():
    options = VllmOptions(program=sys.executable, tensor_parallel=4, pipeline_parallel=2, arguments=("--more=1",))
    words = command(plan(context=9000), Path("/s/vllm"), options)
    pairs = dict(zip(words[3:-1:2], words[4:-1:2], strict=False))
    assert words[:3] == [sys.executable, "serve", "m"]
    assert words[-1] == "--more=1"
    assert pairs["--tensor-parallel-size"] == "4"
    assert pairs["--pipeline-parallel-size"] == "2"
    assert pairs["--max-model-len"] == "9000"
    assert pairs["--max-num-batched-tokens"] == "9000"
    assert pairs["--uds"] == "/s/vllm"
    assert json.loads(pairs["--limit-mm-per-prompt"]) == {"image": 562, "video": 0}
    assert not [word for word in words if "trust" in word or "host" in word]


@pytest.mark.parametrize("word", ["--trust-remote-code", "--trust_remote_code=true", "--uds=/x", "--model", "--port=1"])
def test_code_of_a_checkpoint_is_never_allowed(word):
    with pytest.raises(UsageError, match="not passed"):
        VllmOptions(arguments=(word,))


def test_nothing_less_than_one_gpu():
    with pytest.raises(UsageError, match="tensor_parallel is 0"):
        VllmOptions(tensor_parallel=0)


def test_keys_and_pickles_stay_out_of_its_environment(nano):
    text = nano[1]
    given = {KEYS_VARIABLE: "secret", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_LOGGING_LEVEL": "INFO", "A": "b"}
    found = environment(text, plan(), given)
    assert "secret" not in found.values()
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in found
    assert found["A"] == "b"
    assert found["VLLM_LOGGING_LEVEL"] == "INFO"
    assert found["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(text, plan(cpu=False), given)
    assert (
        gibibytes(text, plan(context=2**20, slots=2**20))
        < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    )


@pytest.fixture(scope="module")
def nano() -> Any:
    from internvl.weights.checkpoint import describe

    return resolve(None), describe(resolve(None))[2].text


def test_a_checkpoint_is_converted_once_and_again_when_it_changes(nano, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(nano[0], source)
    made = servable(source, tmp_path / "cache")
    config = json.loads((made / "config.json").read_text())
    assert config["architectures"] == ["InternVLForConditionalGeneration"]
    assert "auto_map" not in config
    assert not list(made.glob("*.py"))
    before = (made / "config.json").stat()
    assert servable(source, tmp_path / "cache") == made
    assert (made / "config.json").stat() == before
    assert servable(made, tmp_path / "cache") == made  # it is what vLLM reads
    os.utime(next(source.glob("*.safetensors")), (1, 1))
    assert fingerprint(source) != made.name


def test_the_process_of_the_api_needs_no_torch():
    seen = subprocess.run(
        [sys.executable, "-c", "import sys, internvl.serving.vllm; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout.strip() == "False"


# ---- a server with a fake vLLM ---------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """A command vllm, with files beside it that say what was asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(KEYS_VARIABLE, "sk-0123456789abcdef")
    script = tmp_path / "vllm"
    script.write_text(f"#!{sys.executable}\n" + FAKE.read_text().partition("\n")[2])
    script.chmod(0o755)
    return script


@asynccontextmanager
async def serving(program: Path | str, **changes: Any) -> AsyncIterator[VllmBackend]:
    values: dict[str, Any] = {"slots": 4, "readers": 1, "embedder": None, **changes}
    backend = VllmBackend(Settings(**values), VllmOptions(program=str(program)))
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop()


def run(program: Path | str, scenario: Callable[[VllmBackend], Awaitable[None]], **changes: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE), serving(program, **changes) as backend:
            await scenario(backend)

    asyncio.run(bounded())


async def said(backend: VllmBackend, order: Order) -> tuple[Counted, list[Piece], list[Done]]:
    counted: list[Counted] = []
    pieces: list[Piece] = []
    dones: list[Done] = []
    async with aclosing(backend.answer(order)) as answers:
        async for one in answers:
            {Counted: counted, Piece: pieces, Done: dones}[type(one)].append(one)  # type: ignore[arg-type]
    return counted[0], pieces, dones


def asked(program: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.with_name("asked.jsonl").read_text().splitlines()]


def started(program: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.with_name("started.jsonl").read_text().splitlines()]


def question(text: str = "Name the colour.", *, address: str | None = None, **changes: Any) -> Order:
    parts = (Text(text),) if address is None else (Reference("image", address), Text(text))
    sampling = Sampling(**({"max_new_tokens": 5} | changes.pop("sampling", {})))
    return Order(model="nano", unopened=(Unopened("user", parts),), sampling=sampling, **changes)


def red() -> str:
    file = io.BytesIO()
    PIL.Image.new("RGB", (50, 40), (255, 0, 0)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.05)


def test_questions_are_answered_in_the_words_of_the_tokens(program):
    tokenizer = load_encoder().tokenizer

    async def scenario(backend: VllmBackend) -> None:
        counted, pieces, [done] = await said(backend, question())
        expected = tokenizer.decode(list(counted.ids)[::-1][:5], keep_markup=True).strip()
        assert "".join(piece.text for piece in pieces) == expected
        assert (done.finish, done.completion, done.reused, done.last) == ("length", 5, 3, True)
        # a picture: the tiles that were cut here, where the prompt has its slots
        counted, _, _ = await said(backend, question(address=red()))
        [_, seen] = asked(program)
        [picture] = seen["pictures"]
        size, slots = backend.facts.tile_size, backend.facts.slots_per_tile
        assert picture["shape"] == [1, 3, size, size]
        assert picture["length"] == slots == counted.image_tokens
        assert picture["first"] == pytest.approx([(1 - 0.485) / 0.229] * 3)
        assert seen["ids"] == len(counted.ids)
        # the model ends its answer itself; two answers; what is likely
        order = question(n=2, logprobs=True, sampling={"max_new_tokens": 300, "top_logprobs": 2})
        _, pieces, dones = await said(backend, order)
        assert [(done.answer, done.finish, done.last) for done in dones] == [(0, "stop", False), (1, "stop", True)]
        texts = ["".join(p.text for p in pieces if p.answer == n) for n in (0, 1)]
        assert texts[0] == texts[1] != ""
        told = next(piece.tokens[0] for piece in pieces if piece.tokens)
        assert told["logprob"] == -2.0
        assert [one["logprob"] for one in told["top"]] == [-0.5, -1.0]
        await said(backend, question(priority=-1))
        assert [one["priority"] for one in asked(program)][-2:] == [0, 1]  # vLLM takes the lowest first
        # a text to continue keeps its white space, and a form goes along
        await said(backend, Order(model="nano", prompts=("Once",), constraint=Constraint.choice(["yes"])))
        assert "yes" in asked(program)[-1]["sampling"]["structured_outputs"]["grammar"]
        assert backend.counters()["slots"] == 4

    run(program, scenario)
    [begun] = started(program)
    assert KEYS_VARIABLE not in begun["environment"]
    assert "--trust-remote-code" not in begun["words"]
    assert not alive(begun["pid"])


def test_a_stop_string_ends_an_answer_and_hangs_up(program):
    async def scenario(backend: VllmBackend) -> None:
        _, pieces, [done] = await said(backend, question(sampling={"max_new_tokens": 30, "seed": fake_vllm.ENDLESS}))
        whole = "".join(piece.text for piece in pieces)
        assert done.finish == "length"
        stop = whole[3:5]
        order = question(sampling={"max_new_tokens": 3000, "seed": fake_vllm.ENDLESS, "stop": (stop,)})
        _, pieces, [done] = await said(backend, order)
        assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)].rstrip()
        assert done.finish == "stop"
        assert done.completion < 30
        await until(program.with_name("hung_up").exists)

    run(program, scenario)


def test_who_does_not_wait_is_hung_up_on(program):
    async def scenario(backend: VllmBackend) -> None:
        async with aclosing(
            backend.answer(question(sampling={"max_new_tokens": 3000, "seed": fake_vllm.ENDLESS}))
        ) as a:
            async for one in a:
                if isinstance(one, Piece):
                    break
        await until(program.with_name("hung_up").exists)
        await until(lambda: backend.counters().get("running") == 0)

    run(program, scenario)


@pytest.mark.parametrize("seed", [fake_vllm.BREAKS, fake_vllm.GARBAGE, fake_vllm.REFUSES, fake_vllm.CUT])
def test_what_vllm_does_wrong_is_no_clients_fault_and_nobody_elses_trouble(program, seed, caplog):
    async def scenario(backend: VllmBackend) -> None:
        with pytest.raises(Refusal) as refused:
            await said(backend, question(sampling={"seed": seed, "max_new_tokens": 20}))
        assert refused.value.status == 500
        assert "secret" not in refused.value.message
        _, _, [done] = await said(backend, question())
        assert done.completion == 5

    run(program, scenario)


def test_what_the_native_engine_refuses_is_refused_in_its_words(program):
    async def scenario(backend: VllmBackend) -> None:
        with pytest.raises(Refusal, match="regular expression") as refused:
            await said(backend, question(constraint=Constraint.regex("(")))
        assert refused.value.status == 400
        with pytest.raises(Refusal, match="n is 5"):
            await said(backend, question(n=5))
        assert not program.with_name("asked.jsonl").exists()

    run(program, scenario)


def test_vllm_that_dies_is_started_again_and_nobody_hangs(program):
    async def scenario(backend: VllmBackend) -> None:
        with pytest.raises(Refusal) as refused:
            await said(backend, question(sampling={"seed": fake_vllm.DIES}))
        assert refused.value.status in (500, 503)
        await until(lambda: len(started(program)) == 2 and backend.ready)
        _, _, [done] = await said(backend, question())
        assert done.completion == 5
        # the same when it is killed from outside, and when the worker is
        os.kill(started(program)[1]["pid"], signal.SIGKILL)
        await until(lambda: len(started(program)) == 3 and backend.ready)
        os.kill(backend._supervisor.pid, signal.SIGKILL)
        await until(lambda: len(started(program)) == 4 and backend.ready)
        await until(lambda: not alive(started(program)[2]["pid"]))
        _, _, [done] = await said(backend, question())
        assert done.completion == 5

    run(program, scenario)
    gone(*(one["pid"] for one in started(program)))


def gone(*pids: int) -> None:
    async def wait() -> None:
        async with asyncio.timeout(PATIENCE):
            await until(lambda: not any(map(alive, pids)))

    asyncio.run(wait())


def alive(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
    return False


def test_the_socket_is_gone_when_the_server_is(program):
    async def scenario(backend: VllmBackend) -> None:
        words = started(program)[0]["words"]
        folder = Path(words[words.index("--uds") + 1]).parent
        assert folder.stat().st_mode & 0o077 == 0
        program.with_name("folder").write_text(str(folder))

    run(program, scenario)
    folder = Path(program.with_name("folder").read_text())
    gone(started(program)[0]["pid"])

    async def wait() -> None:
        async with asyncio.timeout(PATIENCE):
            await until(lambda: not folder.exists())

    asyncio.run(wait())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            "broken",
            r"^the model cannot be served: vLLM ended with exit code 1 before it was loaded: "
            r"ValueError: no \?\[31mmemory is left x{100,170} \| RuntimeError: the engine did not begin$",
        ),
        ("old", "install 0.32 or later"),
    ],
)
def test_a_vllm_that_cannot_serve_says_so(program, named, message):
    program.with_name(named).touch()

    async def scenario(backend: VllmBackend) -> None:
        raise AssertionError("it was started")

    with pytest.raises(InternVLError, match=message):
        run(program, scenario)
    gone(*(one["pid"] for one in started(program)))


def test_a_vllm_that_is_not_there_is_named():
    async def scenario(backend: VllmBackend) -> None:
        raise AssertionError("it was started")

    with pytest.raises(InternVLError, match="no command no-such-vllm; install vLLM"):
        run("no-such-vllm", scenario)


def test_what_vllm_cannot_promise_is_refused():
    with pytest.raises(UsageError, match="--deterministic"):
        VllmBackend(Settings(deterministic=True))
