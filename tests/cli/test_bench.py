"""`internvl bench serve` from outside: a run, and each mistake in one line."""

import json
import re

import pytest
import typer

from internvl.cli.bench import bench
from internvl.cli.main import run
from tests.bench.scripted import Scripted, answer, nobody, serving

SERVE = ("bench", "serve", "--endpoint")
FEW = ("--requests", "6", "--concurrency", "2", "--input-tokens", "8", "--max-tokens", "4", "--image-size", "32")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def mistake(capsys, *arguments):
    """What was said of a user's mistake: one line, exit status 2, nothing else printed."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("internvl: ")
    assert err.count("\n") == 1
    return err


def some_fail(handler, body, number):
    if number in (2, 4):
        handler.refuse(503, "the worker starts again")
    else:
        answer(handler, body)


def test_a_run_tells_its_figures_and_writes_its_report(capsys, tmp_path):
    report = tmp_path / "report.html"
    with serving(Scripted(some_fail)) as scripted:
        arguments = (*SERVE, scripted.url, *FEW, "--image-mix", "0.5", "--goodput", "ttft:1000,itl:1000")
        assert run((*arguments, "--out", str(report))) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("answered     4 of 6 in ")
    for expected in ("HTTP 503 x 2: the worker starts again", "counted by the server", "66.7% of all requests kept"):
        assert expected in out
    assert re.search(r"time to first token +\S+", out)
    assert "the worker starts again" in report.read_text(encoding="utf-8")
    assert len(scripted.bodies) == 7  # a first question, which is not counted
    assert sum(not isinstance(body["messages"][0]["content"], str) for body in scripted.bodies[1:]) == 3


def test_json_is_one_object_with_all_that_was_asked(capsys):
    with serving(Scripted()) as scripted:
        assert run((*SERVE, scripted.url, *FEW, "--json", "--extra", '{"temperature": 0}')) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answered"], found["failed"], found["output_tokens"]) == (6, 0, 24)
    assert found["asked"]["model"] == "tiny"
    assert found["asked"]["load"] == "6 requests, 2 at once"
    assert set(found["spreads"]["ttft"]) == {"count", "mean", "p50", "p90", "p99", "largest"}
    assert {body["temperature"] for body in scripted.bodies} == {0}


def test_an_open_loop_says_how_many_arrived(capsys):
    with serving(Scripted()) as scripted:
        arguments = ("--requests", "5", "--rate", "100", "--seed", "2", "--prompt", "Hello", "--json")
        assert run((*SERVE, scripted.url, *arguments)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["offered_per_second"] > 0
    assert found["spreads"]["sent late"]["count"] == 5
    assert {body["messages"][0]["content"] for body in scripted.bodies} == {"Hello"}


def test_a_key_comes_from_the_variable_that_is_named_and_is_never_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-of-my-own")
    with serving(Scripted()) as scripted:
        arguments = (*SERVE, scripted.url, *FEW, "--key-env", "MY_KEY", "--out", str(tmp_path / "r.html"))
        assert run(arguments) == 0
    assert set(scripted.keys) == {"Bearer sk-of-my-own"}
    assert "sk-of-my-own" not in "".join(capsys.readouterr()) + (tmp_path / "r.html").read_text(encoding="utf-8")


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_nobody_there(capsys):
    with nobody() as url:
        assert "is the server running" in mistake(capsys, *SERVE, url, *FEW, "--model", "m")


def test_a_wrong_model_is_what_the_server_says(capsys):
    with serving(Scripted(lambda handler, body, number: handler.refuse(404, "no such model: huge"))) as scripted:
        assert "HTTP 404, no such model: huge" in mistake(capsys, *SERVE, scripted.url, *FEW, "--model", "huge")


def test_a_server_with_several_models_wants_a_name(capsys):
    with serving(Scripted(models=("a", "b"))) as scripted:
        assert "has 2 models; name one of: a, b" in mistake(capsys, *SERVE, scripted.url, *FEW)


def test_a_server_that_wants_a_key_says_so(capsys):
    with serving(Scripted(lambda handler, body, number: handler.refuse(401, "no key"))) as scripted:
        assert "--key-env NAME" in mistake(capsys, *SERVE, scripted.url, *FEW)


def test_where_nothing_was_answered_the_report_is_written_and_the_status_says_it(capsys, tmp_path):
    report = tmp_path / "report.html"
    with serving(Scripted(lambda handler, body, number: handler.refuse(500, "out of order"))) as scripted:
        assert run((*SERVE, scripted.url, *FEW, "--out", str(report))) == 2
    out, err = capsys.readouterr()
    assert "none of 6 questions was answered: 6 x HTTP 500 (out of order)" in err
    assert "answered     0 of 6" in out
    assert report.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--requests", "5"), "either --concurrency C"),
        (("--requests", "5", "--rate", "1", "--concurrency", "1"), "either --concurrency C"),
        ((*FEW, "--prompt", "What?"), "--prompt and --input-tokens"),
        (("--requests", "5", "--rate", "1", "--prompt", " "), "--prompt is empty"),
        ((*FEW, "--images", "somewhere", "--image-mix", "1"), "--image-size is for drawn pictures"),
        ((*FEW, "--max-tokens", "0"), "max tokens 0"),
        ((*FEW, "--goodput", "fast:1"), "expected each of ttft, itl, tpot, e2e"),
        ((*FEW, "--extra", "[1]"), "expected a JSON object"),
        ((*FEW, "--extra", '{"stream": false}'), "stream is not for --extra"),
        ((*FEW, "--extra", '{"n": 2}'), "n is not for --extra"),
        ((*FEW, "--key-env", "NO_SUCH_VARIABLE"), "--key-env NO_SUCH_VARIABLE: there is no such variable"),
        ((*FEW, "--out", "no/such/folder/r.html"), "expected the name of a file in a folder that is there"),
        (("--requests", "many", "--rate", "1"), "Invalid value for '--requests'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_asked(arguments, says, capsys):
    with serving(Scripted()) as scripted:
        assert says in mistake(capsys, *SERVE, scripted.url, *arguments)
    assert scripted.bodies == []


def test_no_address(capsys):
    assert "expected an address such as" in mistake(capsys, *SERVE, "localhost:8000", *FEW)


def test_the_help_of_the_group_names_every_option_of_serve():
    """Pages of the documentation are checked against it."""
    group = typer.main.get_command(bench)
    [serve] = group.commands.values()
    options = {name for one in serve.params for name in one.opts if name != "--help"}
    assert set(re.findall(r"--[a-z-]+", group.help)) == options
