"""The command line from outside: what it prints where, and its exit status."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from internvl.cli.conversation import Conversation, Media, Partner
from internvl.cli.main import MISTAKE, run
from internvl.data import media
from internvl.errors import ContextOverflow, PlaceholderMismatch
from tests.conftest import golden

BRIEF = ("--max-new-tokens", "6")


@pytest.fixture
def model() -> tuple[str, ...]:
    return ("--model", str(golden("checkpoints/qwen2-v2_5-bf16")), "--device", "cpu")


@pytest.fixture
def photo(tmp_path) -> str:
    Image.effect_noise((100, 60), 80).convert("RGB").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """Standard input is a terminal unless a test pipes something in."""
    monkeypatch.setattr("sys.stdin", Typed(""))


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


def internvl(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "internvl", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, **({"stdin": subprocess.DEVNULL} | options)
    )


def one_line(capsys) -> str:
    """What was said about a mistake: one line to standard error, nothing to standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("internvl: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


# ---- questions -------------------------------------------------------------------------------------------------------


def test_one_shot_piped_and_json_say_the_same(model, photo):
    one_shot = internvl("chat", photo, "What is this?", *model, *BRIEF)
    assert (one_shot.returncode, one_shot.stderr) == (0, "")
    piped = internvl("chat", photo, *model, *BRIEF, input="What is this?\n", stdin=None)
    assert (piped.returncode, piped.stdout) == (0, one_shot.stdout)
    as_json = internvl("chat", photo, "What is this?", *model, *BRIEF, "--json")
    answer = json.loads(as_json.stdout)
    assert answer["text"] == one_shot.stdout.removesuffix("\n")
    assert answer["tiles"] == [sum(answer["tiles"])]
    assert answer["usage"]["completion"] == 6
    assert {"model", "finish", "max_tiles", "frame_times", "boxes", "logprobs"} <= set(answer)


def test_options_reach_the_model(model, photo, capsys):
    def asked(*options: str) -> dict:
        assert run(["chat", photo, "What is this?", *model, *BRIEF, "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    plain = asked()
    assert asked("--max-tiles", "1")["tiles"] == [1] != plain["tiles"]
    assert asked("--system", "Be brief.")["usage"]["prompt"] < plain["usage"]["prompt"]
    sampled = [asked("--temperature", "1.5", "--seed", seed)["text"] for seed in ("1", "1", "2")]
    assert sampled[0] == sampled[1] != sampled[2]
    assert asked("--beams", "3")["text"] != ""
    assert asked("--dtype", "bfloat16")["usage"] == plain["usage"]


@pytest.mark.parametrize("size", [(1, 20000), (1, 1)])
def test_odd_pictures_are_answered(model, tmp_path, capsys, size):
    Image.new("RGB", size).save(tmp_path / "odd.png")
    assert run(["chat", str(tmp_path / "odd.png"), "What is this?", *model, *BRIEF]) == 0
    assert capsys.readouterr().out.strip()


def test_pages_of_a_document(model, tmp_path, capsys):
    sheets = [Image.new("RGB", (90, 90), colour) for colour in ("red", "green", "blue")]
    sheets[0].save(tmp_path / "paper.pdf", save_all=True, append_images=sheets[1:])
    for more, pages in ([], 3), (["--pages", "1,3"], 2):
        arguments = ["chat", "--pdf", str(tmp_path / "paper.pdf"), "Summarise.", *model, *BRIEF, "--json", *more]
        assert run(arguments) == 0
        assert len(json.loads(capsys.readouterr().out)["tiles"]) == pages
    assert run([*arguments[:-1], "4"]) == 2
    assert "there is no page 4" in one_line(capsys)


def test_the_password_of_a_document(model, capsys, monkeypatch, tmp_path):
    (tmp_path / "paper.pdf").write_bytes(b"%PDF")
    given = {}

    def opened(source, limits, **named):
        given.update(named)
        return [Image.new("RGB", (90, 90))]

    monkeypatch.setattr("internvl.inference.attached.open_pdf", opened)
    asked = ("--pdf", str(tmp_path / "paper.pdf"), "Summarise.", "--password", "secret", "--pages", "2")
    assert run(["chat", *asked, *model, *BRIEF]) == 0
    assert given == {"pages": [2], "password": "secret"}


def test_a_home_folder_is_written_out(model, photo, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(photo).parent))
    monkeypatch.setenv("USERPROFILE", str(Path(photo).parent))
    assert run(["chat", "~/photo.png", "What is this?", *model, *BRIEF]) == 0
    assert run(["embed", "~/photo.png", *model]) == 0


@pytest.mark.parametrize("command", [["chat", "What?", "--model"], ["embed", "PHOTO", "--model"], ["convert"]])
def test_a_revision_is_asked_for(command, model, photo, tmp_path, monkeypatch, capsys):
    for taker in ("inference.chat", "inference.embed"):
        import_module(f"internvl.{taker}")  # what is imported while it is replaced would keep the replacement
    asked = []

    def resolved(source, *, revision=None, **more):
        asked.append((source, revision))
        return Path(model[1])

    monkeypatch.setattr("internvl.weights.load.resolve", resolved)
    more = [str(tmp_path / "new"), "--format", "hf"] if command == ["convert"] else []
    words = [photo if word == "PHOTO" else word for word in command]
    assert run([*words, "some/model", *more, "--revision", "v2"]) == 0
    assert asked[0] == ("some/model", "v2")


def test_what_comes_through_the_pipe_must_be_text(model):
    done = subprocess.run(
        [sys.executable, "-m", "internvl", "chat", *model],
        input=b"\xff\xd8\xff",
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert b"is no utf-8 text" in done.stderr


def test_an_answer_that_the_terminal_has_no_letters_for(model, photo):
    """The random model answers in many alphabets."""
    arguments = ("chat", photo, "What is this?", *model, "--max-new-tokens", "20")
    utf8, ascii_only = (
        internvl(*arguments, env=os.environ | {"PYTHONIOENCODING": coding}, encoding=coding)
        for coding in ("utf-8", "ascii")
    )
    assert not utf8.stdout.isascii()
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")
    assert ascii_only.stdout == utf8.stdout.encode("ascii", "replace").decode()


def test_a_question_without_a_picture(model, capsys):
    assert run(["chat", "What is 2 + 2?", *model, *BRIEF]) == 0
    assert capsys.readouterr().out.endswith("\n")


def test_a_dash_reads_the_question(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 + 2?"))
    assert run(["chat", "-", *model, *BRIEF]) == 0
    assert capsys.readouterr().out.strip()


# ---- mistakes --------------------------------------------------------------------------------------------------------


def huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    whole = io.BytesIO()
    Image.effect_noise((300, 200), 80).save(whole, "JPEG")
    return whole.getvalue()[:3000]


ENCRYPTED_PDF = b"""%PDF-1.4
1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>> endobj
4 0 obj <</Filter/Standard/V 1/R 2/P -4/O(01234567890123456789012345678901)/U(01234567890123456789012345678901)>> endobj
trailer <</Root 1 0 R/Encrypt 4 0 R/ID[(0123456789012345)(0123456789012345)]>>
%%EOF
"""


@pytest.mark.parametrize(
    ("name", "content", "before", "says"),
    [
        ("huge.png", huge_png(), (), "40000 x 40000 pixels"),
        ("cut.jpg", truncated_jpeg(), (), "truncated or damaged"),
        ("text.png", b"hello", (), "no picture of a known format"),
        ("empty.png", b"", (), "empty"),
        ("empty.mp4", b"", ("--video",), "empty"),
        ("noise.mp4", bytes(range(256)) * 8, ("--video",), "video"),
        ("locked.pdf", ENCRYPTED_PDF, ("--pdf",), "password|encrypted"),
        ("noise.pdf", b"%PDF-1.4 nothing", ("--pdf",), "damaged|document"),
    ],
)
def test_media_that_cannot_be_used(model, tmp_path, capsys, name, content, before, says):
    (tmp_path / name).write_bytes(content)
    assert run(["chat", *before, str(tmp_path / name), "What is this?", *model]) == 2
    assert any(part in one_line(capsys) for part in says.split("|"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chat", "PHOTO", "Is <image> like <image>?", "MODEL"], "2 <image> placeholder(s) but 1 image(s)"),
        (["chat", "Photo.png", "What?", "MODEL"], "no such file: Photo.png"),
        (["chat", "--video", "gone.mp4", "What?", "MODEL"], "no such file: gone.mp4"),
        (["chat", "PHOTO", "What?", "--model", "internvl2.5-8c"], "internvl2.5-8"),
        (["chat", "PHOTO", "What?", "--model", "./no/folder"], "no/folder"),
        (["chat", "What?", "MODEL", "--temperature", "-1"], "temperature is -1.0"),
        (["chat", "What?", "MODEL", "--top-k", "many"], "'--top-k'"),
        (["chat", "What?", "MODEL", "--temprature", "1"], "--temperature"),
        (["chat", "What?", "MODEL", "--max-tiles", "0"], "max_tiles is 0"),
        (["chat", "What?", "MODEL", "--frames", "4"], "--video"),
        (["chat", "What?", "MODEL", "--pages", "1-3"], "--pdf FILE"),
        (["chat", "What?", "MODEL", "--password", "secret"], "--pdf FILE"),
        (["chat", "--video", "~nobody/gone.mp4", "What?", "MODEL"], "no such file"),
        (["embed", "PHOTO", "MODEL", "--dtype", "float33"], "float32"),
        (["convert", "MODELPATH", "NEW", "--format", "hf", "--dtype", "float33"], "float32"),
        (["chat", "What?", "MODEL", "--beams", "3", "--temperature", "1"], "beam search does not sample"),
        (["chat", "What?", "MODEL", "--device", "gpu"], "'gpu' is no device"),
        (["chat", "What?", "MODEL", "--device", "cuda:99"], "no device 'cuda:99'"),
        (["chat", "What?", "MODEL", "--dtype", "float33"], "float32"),
        (["chat", "What?", "--endpoint", "localhost:8000"], "expected an address"),
        (["chat", "What?", "--endpoint", "http://localhost:9", "--beams", "3"], "--beams 3 is for a model on this"),
        (["chat", "What?", "--endpoint", "http://localhost:9", "--device", "cpu"], "--device cpu is for a model on"),
        (["chat", "What?", "MODEL", "--extensions"], "--endpoint URL"),
        (["chat", "--json", "MODEL"], "--json answers one question"),
        (["chta"], "Did you mean 'chat'"),
        (["embed"], "nothing to embed"),
        (["embed", "gone.png"], "no such file: gone.png"),
        (["embed", "--text", "a", "MODEL"], "no text side"),
        (["embed", "PHOTO", "MODEL", "--out", "a.txt"], ".npy"),
        (["embed", "PHOTO", "MODEL", "--mode", "X"], "'--mode'"),
        (["zoo", "no-such-model"], "no model has 'no-such-model' in its name"),
        (["convert", "MODELPATH", "PHOTO", "--format", "hf"], "is not an empty folder"),
        (["convert", "MODELPATH", "NEW", "--format", "hff"], "hf"),
        (["convert", "MODELPATH", "NEW"], "--format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(model, photo, tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    words = {"PHOTO": [photo], "MODEL": [*model[:2]], "MODELPATH": [model[1]], "NEW": [str(tmp_path / "new")]}
    assert run([part for word in arguments for part in words.get(word, [word])]) == 2
    assert says in one_line(capsys)
    assert not (tmp_path / "new").exists()


def test_nothing_is_loaded_for_a_mistake_in_the_words(capsys):
    """A wrong file name is answered at once, not after minutes of loading."""
    before = set(sys.modules)
    assert run(["chat", "gone.jpg", "What?"]) == 2
    assert "internvl.inference.chat" not in set(sys.modules) - before
    one_line(capsys)


def test_an_unreachable_address_is_one_line(model, capsys, monkeypatch):
    monkeypatch.setattr(media, "fetch", lambda address, limits: (_ for _ in ()).throw(media.MediaUnreadable("gone")))
    assert run(["chat", "https://example.org/a.jpg", "What?", *model]) == 2
    assert "gone" in one_line(capsys)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_one_line(model, capsys, monkeypatch, error):
    monkeypatch.setattr("internvl.inference.chat.load", lambda *a, **b: (_ for _ in ()).throw(error))
    assert run(["chat", "What?", *model]) == 2
    assert "--dtype bfloat16" in one_line(capsys)


def test_a_fault_of_our_own_is_not_hidden(model, monkeypatch):
    monkeypatch.setattr("internvl.inference.chat.load", lambda *a, **b: (_ for _ in ()).throw(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        run(["chat", "What?", *model])


def test_all_that_the_parser_raises_is_known():
    assert MISTAKE.__name__ == "ClickException"
    assert issubclass(typer.BadParameter, MISTAKE)
    assert not issubclass(typer.Exit, MISTAKE)


def test_embeddings_of_an_address(model, photo, capsys, monkeypatch):
    monkeypatch.setattr(media, "fetch", lambda address, limits: limits.remote and Path(photo).read_bytes())
    assert run(["embed", "https://example.org/photo.png", *model, "--dtype", "float32"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "https://example.org/photo.png"


def test_a_model_that_cannot_converse(capsys):
    assert run(["chat", "What?", "--model", str(golden("checkpoints/internvl-14b"))]) == 2
    assert "does not converse" in one_line(capsys)


# ---- other commands --------------------------------------------------------------------------------------------------


def test_zoo(capsys):
    assert run(["zoo", "2.5-8b"]) == 0
    assert "internvl2.5-8b" in capsys.readouterr().out
    assert run(["zoo", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 80


def test_each_embedded_model_has_its_own_card(capsys):
    cards = {}
    for name in ("nano", "nano-c"):
        assert run(["zoo", name]) == 0
        cards[name] = capsys.readouterr().out
    assert cards["nano"].startswith("# nano\n")
    assert cards["nano-c"].startswith("## nano-c")
    assert cards["nano"].endswith(cards["nano-c"])


def test_a_rank_ends_at_once_with_all_said_and_its_status():
    """Without the interpreter's own end, in which torch's threads now and then abort: nothing may be lost by that."""
    rank = os.environ | {"RANK": "0"}
    good, bad = internvl("zoo", "nano", env=rank), internvl("zoo", "no-such-model", env=rank)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == internvl("zoo", "nano").stdout
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "no model has 'no-such-model'" in bad.stderr


@pytest.mark.parametrize(
    ("name", "parts"), [("nano", ("# nano", "## Measured", "CC BY 4.0", "## nano-c")), ("nano-c", ("## nano-c",))]
)
def test_zoo_has_the_card_of_what_is_inside(name, parts, capsys):
    assert run(["zoo", name]) == 0
    card = capsys.readouterr().out
    assert all(part in card for part in parts)
    assert run(["zoo", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": name, "card": card.rstrip()}]


def test_embed(photo, tmp_path, capsys):
    pair = ("--model", str(golden("checkpoints/internvl-14b")), "--device", "cpu")
    assert run(["embed", photo, "--text", "a bus", "--text", "two dogs", *pair]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["source"] for line in lines] == [photo, "a bus", "two dogs"]
    assert [sum(x * x for x in line["vector"]) for line in lines] == pytest.approx(
        [1, 1, 1], abs=2e-6
    )  # measured: 2.1e-7
    assert run(["embed", photo, "--text", "a bus", "--text", "two dogs", *pair, "--out", str(tmp_path / "v.npy")]) == 0
    printed = np.array([line["vector"] for line in lines])
    assert np.load(tmp_path / "v.npy") == pytest.approx(printed, abs=2e-7)  # seven digits; measured: 4.9e-8


def test_convert_there_and_back(model, tmp_path, capsys):
    source, there, back = Path(model[1]), tmp_path / "hf", tmp_path / "back"
    assert run(["convert", str(source), str(there), "--format", "hf"]) == 0
    assert run(["convert", str(there), str(back), "--format", "custom"]) == 0
    assert "wrote" in capsys.readouterr().out
    answers = []
    for folder in (source, there, back):
        assert run(["chat", "What is 2 + 2?", "--model", str(folder), *BRIEF]) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1


def test_version_and_help(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("internvl 0.")
    for arguments in ([], ["--help"], ["chat", "--help"], ["zoo", "--help"], ["convert", "--help"]):
        assert run(arguments) == 0
        assert "Usage: internvl" in capsys.readouterr().out


def test_python_m_is_the_command_line():
    assert internvl("--version").stdout.startswith("internvl 0.")
    assert internvl("caht").returncode == 2


# ---- being stopped ---------------------------------------------------------------------------------------------------


def test_an_interrupt_is_quiet(model, photo):
    command = [sys.executable, "-m", "internvl", "chat", photo, "What is this?", *model, "--max-new-tokens", "4000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.read(2), "the answer has begun"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


def test_a_closed_pipe_is_quiet(model, photo):
    command = [sys.executable, "-m", "internvl", "chat", photo, "What is this?", *model, "--max-new-tokens", "4000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1
    process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_conversation_at_a_terminal(model, photo, tmp_path):
    import pty

    (tmp_path / "My photo.png").write_bytes(Path(photo).read_bytes())
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "internvl", "chat", photo, *model, *BRIEF]
    environment = os.environ | {"TERM": "dumb"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, env=environment)
    os.close(slave)
    said = b""

    def until(words: bytes) -> bytes:
        nonlocal said
        start, deadline = len(said), time.monotonic() + 60
        while words not in said[start:]:
            assert time.monotonic() < deadline, said
            said += os.read(master, 4096)
        return said[start:]

    def enter(line: str, answer: str) -> bytes:
        os.write(master, f"{line}\n".encode())
        return until(answer.encode())

    until(b"> ")
    assert b"With your first question: picture 100x60" in said
    assert b"tiles" in enter("What is this?", " s)")
    enter("/image 'My photo.png'", "With your next question: picture 100x60")
    enter("/image gone.png", "internvl: no such file: gone.png")
    enter("/imgae a.png", "Did you mean '/image'?")
    enter("And this?", " s)")
    enter("/image 'My photo.png'", "With your next question: picture 100x60")
    enter("/clear", "Nothing goes with your next question.")
    enter("/image 'My photo.png'", "With your next question: picture 100x60.")
    enter("/reset", "The conversation starts anew.")
    enter("/again", "nothing has been asked yet")
    assert b"tiles" not in enter("Who are you?", " s)")
    enter("/again", " s)")
    enter("/undo", "Forgotten: Who are you?")
    enter("/undo", "nothing has been asked yet")
    enter("/system Be brief.", "The conversation starts anew.")
    enter("/help", "/quit")
    enter("/quit now", "/quit takes nothing after it")
    os.write(master, b"/quit\n")
    assert process.wait(timeout=30) == 0
    os.close(master)
    assert b"Traceback" not in said


def test_a_picture_that_is_too_much_is_not_attached_for_ever(capsys):
    """Kept, it would make every further question too long as well."""
    asked = []

    class Talk:
        def ask(self, question, *, images, **media):
            asked.append(len(images))
            raise ContextOverflow("too long") if images else PlaceholderMismatch("no picture")

    partner = Partner(Talk(), "nano", at_once=True)
    talk = Conversation(partner, Media(images=(Image.new("RGB", (9, 9)),)))
    talk.hear("What is this?")
    talk.hear("What is this?")
    assert asked == [1, 0]
    assert "Not attached any more: picture 9x9." in capsys.readouterr().out


def test_pages_of_a_document_in_a_conversation(tmp_path, capsys):
    sheets = [Image.new("RGB", (90, 90), colour) for colour in ("red", "green", "blue")]
    sheets[0].save(tmp_path / "my paper.pdf", save_all=True, append_images=sheets[1:])
    talk = Conversation(Partner(None, "nano"), Media())
    talk.hear(f"/pdf '{tmp_path / 'my paper.pdf'}' 2-3")
    assert "document of 2 pages" in capsys.readouterr().out
    talk.hear(f"/pdf '{tmp_path / 'my paper.pdf'}' 2 3")
    assert "one file and its pages" in capsys.readouterr().err
