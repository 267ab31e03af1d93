"""`internvl eval` and `internvl score` from outside."""

import base64
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from internvl import Chat
from internvl.cli.eval import _run_name
from internvl.cli.main import run
from internvl.cli.scores import table as table_of
from internvl.evaluation.ask import conversation
from internvl.evaluation.benchmark import Mark, Marked, Published, Sample
from internvl.evaluation.planning import plan
from internvl.evaluation.responders import Asked, sampling_of
from internvl.evaluation.results import RunResult, TaskResult
from internvl.evaluation.store import read_answers
from internvl.evaluation.tasks import TABLE
from tests.conftest import REPOSITORY, golden
from tests.evaluation.asker import BENCHMARK, png
from tests.evaluation.endpoint import Endpoint, answering, completion, serving

WITHOUT_COLOUR = os.environ | {"NO_COLOR": "1"}


@pytest.fixture
def model() -> tuple[str, ...]:
    return ("--model", str(golden("checkpoints/qwen2-v2_5-bf16")), "--device", "cpu", "--max-new-tokens", "4")


@pytest.fixture
def table(tmp_path) -> str:
    """A table in VLMEvalKit's form: which of two."""
    rows = ["index\tquestion\tA\tB\tanswer\timage"]
    rows += [f"{n}\tWhich?\tone\tother\t{'AB'[n % 2]}\t{base64.b64encode(png(n)).decode()}" for n in range(6)]
    (tmp_path / "Two_Things.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "Two_Things.tsv")


def said(capsys) -> str:
    """The one line of a mistake."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("internvl: ")
    assert captured.err.count("\n") == 1
    return captured.err


def lines_of(run: Path) -> dict[str, list[bytes]]:
    """The lines of each task's answers, whichever process wrote them."""
    return {
        task.name: sorted(line for file in task.glob("answers*.jsonl") for line in file.read_bytes().splitlines())
        for task in sorted(run.iterdir())
        if task.is_dir()
    }


# ---- a table of one's own --------------------------------------------------------------------------------------------


def test_a_table_from_questions_to_report(table, model, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(["eval", table, "--out", str(out), *model]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[0].split() == ["benchmark", "figure", "score", "95", "%", "published"]
    assert printed.out.splitlines()[1].startswith("two-things")
    assert {path.name for path in out.iterdir()} == {"run.json", "scores.json", "report.html", "two-things"}
    assert len(list(read_answers(out / "two-things"))) == 6

    before = (out / "two-things" / "answers.jsonl").read_bytes()
    assert run(["eval", table, "--out", str(out), *model]) == 0, "there is nothing left to ask"
    assert capsys.readouterr().out == printed.out
    assert (out / "two-things" / "answers.jsonl").read_bytes() == before

    (out / "scores.json").unlink()
    assert run(["score", str(out)]) == 0
    assert capsys.readouterr().out == printed.out
    assert run(["score", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == json.loads((out / "scores.json").read_text())["scores"]


def test_two_runs_are_compared(table, model, tmp_path, capsys):
    for name, tiles in (("one", "1"), ("four", "4")):
        assert run(["eval", table, "--out", str(tmp_path / name), "--max-tiles", tiles, *model]) == 0
    capsys.readouterr()
    assert run(["score", str(tmp_path / "four"), "--against", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert "a = one, b = four" in printed
    assert "two-things" in printed
    assert run(["score", str(tmp_path / "four"), "--against", str(tmp_path / "one"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"][0]["samples"] == 6


def test_the_files_hold_every_benchmark_of_the_folder(table, model, tmp_path, capsys):
    """Asking for a second one shows that one; the first keeps its figures, even where its data has gone."""
    other, out = tmp_path / "Other_Things.tsv", tmp_path / "run"
    other.write_text(Path(table).read_text())
    assert run(["eval", table, "--out", str(out), *model, "--compat", "original"]) == 0
    first = json.loads((out / "scores.json").read_text())["scores"]["two-things"]
    capsys.readouterr()
    for _ in range(2):
        assert run(["eval", str(other), "--out", str(out), *model]) == 0
        printed = capsys.readouterr().out
        assert "other-things" in printed
        assert "two-things" not in printed
        assert "(and of 1 more benchmark of this run)" in printed
        scores = json.loads((out / "scores.json").read_text())["scores"]
        assert set(scores) == {"two-things", "other-things"}
        assert scores["two-things"] == first, "by the rules that it was scored with"
        assert scores["other-things"]["rules"] == "paper"
    assert all(f'data-task="{name}"' in (out / "report.html").read_text() for name in scores)
    assert run(["eval", str(other), "--out", str(out), *model, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["scores"]) == {"other-things"}

    Path(table).rename(tmp_path / "gone.tsv")
    assert run(["score", str(out), "--task", "other-things"]) == 0
    assert "two-things keeps the figures that it had, as it cannot be scored again: " in capsys.readouterr().out
    left = json.loads((out / "scores.json").read_text())["scores"]["two-things"]
    assert left["values"] == first["values"]
    assert "say with --data in which folder the table is now" in left["left out"]
    assert "two-things, not shown" in (out / "report.html").read_text()


def test_questions_that_a_server_refuses(table, tmp_path, capsys):
    """Counted, wrong, and not asked again; beyond what is allowed one line says how to go on."""
    words = ["eval", table, "--out", str(tmp_path / "run"), "--at-once", "1"]
    complaint = "the picture was flagged"
    with serving(Endpoint(lambda body: completion("A"), failures=[400, 400], complaint=complaint)) as endpoint:
        words += ["--endpoint", endpoint.url]
        assert run(words) == 2
        line = said(capsys)
        assert "two-things: 2 of 6 not answered: 2 refused; 1 may fail. Such as " in line
        assert line.endswith("the picture was flagged. Go on with --failures 2 or more; --again asks them again\n")
        assert run([*words, "--failures", "2"]) == 0
        assert "two-things: 2 of 6 not answered: 2 refused; counted as wrong" in capsys.readouterr().out
        assert len(endpoint.bodies) == 6
        assert run([*words, "--again"]) == 0
        assert "not answered" not in capsys.readouterr().out
        assert len(endpoint.bodies) == 8


def test_notes_are_wrapped_in_a_terminal(tmp_path):
    benchmark = replace(BENCHMARK, note="one two three " * 20)
    row = Marked(Sample(id="1", prompt="?"), "a", Mark(1.0))
    task = TaskResult(
        benchmark=benchmark, asked={"samples": 1, "of": 1}, rows={0: [row]}, scores=benchmark.summarise([row]),
        intervals={}, by_seed={}, compat=None, marked_by="rule",
    )  # fmt: skip
    result = RunResult(folder=tmp_path, manifest={"model": {"name": "nano"}}, tasks=(task,))
    assert max(map(len, table_of(result, width=60).splitlines())) <= 60
    assert table_of(result, width=60).split() == table_of(result).split()
    assert max(map(len, table_of(result).splitlines())) > 200


def test_tiles_that_a_checkpoint_does_not_cut_are_refused(table, tmp_path, capsys):
    folder = tmp_path / "fixed"
    shutil.copytree(golden("checkpoints/qwen2-v2_5-bf16"), folder)
    config = json.loads((folder / "config.json").read_text()) | {"dynamic_image_size": False}
    (folder / "config.json").write_text(json.dumps(config))
    words = ["eval", table, "--model", str(folder), "--out", str(tmp_path / "run"), "--limit", "1", "--device", "cpu"]
    assert run([*words, "--max-tiles", "6"]) == 2
    assert "--max-tiles 6: this checkpoint sees every picture as one tile; leave it out, or say 1" in said(capsys)
    assert not (tmp_path / "run").exists()
    assert run([*words, "--max-tiles", "1", "--max-new-tokens", "2"]) == 0


def test_a_table_that_moved(table, model, tmp_path, capsys):
    assert run(["eval", table, "--out", str(tmp_path / "run"), *model]) == 0
    (tmp_path / "elsewhere").mkdir()
    Path(table).rename(tmp_path / "elsewhere" / "Two_Things.tsv")
    capsys.readouterr()
    assert run(["score", str(tmp_path / "run")]) == 2
    assert "say with --data in which folder the table is now" in said(capsys)
    assert run(["score", str(tmp_path / "run"), "--data", str(tmp_path / "elsewhere")]) == 0


def test_a_terminal_shows_the_running_score(table, model, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    assert run(["eval", table, "--out", str(tmp_path / "run"), *model]) == 0
    last = sys.stderr.getvalue().rstrip().rpartition("two-things")[2]
    assert "6/6" in last
    [score] = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["two-things"]["values"].values()
    assert f"{score:.1f} so far" in last


def test_a_server_is_asked(table, tmp_path, capsys):
    with serving(Endpoint(lambda body: completion("A"))) as endpoint:
        assert run(["eval", table, "--endpoint", endpoint.url, "--out", str(tmp_path / "run"), "--limit", "4"]) == 0
    assert "50.00" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["model"] == {"kind": "endpoint", "name": "tiny", "extensions": False}
    assert (manifest["endpoint"], len(endpoint.bodies)) == (endpoint.url, 4)


def test_without_the_package_for_reports_there_are_figures(table, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run(["eval", table, "--out", str(tmp_path / "run"), *model]) == 0
    assert "pip install 'internvl[eval]'" in capsys.readouterr().out
    assert (tmp_path / "run" / "scores.json").exists()


def test_the_published_score_stands_beside_it(tmp_path):
    printed = (
        Published("InternVL2-1B", 70.0, "accuracy", "here", "--max-tiles 24"),
        Published("InternVL2-2B", 71.0, "accuracy", "here"),
    )
    benchmark = replace(BENCHMARK, published=printed)
    row = Marked(Sample(id="1", prompt="?"), "a", Mark(1.0))
    task = TaskResult(
        benchmark=benchmark, asked={"samples": 1, "of": 9}, rows={0: [row]}, scores=benchmark.summarise([row]),
        intervals={"accuracy": (20.7, 100.0)}, by_seed={}, compat=None, marked_by="fallback",
    )  # fmt: skip
    texts = {}
    for model in ("OpenGVLab/InternVL2-2B", "nano"):
        manifest = {"model": {"name": model}}
        texts[model] = table_of(RunResult(folder=tmp_path, manifest=manifest, tasks=(task,)))
    assert "100.00  20.7 .. 100.0  71 (InternVL2-2B)" in texts["OpenGVLab/InternVL2-2B"]
    assert "70 (InternVL2-1B)" in texts["nano"]
    assert "noise: the published score was made with --max-tiles 24" in texts["nano"]
    assert "noise: 1 of 9 samples" in texts["nano"]
    assert "noise: by the rule that stands in for a judge" in texts["nano"]


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no benchmark; name one"),
        (["pop"], "Did you mean 'pope'?"),
        (["nothing.tsv"], "nothing.tsv: there is no such table"),
        (["pope", "--data", "nowhere"], "no data in nowhere; get it with --download, or put there pope/"),
        (["TABLE", "--seeds", "a"], "expected numbers such as 0,1,2"),
        (["TABLE", "--seeds", "0,1"], "several seeds with temperature 0"),
        (["TABLE", "--limit", "3", "--sample", "3"], "give one of them"),
        (["TABLE", "--judge-model", "m"], "without --judge"),
        (["TABLE", "--judge", "http://localhost:9/v1", "--rules"], "by a judge or by the rule"),
        (["TABLE", "--extensions"], "are for a server"),
        (["TABLE", "--at-once", "3"], "are for a server"),
        (["TABLE", "--patience", "3"], "are for a server"),
        (["TABLE", "--failures", "many"], "--failures many: expected a number of questions, or a share"),
        (["TABLE", "--endpoint", "http://localhost:9/v1", "--batch-size", "3"], "--batch-size 3 is for a model on"),
        (["TABLE", "--endpoint", "http://localhost:9/v1", "--max-tiles", "3"], "hears of it only with --extensions"),
        (["TABLE", "--judge", "http://localhost:9/v1"], "--judge: no benchmark here needs a judge"),
        (["TABLE", "--rules"], "--rules: no benchmark here needs a judge"),
        (["TABLE", "--max-tiles", "0"], "max_tiles is 0; it must be at least 1"),
        (["TABLE", "--frames", "0"], "frames is 0"),
        (["TABLE", "--temperature", "nan"], "temperature is nan"),
        (["--list", "pope"], "--list shows all benchmarks and takes only --data and --json; leave out tasks"),
        (["--list", "--limit", "3"], "leave out limit"),
        (["TABLE", "--endpoint", "http://localhost:9/v1", "--dtype", "float32"], "--endpoint asks a server"),
        (["TABLE", "--mark-by", "anls"], "is multiple choice, which has a rule of its own"),
        (["pope", "--mark-by", "anls"], "is for open questions of a TSV file"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(words, message, table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["eval", *(table if word == "TABLE" else word for word in words)]) == 2
    assert message in said(capsys)
    assert not (tmp_path / "runs").exists(), "nothing was begun"


def test_a_run_is_not_changed_under_way(table, model, tmp_path, capsys):
    assert run(["eval", table, "--out", str(tmp_path / "run"), "--limit", "2", *model]) == 0
    capsys.readouterr()
    assert run(["eval", table, "--out", str(tmp_path / "run"), "--limit", "3", *model]) == 2
    assert "use the same again, or another --out" in said(capsys)
    assert run(["score", str(tmp_path / "run"), "--task", "pope"]) == 2
    assert "has no pope; it has: two-things" in said(capsys)
    assert run(["score", str(tmp_path / "nothing")]) == 2
    assert "is no run" in said(capsys)


def test_a_run_is_named_after_the_folder_of_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [_run_name(model) for model in ("OpenGVLab/InternVL2-1B", "a/b/", ".")] == [
        "InternVL2-1B",
        "b",
        tmp_path.name,
    ]
    assert _run_name("..") == tmp_path.parent.name
    assert _run_name("/") == "model"


def test_what_a_run_needs_no_judge_for(table, model, tmp_path, capsys):
    assert run(["eval", table, "--out", str(tmp_path / "run"), *model]) == 0
    capsys.readouterr()
    assert run(["score", str(tmp_path / "run"), "--rules"]) == 2
    assert "no benchmark here needs a judge" in said(capsys)


def test_the_first_process_cannot_begin(table, model, tmp_path):
    """The others do not wait for it, and none of them shows a traceback."""
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "internvl", "eval", table,
         "--out", str(tmp_path / "file" / "run"), *model],
        capture_output=True, text=True, cwd=REPOSITORY, env=WITHOUT_COLOUR, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("internvl: ")]
    assert f"internvl: {tmp_path / 'file' / 'run'}: Not a directory" in ours
    assert "internvl/cli" not in done.stderr, "no traceback through our own files"


def test_the_list(tmp_path, capsys):
    assert run(["eval", "--list", "--data", str(tmp_path), "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["pope"]["title"] == "POPE"
    assert listed["pope"]["data"] is None
    assert run(["eval", "--list", "--data", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(listed) + 1


@pytest.mark.parametrize("command", ["eval", "score"])
def test_help_is_instant(command):
    code = (
        f"import sys; sys.argv = ['internvl', {command!r}, '--help']\n"
        "from internvl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'av', 'openai', 'internvl.evaluation'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_interrupted_run_says_that_it_goes_on(table, model, tmp_path, monkeypatch, capsys):
    batch = Chat.batch
    calls: list[int] = []

    def impatient(self, questions, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch(self, questions, **options)

    monkeypatch.setattr(Chat, "batch", impatient)
    words = ["eval", table, "--out", str(tmp_path / "run"), "--batch-size", "1", *model]
    assert run(words) == 130
    assert "the same command goes on from there" in said(capsys)
    assert len(list(read_answers(tmp_path / "run" / "two-things"))) == 2
    assert run(words) == 0
    assert len(list(read_answers(tmp_path / "run" / "two-things"))) == 6


# ---- the embedded model on the project's own tasks -------------------------------------------------------------------

OWN = ("receipts-lines", "sudoku", "trashnet", "flags", "emoji", "caltech101")


@pytest.fixture(scope="module")
def own(shared) -> list[str]:
    return ["eval", *OWN, "--data", str(shared / "data"), "--sample", "5", "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def alone(own, tmp_path_factory) -> dict[str, list[bytes]]:
    """The answers of nano, by one process that was not interrupted."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert run([*own, "--out", str(out)]) == 0
    found = lines_of(out)
    assert [len(lines) for lines in found.values()] == [5] * len(OWN)
    return found


def assert_same(found: dict[str, list[bytes]], alone: dict[str, list[bytes]], data: Path) -> None:
    """Equal answers, but where two tokens are as likely to within what batches of other shapes change.

    Seen: all equal. Whoever else is in a batch moves log-probabilities by up to 4e-6 (tests/inference/test_chat.py).
    """
    assert found.keys() == alone.keys()
    chat: Chat | None = None
    for task in found:
        ours, theirs = ({row["id"]: row for row in map(json.loads, lines)} for lines in (found[task], alone[task]))
        assert len(found[task]) == len(alone[task])
        assert ours.keys() == theirs.keys()
        for id in [id for id in ours if ours[id]["answer"] != theirs[id]["answer"]]:
            chat = chat or Chat.load(device="cpu", dtype="float32")
            planned = plan(TABLE[task], data)
            [sample] = [sample for sample in planned.samples if sample.id == id]
            config = replace(sampling_of(Asked(sample, planned.settings)), top_logprobs=2)
            [answer] = chat.batch([conversation(sample, planned.settings)], sampling=config)
            leads = [token.top[0][1] - token.top[1][1] for token in answer.logprobs]
            assert min(leads) < 2e-5, f"{task} {id}: {ours[id]['answer']!r} and {theirs[id]['answer']!r}"


def start(words: list[str], *before: str) -> subprocess.Popen[str]:
    command = [sys.executable, *before, "-m", "internvl", *words]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=WITHOUT_COLOUR, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_nano_under_torchrun(own, alone, shared, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    with start([*own, "--out", str(tmp_path)], *launcher) as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert out.count("benchmark  ") == 1, "one process prints the table"
    assert_same(lines_of(tmp_path), alone, shared / "data")


@pytest.mark.slow
def test_nano_behind_a_server(own, alone, shared, tmp_path):
    words = [word for word in own if word not in ("--device", "cpu", "--dtype", "float32")]
    with serving(answering(Chat.load(device="cpu", dtype="float32"))) as endpoint:
        assert run([*words, "--endpoint", endpoint.url, "--extensions", "--out", str(tmp_path)]) == 0
    assert_same(lines_of(tmp_path), alone, shared / "data")


@pytest.mark.slow
def test_nano_killed_at_random_moments(own, alone, shared, tmp_path):
    """`kill -9` at three moments, each drawn; what was answered before is never asked again."""
    chance, kept = random.Random(3), dict[str, list[bytes]]()
    words = [*own, "--out", str(tmp_path), "--batch-size", "1"]
    for _ in range(3):
        with start(words) as process:
            _wait_for_more(tmp_path, sum(map(len, kept.values())), process)
            time.sleep(chance.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        whole = {task: [line for line in lines if line.endswith(b"}")] for task, lines in lines_of(tmp_path).items()}
        assert all(set(kept[task]) <= set(whole[task]) for task in kept)
        kept = whole
    assert run(words) == 0
    assert_same(lines_of(tmp_path), alone, shared / "data")


def _wait_for_more(out: Path, than: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while sum(file.read_bytes().count(b"\n") for file in out.glob("*/answers.jsonl")) <= than:
        if process.poll() is not None:
            return  # it was quicker than we were
        assert time.monotonic() < deadline
        time.sleep(0.02)
