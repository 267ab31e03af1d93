"""Answers on the disk: nothing is lost, nothing is there twice."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest

from internvl.errors import DataError, UsageError
from internvl.evaluation.store import Answered, Store, read_answers, write_whole


def answer(number: int, seed: int = 0) -> Answered:
    return Answered(id=f"q{number}", seed=seed, answer=f"answer {number}\n“”", finish="stop", tokens=3, tiles=(1, 5))


def filled(folder, count: int = 3) -> None:
    with Store(folder) as store:
        for number in range(count):
            store.add(answer(number))


def test_what_was_added_is_read_again(tmp_path):
    filled(tmp_path / "task")
    assert list(read_answers(tmp_path / "task")) == [answer(0), answer(1), answer(2)]
    with Store(tmp_path / "task") as store:
        assert len(store) == 3
        assert ("q1", 0) in store
        assert ("q1", 1) not in store
        store.add(answer(1, seed=1))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_unfinished_line_is_dropped(tmp_path, cut):
    filled(tmp_path)
    file = tmp_path / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert [found.id for found in read_answers(tmp_path)] == ["q0", "q1"]
    with Store(tmp_path) as store:
        assert ("q2", 0) not in store
        store.add(answer(2))
    assert list(read_answers(tmp_path)) == [answer(0), answer(1), answer(2)]


def test_a_torn_line_alone_and_a_long_one(tmp_path):
    (tmp_path / "answers.jsonl").write_bytes(b'{"id": "q0", "se')
    with Store(tmp_path) as store:
        assert len(store) == 0
    assert (tmp_path / "answers.jsonl").read_bytes() == b""
    filled(tmp_path)
    whole = (tmp_path / "answers.jsonl").read_bytes()
    (tmp_path / "answers.jsonl").write_bytes(whole + b"x" * 200_000)
    with Store(tmp_path):
        pass
    assert (tmp_path / "answers.jsonl").read_bytes() == whole


def test_every_process_has_its_own_file_and_knows_the_others(tmp_path):
    with Store(tmp_path, rank=0, world=2) as one, Store(tmp_path, rank=1, world=2) as other:
        one.add(answer(0))
        other.add(answer(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers-0of2.jsonl", "answers-1of2.jsonl"]
    with Store(tmp_path) as store:
        assert [("q0", 0) in store, ("q1", 0) in store] == [True, True]
        store.add(answer(2))
    assert {found.id for found in read_answers(tmp_path)} == {"q0", "q1", "q2"}


def test_nothing_is_answered_twice(tmp_path):
    filled(tmp_path)
    with Store(tmp_path) as store, pytest.raises(DataError, match="'q1' with seed 0 is answered already"):
        store.add(answer(1))
    (tmp_path / "answers-0of2.jsonl").write_bytes((tmp_path / "answers.jsonl").read_bytes().splitlines(True)[1])
    with pytest.raises(DataError, match=r"'q1' with seed 0 is answered in .* too"):
        list(read_answers(tmp_path))


def test_two_processes_do_not_write_one_file(tmp_path):
    with Store(tmp_path), pytest.raises(UsageError, match="another process is writing"), Store(tmp_path):
        pass
    with Store(tmp_path):
        pass


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_runs_of_other_numbers_of_processes_do_not_meet(tmp_path, first, second):
    """Both would ask the same questions, and the run could never be scored."""
    with Store(tmp_path, world=first), pytest.raises(UsageError, match="another process"):
        Store(tmp_path, world=second).__enter__()
    with Store(tmp_path, world=second), Store(tmp_path, rank=second - 1, world=second) if second > 1 else nullcontext():
        pass


def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    """A limit on the size of files stands in for it."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from internvl.evaluation.store import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "try:\n"
        "    with Store(Path(sys.argv[1])) as store:\n"
        "        for n in range(9): store.add(Answered(id=f'q{n}', seed=0, answer='yes'))\n"
        "except DataError as error: print(n, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert re.fullmatch(r"[1-8] .*answers\.jsonl: cannot be written \(File too large\); what came .*\n", done.stdout)
    with Store(tmp_path) as store:
        assert len(store) == int(done.stdout[0]), "the torn line is asked again, nothing else"


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from internvl.evaluation.store import *\n"
        "with Store(Path(sys.argv[1])) as store:\n"
        "    store.add(Answered(id='q0', seed=0, answer='yes')); print('there', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        with pytest.raises(UsageError, match="another process"), Store(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    with Store(tmp_path) as store:
        assert ("q0", 0) in store


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense\n", "answers.jsonl:4: not JSON; delete the line"),
        (b"[1]\n", "answers.jsonl:4: no JSON object"),
        (b'{"id": "q9"}\n', "answers.jsonl:4: no answer; expected an object with id, seed and answer"),
        (b'{"id": 9, "seed": 0, "answer": ""}\n', "answers.jsonl:4: no answer"),
        (b"[" * 100_000 + b"\n", "answers.jsonl:4: not JSON"),
        (b'{"id": "q9", "seed": 0, "answer": "", "tiles": 5}\n', "answers.jsonl:4: finish, tokens or tiles"),
        (b'{"id": "q9", "seed": 0, "answer": "", "tiles": ["5"]}\n', "answers.jsonl:4: finish, tokens or tiles"),
        (b'{"id": "q9", "seed": 0, "answer": "", "tokens": "5"}\n', "answers.jsonl:4: finish, tokens or tiles"),
        (b'{"id": "q9", "seed": 0, "answer": "", "finish": {}}\n', "answers.jsonl:4: finish, tokens or tiles"),
    ],
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line, message):
    filled(tmp_path)
    file = tmp_path / "answers.jsonl"
    file.write_bytes(file.read_bytes() + line + json.dumps({"id": "q5", "seed": 0, "answer": ""}).encode() + b"\n")
    with pytest.raises(DataError, match=message):
        list(read_answers(tmp_path))


def test_a_text_that_is_no_text(tmp_path):
    with Store(tmp_path) as store:
        store.add(Answered(id="q0", seed=0, answer="half a pair \ud800"))
    assert [found.answer for found in read_answers(tmp_path)] == ["half a pair ?"]


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    write_whole(tmp_path / "scores.json", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "scores.json", "new")
    assert (tmp_path / "scores.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
