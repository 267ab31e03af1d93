"""`internvl serve` as a command: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from internvl.cli.main import run
from internvl.cli.serve import limited
from internvl.data.media import open_pdf, open_video
from internvl.errors import InternVLError, MediaRefused, UsageError
from internvl.serving import first
from internvl.serving.listen import bind
from internvl.serving.native import readers_config
from internvl.serving.order import Order, Reference, Unopened
from internvl.serving.readers import Readers
from internvl.serving.reading import open_all
from internvl.serving.settings import Settings
from internvl.weights.hub import NANO
from internvl.weights.load import DTYPES
from tests.e2e.served import PATIENCE, Served, until
from tests.serving.echo import KEY


def command(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "INTERNVL_API_KEYS"}
    return subprocess.run(
        [sys.executable, "-m", "internvl", "serve", *options], env={**clean, **environment},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "INTERNVL_API_KEYS"),
        (["--host", "no.such.host.invalid", "--no-api-key"], "has no address"),
        (["--api-key-file", "no-such-file"], "cannot be read"),
        (["--port", "99999"], "between 0 and 65535"),
        (["--limit", "tokns=4"], "tokens"),
        (["--limit", "foo=3"], "There are: body, depth, "),
        (["--limit", "n=many"], "NAME=N with a whole number from 1 on, such as n=4"),
        (["--limit", "n"], "NAME=N"),
        (["--limit", "images=-1"], "from 0 on, such as images=4"),
        (["--slots", "0"], "at least 1"),
        (["--votes", "votes.jsonl", "--no-ui"], "--votes"),
        (["--engine", "vllm", "--vllm-argument=--max-model-len=100"], "--context"),
        (["--media-root", "no-such-folder"], "is no folder"),
        (["--allow-host", "https://a.org/path"], "*.example.org"),
        (["--server-name", "Mine.example"], "small letters"),
        (["--allow-origin", "*"], "https://"),
        (["--model", "no-such-model-here"], "no model is called 'no-such-model-here'"),
        (["--model", "./no/such/folder"], "no file or folder here"),
        (["--model", "{empty}"], "has no weights"),
        (["--model", "{broken}"], "config.json cannot be read"),
        (["--embedder", "no-such-model-here"], "no model is called"),
        (["--embedder", "nano"], "--embedder nano: this model talks and makes no vectors"),
        (["--context", "4097"], "the model reads at most 4096 tokens"),
        (["--revision", "main"], "expected a model on the hub"),
        (["--dtype", "int3"], "no dtype is called 'int3'"),
        (["--device", "gpu"], "'gpu' is no device"),
        (["--device", "mps:1x"], "is no device"),
        (["--engine", "vllm", "--vllm", "no-such-vllm"], "install vLLM"),
        (["--engine", "vllm", "--vllm", "true", "--device", "mps"], "CUDA_VISIBLE_DEVICES"),
        (["--engine", "vllm", "--vllm", "true", "--tensor-parallel-size", "7"], "attention heads; choose one of 1, 3"),
        (["--engine", "vllm", "--tensor-parallel-size", "0"], "at least 1"),
        (["--tensor-parallel-size", "2"], "--engine vllm"),
    ],
)
def test_a_mistake_is_one_line(options, said, capsys, monkeypatch, tmp_path):
    """And it is told before any process has started."""
    monkeypatch.delenv("INTERNVL_API_KEYS", raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **more: pytest.fail(f"{words} was started"))
    folders = {name: tmp_path / name for name in ("empty", "broken")}
    for folder in folders.values():
        folder.mkdir()
    (folders["broken"] / "model.safetensors").touch()
    (folders["broken"] / "config.json").write_text("{")
    assert run(["serve", *(option.format(**folders) for option in options)]) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert line.startswith("internvl: ")
    assert said in line
    assert not printed.out


def test_what_only_the_worker_finds_is_told_once(tmp_path):
    """Weights that are cut off. Whoever opens them first says so."""
    for file in NANO.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes()[: 100_000 if file.suffix == ".safetensors" else None])
    done = command("--model", str(tmp_path), "--port", "0", "--no-ui", INTERNVL_API_KEYS="")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "the file has 100000; download it again" in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(context=4097), "--context 4097: the model reads at most 4096 tokens"),
        (Settings(embedder="nano"), "--embedder nano: this model talks"),
    ],
    ids=["context", "embedder"],
)
def test_what_a_model_on_the_hub_cannot_do_is_found_once_it_is_here(settings, said):
    """As `first` lets pass what it cannot see, the readers' own look at the model has to find it."""

    async def start() -> None:
        await Readers(readers_config(settings), 1).start()

    with pytest.raises(InternVLError, match=said):
        asyncio.run(start())


def test_a_context_that_nobody_asked_for_is_as_long_as_the_model_reads():
    first.check(Settings())
    first.check(Settings(context=4096))
    assert not readers_config(Settings()).whole_context


def test_places_that_are_stretched_are_for_the_worker_to_count(tmp_path):
    (tmp_path / "model.safetensors").touch()
    config = {"llm_config": {"max_position_embeddings": 100, "rope_scaling": {"type": "dynamic", "factor": 2.0}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    first.check(Settings(model=str(tmp_path), context=200))
    config["llm_config"]["rope_scaling"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="at most 100 tokens"):
        first.check(Settings(model=str(tmp_path), context=200))


def test_names_of_dtypes_are_those_that_weights_can_be_held_in():
    assert set(first.DTYPES) == set(DTYPES)


def test_a_device_without_a_driver_is_refused_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(first, "CUDA", "libno-such-driver.so")
    monkeypatch.setattr(first, "ROCM", tmp_path / "kfd")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UsageError, match=f"no device '{name}' on this machine"):
            first.check_device(name)
    first.ROCM.touch()
    first.check_device("cuda")
    first.check_device("cpu")
    first.check_device(None)


def test_a_model_on_the_hub_is_for_the_worker_to_find():
    first.check(Settings(model="someone/some-model", dtype="torch.bfloat16"))


def test_a_port_that_is_taken_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        began = time.monotonic()
        done = command("--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "loading" not in done.stdout, time.monotonic() - began


def test_an_address_of_another_machine_is_said_at_once():
    with pytest.raises(UsageError, match=r"choose another --host$"):
        bind(Settings(host="192.0.2.1", port=0, keys=("a-key-of-sixteen-letters",)))


def test_a_key_is_never_shown():
    done = command("--host", "0.0.0.0", "--port", "99999", INTERNVL_API_KEYS=f"{KEY},too short")
    assert done.returncode == 2
    assert KEY not in done.stdout + done.stderr
    assert "too short" not in done.stdout + done.stderr


def test_a_file_of_keys_that_holds_none_is_refused(tmp_path, capsys):
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    assert run(["serve", "--api-key-file", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "holds no API key" in line


def test_votes_that_could_not_be_written_are_refused_before_anything_starts(tmp_path, capsys):
    no_folder = tmp_path / "file"
    no_folder.touch()
    for command in ("serve", "ui"):
        for file, found in (
            (tmp_path, "is a folder"),
            (tmp_path / "none" / "votes.jsonl", "cannot be written"),
            (no_folder / "votes", "cannot be written"),
        ):
            assert run([command, "--votes", str(file)]) == 2
            [line] = capsys.readouterr().err.splitlines()
            assert found in line
    assert not (tmp_path / "none").exists()


def test_limits_are_given_by_name():
    requests, media = limited(["n=2", "pages=4", "frames=8"])
    assert (requests.n, media.pages, requests.frames, media.frames) == (2, 4, 8, 8)
    requests, media = limited(["frames=100"])
    assert Settings(limits=requests, media_limits=media).media.frames == 100, "more than by default too"
    requests, media = limited(["frames=0", "pages=0"])
    media = Settings(limits=requests, media_limits=media).media
    assert (media.frames, media.pages) == (0, 0), "none are taken"
    with pytest.raises(MediaRefused, match="no videos are taken here"):
        open_video(b"any", media)
    with pytest.raises(MediaRefused, match="no documents are taken here"):
        open_pdf(b"any", media)
    video = Unopened("user", (Reference("video", "data:video/mp4;base64,AAAA"),))
    with pytest.raises(MediaRefused, match=r"^video 1: no videos are taken here; leave it out, or send pictures$"):
        open_all(Order(model="nano", unopened=(video,)), media)
    requests, _ = limited(["images=0", "media=0"])
    assert (requests.images, requests.media) == (0, 0)
    for wrong in ("n=0", "n=-1", "n=٣", "n", "=4", "local=1", "hosts=1"):
        with pytest.raises(UsageError):
            limited([wrong])


@pytest.mark.slow
def test_it_serves_and_ends_as_it_is_told():
    served = Served("--slots", "2", "--no-ui", "--no-api-key")
    try:
        until(served.is_ready, "the server is ready")
        until(lambda: "curl " in served.log(), "it says how to try it")
        assert f"internvl serves nano at {served.url}" in served.log()
        workers = served.processes()
        assert len(workers["worker"]) == 1
        served._process.send_signal(signal.SIGINT)
        assert served._process.wait(PATIENCE) == 0
        until(lambda: not any(one.is_running() for one in workers["worker"] + workers["reader"]), "all have ended")
    finally:
        if served._process.poll() is None:
            served.stop()
        else:
            served._log.close()
