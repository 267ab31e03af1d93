"""Runs: sharded = one process, interrupted = uninterrupted, and nothing changes under way."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from internvl import Chat, SamplingConfig
from internvl.errors import DataError, UsageError
from internvl.evaluation.ask import conversation
from internvl.evaluation.benchmark import File, Picture, Sample, Settings, Source
from internvl.evaluation.manifest import begin, read_manifest
from internvl.evaluation.planning import Change, Subset, digest, plan
from internvl.evaluation.ranks import Ranks
from internvl.evaluation.responders import Asked, Reply
from internvl.evaluation.runner import Progress, answer_all
from internvl.evaluation.store import Answered, read_answers
from tests.conftest import REPOSITORY
from tests.evaluation.asker import BENCHMARK, COUNT, ask, tiny

HERE = Path("data")


class Parrot:
    """Answers with the prompt; what it was asked is written down."""

    def __init__(self, most: int | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.most = most

    def describe(self):
        return {"model": {"kind": "parrot", "dtype": "none"}}

    def answer(self, questions):
        for asked in questions:
            if self.most is not None and len(self.asked) == self.most:
                raise KeyboardInterrupt
            self.asked.append((asked.sample.id, asked.seed))
            yield Reply(asked, asked.sample.prompt)


def started(out, task, about=None):
    begin(out, {task.benchmark.name: task.about}, about or Parrot().describe())


def answers_of(out: Path) -> dict[tuple[str, int], Answered]:
    return {(found.id, found.seed): found for found in read_answers(out / "noise")}


@pytest.fixture(scope="module")
def tiny_chat() -> Chat:
    return tiny()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_chat) -> dict[tuple[str, int], Answered]:
    """The answers of the tiny checkpoint, by one process that was not interrupted."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert ask(plan(BENCHMARK, HERE), tiny_chat, out) == COUNT
    return answers_of(out)


def test_no_two_tokens_are_as_likely(tiny_chat):
    """What makes equal answers a fair demand below: the likeliest token is always ahead by more than batches differ.

    Log-probabilities alone and in a batch differ by up to 3.8e-6 (tests/inference/test_chat.py); the smallest lead here
    is 2.8e-3.
    """
    task = plan(BENCHMARK, HERE)
    config = SamplingConfig(max_new_tokens=8, min_new_tokens=1, top_logprobs=2)
    answers = tiny_chat.batch([conversation(sample, task.settings) for sample in task.samples], sampling=config)
    leads = [token.top[0][1] - token.top[1][1] for answer in answers for token in answer.logprobs]
    assert min(leads) > 1e-4


# ---- the same answers ------------------------------------------------------------------------------------------------


def asker(out: Path, *before: str, pause: float = 0.0) -> list[str]:
    return [sys.executable, *before, "-m", "tests.evaluation.asker", str(out), str(pause)]


def test_two_processes_answer_as_one(tmp_path, alone):
    command = asker(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=200)
    files = sorted((tmp_path / "noise").iterdir())
    assert [len(file.read_text().splitlines()) for file in files] == [7, 6]
    first = [json.loads(line)["id"] for line in files[0].read_text().splitlines()]
    assert sorted(first) == sorted(f"q{number}" for number in range(7)), "contiguous, the first has one more"
    assert answers_of(tmp_path) == alone


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, alone, tiny_chat):
    """Killed at three moments, each drawn; what was answered before is there after, byte for byte."""
    chance = random.Random(20)
    before = b""
    for _ in range(3):
        with subprocess.Popen(asker(tmp_path, pause=0.1), cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
            _wait_for(tmp_path / "noise" / "answers.jsonl", len(before.splitlines()) + 1, process)
            time.sleep(chance.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
        now = (tmp_path / "noise" / "answers.jsonl").read_bytes()
        assert now.startswith(before)
        assert now != before
        before = now[: now.rindex(b"\n") + 1]
    (tmp_path / "noise" / "answers.jsonl").write_bytes(before + b'{"id": "q12", "seed": 0, "ans')
    came = ask(plan(BENCHMARK, HERE), tiny_chat, tmp_path, batch_size=2)
    assert came == COUNT - len(before.splitlines()), "nothing is asked twice"
    assert answers_of(tmp_path) == alone


def _wait_for(file: Path, lines: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_at_a_time_is_as_in_batches(tmp_path, alone, tiny_chat):
    ask(plan(BENCHMARK, HERE), tiny_chat, tmp_path, batch_size=1)
    assert answers_of(tmp_path) == alone


# ---- going on --------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_keeps_what_was_answered(tmp_path):
    task = plan(BENCHMARK, HERE)
    started(tmp_path, task)
    with pytest.raises(KeyboardInterrupt):
        answer_all([task], Parrot(most=5), tmp_path)
    assert len(answers_of(tmp_path)) == 5
    parrot = Parrot()
    started(tmp_path, task)
    assert answer_all([task], parrot, tmp_path) == COUNT - 5
    assert answer_all([task], parrot, tmp_path) == 0
    assert sorted(answers_of(tmp_path)) == sorted((f"q{number}", 0) for number in range(COUNT))
    assert [id for id, _ in parrot.asked] == [f"q{number}" for number in range(5, COUNT)]


def test_a_run_may_go_on_with_other_processes(tmp_path):
    task = plan(BENCHMARK, HERE)
    with pytest.raises(KeyboardInterrupt):
        answer_all([task], Parrot(most=4), tmp_path)
    assert answer_all([task], Parrot(), tmp_path, ranks=Ranks(0, 2)) == 3
    assert answer_all([task], Parrot(), tmp_path, ranks=Ranks(1, 2)) == 6
    assert len(answers_of(tmp_path)) == COUNT


def test_seeds_can_be_added_and_are_asked_once(tmp_path):
    warm, parrot = Change(temperature=1.0), Parrot()
    for seeds in ((0,), (0, 1), (1,)):
        task = plan(BENCHMARK, HERE, change=warm, seeds=seeds, subset=Subset(first=2))
        started(tmp_path, task)
        answer_all([task], parrot, tmp_path)
    assert parrot.asked == [("q0", 0), ("q1", 0), ("q0", 1), ("q1", 1)]
    assert read_manifest(tmp_path)["tasks"]["noise"]["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("change", "about", "message"),
    [
        ({"change": Change(max_tiles=2)}, {}, "noise, settings, max_tiles 3, now it is 2"),
        ({"subset": Subset(first=4)}, {}, "noise, subset, first None, now it is 4"),
        ({}, {"dtype": "float16"}, "the model, dtype 'none', now it is 'float16'"),
    ],
)
def test_a_run_is_made_in_one_way(tmp_path, change, about, message):
    started(tmp_path, plan(BENCHMARK, HERE))
    written = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UsageError, match=message) as caught:
        started(tmp_path, plan(BENCHMARK, HERE, **change), {"model": {"kind": "parrot", "dtype": "none"} | about})
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run.json").read_bytes() == written


def test_questions_that_changed_are_noticed(tmp_path):
    started(tmp_path, plan(BENCHMARK, HERE))

    def louder(folder):
        return (replace(one, prompt=one.prompt + "!") for one in BENCHMARK.sources[0].read(folder))

    other = Source("shared", (), louder)
    with pytest.raises(UsageError, match="questions"):
        started(tmp_path, plan(replace(BENCHMARK, sources=(other,)), HERE))


def test_answers_without_a_manifest_are_nobodys(tmp_path):
    answer_all([plan(BENCHMARK, HERE)], Parrot(), tmp_path)
    with pytest.raises(UsageError, match="has answers but no run"):
        started(tmp_path, plan(BENCHMARK, HERE))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="its format is not 1"):
        read_manifest(tmp_path)
    with pytest.raises(UsageError, match="is no run"):
        read_manifest(tmp_path / "nothing")


# ---- which samples, which settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: run.update(model="nano"), "`model` is no object"),
        (lambda run: run["tasks"].update(noise=5), "noise: `data` names no folder"),
        (lambda run: run["tasks"]["noise"].update(data=5), "noise: `data` names no folder"),
        (lambda run: run["tasks"]["noise"]["data"].update(files=[5]), "noise: `data` names no files"),
        (lambda run: run["tasks"]["noise"].update(questions=None), "noise: `layout` or `questions`"),
        (lambda run: run["tasks"]["noise"].update(seeds=[]), "noise: `seeds` is no list of numbers"),
        (lambda run: run["tasks"]["noise"].update(seeds=["0"]), "noise: `seeds` is no list of numbers"),
        (lambda run: run["tasks"]["noise"].update(subset={"first": 1}), "noise: `subset` is no subset"),
        (lambda run: run["tasks"]["noise"].update(subset={"first": "1", "drawn": None}), "noise: `subset`"),
    ],
)
def test_a_damaged_manifest_is_said(tmp_path, damage, message):
    started(tmp_path, plan(BENCHMARK, HERE))
    found = read_manifest(tmp_path)
    damage(found)
    (tmp_path / "run.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=f"{message}.*the run cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "run.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not JSON"):
        read_manifest(tmp_path)


def test_a_picture_that_is_shown_in_another_way_is_another_question():
    one = Sample(id="a", prompt="", pictures=(Picture("1.png", bytes),))
    others = [replace(one, pictures=(replace(one.pictures[0], **how),)) for how in ({"max_tiles": 3}, {"enlarge": 2})]
    assert len({digest([sample]) for sample in (one, *others)}) == 3


def test_changes_that_cannot_be():
    for name, value in (("max_tiles", 0), ("frames", -1), ("max_new_tokens", 0), ("temperature", -0.1)):
        with pytest.raises(UsageError, match=f"{name} is {value}; it must be at least"):
            Change(**{name: value})
    for value in (math.nan, math.inf):
        with pytest.raises(UsageError, match="temperature is"):
            Change(temperature=value)


def test_parts_are_contiguous_and_the_first_ones_longer():
    assert [len(Ranks(rank, 4).part(10)) for rank in range(4)] == [3, 3, 2, 2]
    for world in range(1, 8):
        for count in range(20):
            parts = [place for rank in range(world) for place in Ranks(rank, world).part(count)]
            assert parts == list(range(count))


def test_subsets():
    samples = [Sample(id=str(number), prompt="") for number in range(100)]
    assert [one.id for one in Subset(first=3).of(samples)] == ["0", "1", "2"]
    drawn = [int(one.id) for one in Subset(drawn=10).of(samples)]
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 10
    assert drawn != list(range(10))
    assert [int(one.id) for one in Subset(drawn=10).of(samples)] == drawn
    assert Subset(drawn=200).of(samples) == Subset().of(samples) == samples
    for wrong in ({"first": 0}, {"drawn": -1}, {"first": 1, "drawn": 1}):
        with pytest.raises(UsageError):
            Subset(**wrong)


def test_what_a_run_changes():
    settings = Settings(max_new_tokens=10, min_new_tokens=8, max_tiles=18, together=64)
    changed = Change(max_tiles=24, temperature=0.5, max_new_tokens=4).of(settings)
    assert (changed.max_tiles, changed.together, changed.temperature) == (24, 64, 0.5)
    assert (changed.max_new_tokens, changed.min_new_tokens, changed.frames) == (4, 4, 16)
    assert Change(max_tiles=100).of(settings).together == 100
    assert Change().of(settings) == settings


def test_missing_data_says_which_file_to_put_where(tmp_path):
    hint = File("noise/a.jsonl", hint="ask the authors")
    table = File("Noise.tsv", url="https://example.org/Noise.tsv")
    forms = (
        Source("original", (hint, File("noise/images")), lambda folder: iter(())),
        Source("vlmevalkit", (table,), lambda folder: iter(())),
    )
    with pytest.raises(DataError) as caught:
        plan(replace(BENCHMARK, sources=forms), tmp_path)
    assert str(caught.value) == (
        f"noise: no data in {tmp_path}; put there noise/a.jsonl and 1 more [ask the authors], or Noise.tsv "
        "[https://example.org/Noise.tsv] (or name its folder with --data); all files and addresses: internvl eval "
        "--list --json"
    )
    (tmp_path / "Noise.tsv").write_text("")
    with pytest.raises(DataError, match=r"Noise\.tsv .* has no samples"):
        plan(replace(BENCHMARK, sources=forms), tmp_path)


def test_ids_are_unique():
    twice = Source("shared", (), lambda folder: iter([Sample(id="a", prompt=""), Sample(id="a", prompt="")]))
    with pytest.raises(DataError, match="two samples have the id 'a'"):
        plan(replace(BENCHMARK, sources=(twice,)), HERE)


def test_seeds_that_mean_nothing():
    for seeds, message in (((), "expected different"), ((1, 1), "expected different"), ((0, 1), "temperature 0")):
        with pytest.raises(UsageError, match=message):
            plan(BENCHMARK, HERE, seeds=seeds)


def test_the_running_score(tmp_path):
    seen: list[Progress] = []
    task = plan(BENCHMARK, HERE)
    answer_all([task], Parrot(), tmp_path, watch=seen.append)
    assert [found.done for found in seen] == list(range(1, COUNT + 1))
    right = sum("a" in sample.prompt for sample in task.samples)
    assert seen[-1].total == COUNT
    assert seen[-1].score == pytest.approx(100 * right / COUNT)


def test_what_is_written_down(tmp_path):
    started(tmp_path, plan(BENCHMARK, HERE, subset=Subset(drawn=5)))
    found = read_manifest(tmp_path)
    task = found["tasks"]["noise"]
    assert task["settings"]["max_tiles"] == 3
    assert (task["samples"], task["of"]) == (5, COUNT)
    assert task["questions"].startswith("sha256:")
    assert {"torch", "internvl", "python"} <= set(found["packages"])
    assert os.uname().nodename not in json.dumps(found["machine"])


def test_wrong_words_of_a_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(UsageError, match="expected numbers, as of torchrun"):
        Ranks.here()


def test_asked_is_what_a_responder_is_given(tmp_path):
    class Curious(Parrot):
        def answer(self, questions):
            for asked in questions:
                assert isinstance(asked, Asked)
                assert asked.settings.max_new_tokens == 5
                yield Reply(asked, "")

    answer_all([plan(BENCHMARK, HERE, change=Change(max_new_tokens=5))], Curious(), tmp_path)
