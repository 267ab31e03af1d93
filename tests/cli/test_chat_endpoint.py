"""`internvl chat --endpoint`: the same words, answered by a server."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from internvl import Chat
from internvl.cli.conversation import Conversation, Media
from internvl.cli.main import run
from internvl.cli.partners import Wanted, partner
from internvl.data.media import open_image
from internvl.inference.remote_chat import RemoteChat
from internvl.inference.sampling import SamplingConfig
from tests.conftest import golden
from tests.evaluation.endpoint import Endpoint, answering, completion, serving

BRIEF = ("--max-new-tokens", "6")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Typed(""))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def photo(tmp_path) -> str:
    Image.effect_noise((100, 60), 80).convert("RGB").save(tmp_path / "photo.jpg")
    return str(tmp_path / "photo.jpg")


@pytest.fixture
def paper(tmp_path) -> str:
    sheets = [Image.new("RGB", (90, 90), colour) for colour in ("red", "green")]
    sheets[0].save(tmp_path / "paper.pdf", save_all=True, append_images=sheets[1:])
    return str(tmp_path / "paper.pdf")


@pytest.fixture
def clip(tmp_path) -> str:
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height = 64, 48
        for step in range(8):
            file.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), (30 * step, 0, 0)))))
        file.mux(stream.encode())
    return str(tmp_path / "clip.mp4")


def echo(body: dict) -> dict:
    """Says how many messages came and what the last one ends with."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1].get("text", "")
    return completion(f"{len(body['messages'])}: {text}", tokens=3)


def kinds(message: dict) -> list[str]:
    return [part["type"] for part in message["content"]]


def wanted(endpoint: Endpoint, **given) -> Wanted:
    everything = dict.fromkeys(Wanted.__dataclass_fields__)
    return Wanted(**{**everything, "endpoint": endpoint.url, "extensions": False, **given})


def talking(endpoint: Endpoint, **given) -> Conversation:
    return Conversation(partner(wanted(endpoint, **given)), Media())


# ---- one question ----------------------------------------------------------------------------------------------------


def test_the_same_answer_from_here_and_from_there(photo, clip, paper, capsys):
    """Pictures, a video and pages, by the same model behind a server."""
    folder = golden("checkpoints/qwen2-v2_5-bf16")
    chat = Chat.load(folder, device="cpu", sampling=SamplingConfig(max_new_tokens=6))
    with serving(answering(chat)) as endpoint:
        for asked in ([photo, "What is this?"], [photo, photo, "Same?"], ["--pdf", paper, "Summarise."],
                      ["--video", clip, "--frames", "3", "What happens?"], ["Hello?", "--system", "Be brief."],
                      [photo, "--temperature", "1.3", "--seed", "5", "What is this?"]):  # fmt: skip
            assert run(["chat", *asked, *BRIEF, "--endpoint", endpoint.url, "--extensions", "--max-tiles", "6"]) == 0
            there = capsys.readouterr().out
            assert run(["chat", *asked, *BRIEF, "--model", str(folder), "--device", "cpu", "--max-tiles", "6"]) == 0
            assert there == capsys.readouterr().out


def test_what_is_sent(photo, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with serving(Endpoint(echo)) as endpoint:
        assert run(["chat", photo, "What?", "--endpoint", endpoint.url]) == 0
        assert capsys.readouterr().out == "1: What?\n"
        options = ["--temperature", "0.5", "--top-p", "0.9", "--seed", "3", *BRIEF, "--system", "Be brief."]
        assert run(["chat", "What?", "--endpoint", endpoint.url, "--model", "tiny", *options]) == 0
    plain, full = endpoint.bodies
    assert plain.keys() == {"model", "messages", "stream", "stream_options"}, "the rest is left to the server"
    [address] = [part["image_url"]["url"] for part in plain["messages"][0]["content"] if part["type"] == "image_url"]
    assert base64.b64decode(address.partition(",")[2]) == Path(photo).read_bytes(), "the file as it is"
    assert full["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "max_tokens": 6}
    assert {name: full[name] for name in sampling} == sampling
    assert endpoint.keys == ["Bearer sk-1"] * 2


def test_frames_and_pages_are_pictures(clip, paper, capsys):
    with serving(Endpoint(echo)) as endpoint:
        assert run(["chat", "--video", clip, "--frames", "3", "What?", "--endpoint", endpoint.url, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert run(["chat", "--pdf", paper, "--pages", "2", "What?", "--endpoint", endpoint.url]) == 0
    video, document = (body["messages"][0]["content"] for body in endpoint.bodies)
    assert [part["type"] for part in video] == ["text", "image_url"] * 3 + ["text"]
    assert [part["image_url"]["detail"] for part in video if "image_url" in part] == ["low"] * 3
    assert [part["text"] for part in video if part["type"] == "text"] == [
        "Frame-1: ",
        "\nFrame-2: ",
        "\nFrame-3: ",
        "\nWhat?",
    ]
    assert len(answer["frame_times"]) == 3
    assert [part["type"] for part in document] == ["image_url", "text"]
    green = open_image(document[0]["image_url"]["url"]).convert("RGB").getpixel((40, 40))
    assert green[1] > 100 > green[0]


def test_json(photo, capsys):
    with serving(Endpoint(lambda body: completion("<ref>a</ref><box>[[0, 0, 500, 1000]]</box>", tokens=9))) as endpoint:
        assert run(["chat", photo, "Where?", "--endpoint", endpoint.url, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["model"] == "tiny"
    assert (answer["finish"], answer["usage"]) == ("stop", {"prompt": 1, "completion": 9})
    assert [(box["label"], box["xyxy"]) for box in answer["boxes"]] == [("a", [0, 0, 50, 60])]


def test_extensions_are_honoured_or_refused(capsys):
    def asked(*options: str) -> int:
        return run(["chat", "What?", "--endpoint", endpoint.url, *options])

    with serving(Endpoint(echo)) as endpoint:
        for option, name in (("--top-k", "top_k"), ("--max-tiles", "max_tiles"), ("--repetition-penalty", "repet")):
            assert asked(option, "3") == 2
            assert f"is not known to take {name}" in capsys.readouterr().err
        assert endpoint.bodies == []
        assert asked("--top-k", "3", "--max-tiles", "2", "--extensions") == 0
        endpoint.owner = "vllm"
        assert asked("--top-k", "3", "--repetition-penalty", "1.5") == 0
        assert asked("--max-tiles", "3") == 2
        endpoint.owner = "internvl"
        assert asked("--max-tiles", "3") == 0
    ours = [{name: body[name] for name in ("top_k", "max_tiles", "repetition_penalty") if name in body}
            for body in endpoint.bodies]  # fmt: skip
    assert ours == [{"top_k": 3, "max_tiles": 2}, {"top_k": 3, "repetition_penalty": 1.5}, {"max_tiles": 3}]


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "model", "says"),
    [
        (401, "tiny", "HTTP 401, told to fail; no key was sent, set OPENAI_API_KEY"),
        (404, "tony", "it has: tiny"),
        (400, "tiny", "refuses the question: HTTP 400, told to fail"),
    ],
)
def test_a_refusal_is_one_line(status, model, says, capsys):
    with serving(Endpoint(echo, failures=[status])) as endpoint:
        assert run(["chat", "What?", "--endpoint", endpoint.url, "--model", model]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), len(endpoint.bodies)) == ("", 1, 1)
    assert says in err


def test_nobody_there_is_one_line(capsys):
    with serving(Endpoint(echo, models=("a", "b"))) as endpoint:
        assert run(["chat", "What?", "--endpoint", endpoint.url]) == 2
        assert "has 2 models; name one of: a, b" in capsys.readouterr().err
    assert run(["chat", "What?", "--endpoint", endpoint.url]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is the server running" in err


def test_a_busy_server_is_waited_for(capsys):
    with serving(Endpoint(echo, failures=[429, 503])) as endpoint:
        assert run(["chat", "What?", "--endpoint", endpoint.url]) == 0
    assert capsys.readouterr() == ("1: What?\n", "")


def test_nothing_heavy_is_loaded(photo):
    """The model is elsewhere: no torch for a question to a server."""
    with serving(Endpoint(echo)) as endpoint:
        program = f"""
import sys
from internvl.cli.main import run
status = run(["chat", {photo!r}, "What?", "--endpoint", {endpoint.url!r}])
sys.exit(3 if "torch" in sys.modules else status)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1: What?\n", "")


# ---- a conversation --------------------------------------------------------------------------------------------------


def test_a_conversation_is_sent_whole(photo, capsys):
    with serving(Endpoint(echo)) as endpoint:
        talk = talking(endpoint, system="Be brief.")
        for line in (f"/image {photo}", "What is this?", "And now?", "/undo", "/again", "/system", "New?", "/reset",
                     "Last?"):  # fmt: skip
            talk.hear(line)
    told = capsys.readouterr()
    assert told.err == ""
    for line in ("With your next question: picture 100x60.", "2: What is this?", "4: And now?", "Forgotten: And now?"):
        assert line in told.out
    roles = ["".join(message["role"][0] for message in body["messages"]) for body in endpoint.bodies]
    assert roles == ["su", "suau", "su", "u", "u"]
    assert [kinds(body["messages"][1]) for body in endpoint.bodies[:3]] == [["image_url", "text"]] * 3
    assert endpoint.bodies[0]["messages"] == endpoint.bodies[2]["messages"], "/again asks what was asked"


def test_a_refused_picture_is_not_attached_for_ever(photo, capsys):
    with serving(Endpoint(echo, failures=[400])) as endpoint:
        talk = talking(endpoint)
        talk.hear(f"/image {photo}")
        talk.hear("What is this?")
        talk.hear("What is this?")
    told = capsys.readouterr()
    assert "Not attached any more: picture 100x60." in told.out
    assert told.err.count("refuses the question") == 1
    assert endpoint.bodies[1]["messages"] == [{"role": "user", "content": "What is this?"}]


def test_a_failure_leaves_the_conversation_as_it_was(photo, capsys):
    with serving(Endpoint(echo)) as endpoint:
        talk = talking(endpoint)
        talk.hear("First?")
        talk.hear(f"/image {photo}")
        for line in ("Second?", "/again"):
            endpoint.failures[:] = [401]
            talk.hear(line)
        endpoint.ends = False
        talk.hear("Second?")
        endpoint.ends = True
        talk.hear("Third?")
    assert [message["role"] for message in endpoint.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert kinds(endpoint.bodies[-1]["messages"][-1]) == ["image_url", "text"], "the picture still waits for its answer"
    assert capsys.readouterr().err.count("\n") == 3


def test_an_interrupt_stops_the_server_and_leaves_the_conversation(capsys):
    hold = threading.Event()
    with serving(Endpoint(echo)) as endpoint:
        talk = talking(endpoint)
        talk.hear("First?")
        endpoint.hold = hold
        main = threading.get_ident()
        threading.Timer(1.0, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        talk.hear("A long one?")
        assert endpoint.left.wait(120), "the server goes on"
        endpoint.hold = None
        talk.hear("Second?")
    told = capsys.readouterr()
    assert "(stopped; the conversation is as it was before)" in told.out
    assert told.out.endswith("3: Second?\n")


def test_an_interrupt_of_one_question_is_quiet():
    with serving(Endpoint(echo, hold=threading.Event())) as endpoint:
        command = [sys.executable, "-m", "internvl", "chat", "What is this?", "--endpoint", endpoint.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.read(2), "the answer has begun"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "")
        assert endpoint.left.wait(120), "the server goes on"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_at_a_terminal(photo):
    import pty

    with serving(Endpoint(echo)) as endpoint:
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "internvl", "chat", photo, "--endpoint", endpoint.url]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"TERM": "dumb"})
        os.close(slave)
        said = b""

        def until(words: bytes) -> None:
            nonlocal said
            while words not in said:
                said += os.read(master, 4096)
            said = said.partition(words)[2]

        until(b"tiny is ready")
        until(b"> ")
        os.write(master, b"What is this?\n")
        until(b"1: What is this?")
        until(b"(1 + 3 tokens, ")
        os.write(master, b"/quit\n")
        assert process.wait(timeout=60) == 0
        os.close(master)


# ---- in Python -------------------------------------------------------------------------------------------------------


def test_pictures_of_any_kind_at_any_place(photo, clip):
    """The file of a picture goes with the picture wherever it stands."""
    with serving(Endpoint(lambda body: completion("<ref>a</ref><box>[[0, 0, 500, 1000]]</box>"))) as endpoint:
        remote = partner(wanted(endpoint)).talk
        assert isinstance(remote, RemoteChat)
        shown = [photo, Path(photo).read_bytes(), Image.new("RGB", (4, 4), "red")]
        answer = remote.ask("<video> then <image>, <image> and <image>", images=shown, video=clip, frames=2)
    parts = endpoint.bodies[0]["messages"][0]["content"]
    addresses = [part["image_url"]["url"].partition(";")[0] for part in parts if part["type"] == "image_url"]
    assert addresses == ["data:image/png"] * 2 + ["data:image/jpeg"] * 2 + ["data:image/png"]
    assert [box.xyxy for box in answer.boxes] == [(0, 0, 2, 4)], "of the last picture"
