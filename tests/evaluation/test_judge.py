"""Judges: nothing is asked twice, nothing is guessed, and what cannot be read is said."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from internvl import Chat
from internvl.errors import DataError, EndpointError, UsageError
from internvl.evaluation.benchmark import Judging, Mark, Marked, Sample, mean_score
from internvl.evaluation.judge import ask_judge, read_verdicts, without_judge
from internvl.evaluation.responders import EndpointJudge, LocalJudge
from internvl.evaluation.store import open_alone
from internvl.inference.remote import Remote
from internvl.inference.said import Said
from tests.evaluation.finished import rows


def parse(sample: Sample, verdict: str) -> Mark:
    found = re.fullmatch(r"score: (\d)", verdict.strip())
    return Mark(int(found[1]) / 5, found[1]) if found else Mark(None)


def judging(version: str = "1", words: str = "Rate") -> Judging:
    return Judging(version=version, prompt=lambda sample, answer: f"{words} {sample.id}: {answer}", parse=parse,
                   published="gpt-4-0613", max_new_tokens=7, temperature=0.2)  # fmt: skip


class Fake:
    """Answers from the back, remembers what it was asked, and stops where it is told to."""

    def __init__(self, verdict="score: 5", name="fake", stop_after=None):
        self.name, self.asked, self._verdict, self._stop = name, [], verdict, stop_after

    def write(self, prompts, judging):
        assert (judging.max_new_tokens, judging.temperature) == (7, 0.2)
        for count, place in enumerate(reversed(range(len(prompts)))):
            if count == self._stop:
                raise EndpointError("the server is gone")
            self.asked.append(prompts[place])
            yield place, self._verdict if isinstance(self._verdict, str) else self._verdict(prompts[place])


ROWS = {0: rows({"a": None, "b": None, "c": None, "d": None})}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "vet" / "judged.jsonl"


def test_verdicts_become_marks(file):
    judge = Fake(lambda prompt: f"score: {'abcd'.index(prompt[5])}")
    assert ask_judge(judging(), ROWS, judge, file) == 4
    found = read_verdicts(judging(), ROWS, "fake", file)
    assert [row.mark for row in found.rows[0]] == [Mark(n / 5, str(n)) for n in range(4)]
    assert found.withheld is None
    assert found.summarise(mean_score(), found.readable[0]).values == {"accuracy": pytest.approx(30)}
    assert found.about["judge"] == "fake"
    assert found.about["published judge"] == "gpt-4-0613"


def test_nothing_is_asked_twice(file):
    ask_judge(judging(), ROWS, Fake(), file)
    again = Fake("score: 0")
    assert ask_judge(judging(), ROWS, again, file) == 0
    assert again.asked == []
    assert [row.mark.score for row in read_verdicts(judging(), ROWS, "fake", file).rows[0]] == [1.0] * 4


@pytest.mark.parametrize(("rule", "given", "name", "asked"), [
    (judging("2"), ROWS, "fake", 4), (judging(words="Judge"), ROWS, "fake", 4), (judging(), ROWS, "other", 4),
    (judging(), {1: ROWS[0]}, "fake", 4), (judging(), {0: ROWS[0], 1: ROWS[0]}, "fake", 4),
    (judging(), {0: [Marked(ROWS[0][0].sample, "Red", Mark(None)), *ROWS[0][1:]]}, "fake", 1),
])  # fmt: skip
def test_another_version_prompt_judge_seed_or_answer_is_another_question(file, rule, given, name, asked):
    ask_judge(judging(), ROWS, Fake(), file)
    assert ask_judge(rule, given, Fake(name=name), file) == asked
    assert read_verdicts(rule, given, name, file).withheld is None
    assert read_verdicts(judging(), ROWS, "fake", file).withheld is None


def test_what_was_judged_before_a_failure_is_kept(file):
    with pytest.raises(EndpointError):
        ask_judge(judging(), ROWS, Fake(stop_after=3), file)
    assert read_verdicts(judging(), ROWS, "fake", file).withheld == "1 of 4 answers have no verdict of fake yet"
    rest = Fake()
    assert ask_judge(judging(), ROWS, rest, file) == 1
    assert rest.asked == ["Rate a: Teal"]


@pytest.mark.parametrize("kept", range(0, 200, 7))
def test_a_line_that_was_cut_off_is_asked_again(file, kept):
    ask_judge(judging(), ROWS, Fake(), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - kept])
    lost = whole.count(b"\n") - whole[: len(whole) - kept].count(b"\n")
    assert ask_judge(judging(), ROWS, Fake(), file) == lost
    assert file.read_bytes() == whole


def test_without_verdicts_there_is_no_score(file):
    found = read_verdicts(judging(), ROWS, "fake", file)
    assert [row.mark for row in found.rows[0]] == [Mark(None)] * 4
    assert found.readable[0] == ()
    scores = found.summarise(mean_score(), found.readable[0])
    assert scores.values == {}
    assert scores.withheld == {"score": "4 of 4 answers have no verdict of fake yet"}
    assert read_verdicts(judging(), {0: []}, "fake", file).withheld == "there is no answer"


def test_unreadable_verdicts_are_named_and_bounded(file):
    many = {0: rows({f"q{n}": None for n in range(100)})}
    ask_judge(judging(), many, Fake(lambda p: "I think 5" if p[5:8] in ("q3:", "q7:") else "score: 5"), file)
    found = read_verdicts(judging(), many, "fake", file)
    assert found.withheld is None
    assert (found.about["unreadable"], found.about["unreadable, by name"]) == (2, ["q3", "q7"])
    assert len(found.readable[0]) == 98
    assert [row.sample.id for row in found.rows[0] if row.mark.score is None] == ["q3", "q7"]
    assert found.summarise(mean_score(), found.readable[0]).values == {"accuracy": 100.0}
    strict = read_verdicts(judging(), many, "fake", file, most_unreadable=0.01)
    assert strict.withheld == "2 of 100 verdicts of fake cannot be read; at most 1% may be"
    assert strict.summarise(mean_score(), strict.readable[0]).values == {}


def test_verdicts_are_read_again_at_each_scoring(file):
    ask_judge(judging(), ROWS, Fake("5 points"), file)
    assert read_verdicts(judging(), ROWS, "fake", file).about["unreadable"] == 4
    better = Judging(version="1", prompt=judging().prompt, parse=lambda sample, verdict: Mark(float(verdict[0]) / 5))
    assert read_verdicts(better, ROWS, "fake", file).withheld is None


def test_what_a_judge_writes_is_kept_as_it_is(file):
    said = 'score: 5\n\u2028"\ud800'
    ask_judge(judging(), {0: ROWS[0][:1]}, Fake(said), file)
    assert json.loads(file.read_text(encoding="utf-8"))["verdict"] == said.replace("\ud800", "?")


@pytest.mark.parametrize(("line", "said"), [
    ('{"id": "a"}\n', r"judged.jsonl:1: `seed` is None; expected int"), ("[]\n", "no JSON object"), ("{\n", "not JSON"),
    ('{"id": "a", "seed": true, "answer": "", "judge": "", "version": "", "prompt": "", "verdict": ""}\n', "is True"),
])  # fmt: skip
def test_a_damaged_file_is_said(file, line, said):
    file.parent.mkdir()
    file.write_text(line)
    with pytest.raises(DataError, match=said):
        read_verdicts(judging(), ROWS, "fake", file)


def test_a_judge_that_answers_what_was_not_asked(file):
    class Twice(Fake):
        def write(self, prompts, judging):
            yield from ((0, "score: 1"), (0, "score: 2"))

    with pytest.raises(UsageError, match="answered prompt 0 of 4, which was not open"):
        ask_judge(judging(), ROWS, Twice(), file)


def test_without_a_judge():
    assert without_judge(judging()) == (
        "no rule can mark these answers; name a judge with --judge (published scores: gpt-4-0613), "
        "or the rule that stands in with --rules"
    )


# ---- real ones -------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """An OpenAI-style server that marks by the last letter of the question's name."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        [message] = body["messages"]
        self.server.bodies.append(body)
        number = "abcd".index(re.match(r"Rate (\w)", message["content"])[1])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"score: {number}"}}
        data = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_a_judge_behind_an_endpoint(file):
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.bodies = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        judge = EndpointJudge(Remote(f"http://127.0.0.1:{server.server_port}/v1", model="gpt-4", key="none", retries=0))
        assert ask_judge(judging(), ROWS, judge, file) == 4
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    found = read_verdicts(judging(), ROWS, judge.name, file)
    assert [row.mark.score for row in found.rows[0]] == [0.0, 0.2, 0.4, 0.6]
    assert {(body["temperature"], body["max_tokens"]) for body in server.bodies} == {(0.2, 7)}


def test_two_processes_do_not_ask_one_judge_twice(file):
    file.parent.mkdir()
    judge = Fake()
    with open_alone(file), pytest.raises(UsageError, match="another process is writing"):
        ask_judge(judging(), ROWS, judge, file)
    assert judge.asked == []


def test_a_question_is_drawn_alike_whatever_was_asked_before():
    """The second time only some are left, and they stand at other places."""

    class Seen:
        model, seeds = "m", []

        def describe(self):
            return {"model": "m", "endpoint": "http://h/v1"}

        def ask(self, messages, **fields):
            self.seeds.append(fields["seed"])
            return Said(text="score: 1", finish="stop", tokens=1)

        def ask_all(self, requests, ask):
            return ((request, ask(request)) for request in requests)

    judge = EndpointJudge(Seen())
    assert len(list(judge.write(["a", "b", "c"], judging()))) == 3
    assert len(list(judge.write(["c"], judging()))) == 1
    assert Seen.seeds[3] == Seen.seeds[2] != Seen.seeds[1]


def test_a_judge_in_this_process(file):
    """nano writes something, which is no verdict; a quoted placeholder is text."""
    given = {0: rows({"a": None, "b": None, "c": None})}
    rule = Judging(version="1", prompt=lambda sample, answer: f"In <image> {sample.id}?", parse=parse, max_new_tokens=4)
    judge = LocalJudge(Chat.load(), "nano", batch_size=2)
    assert ask_judge(rule, given, judge, file) == 3
    found = read_verdicts(rule, given, "nano", file)
    assert found.about["unreadable"] == 3
    assert found.withheld == "3 of 3 verdicts of nano cannot be read; at most 2% may be"
    assert ask_judge(rule, given, judge, file) == 0
