"""Preference data of MPO: what a response says, what is right, which pairs are made, and a run that was stopped."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl import Chat
from internvl.cli.main import run
from internvl.data.prompts import Message, Text
from internvl.data.records import read
from internvl.errors import DataError, InternVLError, NoSuchName, UsageError
from internvl.evaluation.preference_pairs import (
    Counts,
    Rules,
    advice,
    begun,
    dropout_asks,
    judged,
    pairs_of,
    write_dropout_pairs,
    write_pairs,
)
from internvl.evaluation.preference_samples import (
    Ask,
    Given,
    LocalSampler,
    Responses,
    Shown,
    beginning,
    continued,
    gather,
    read_samples,
    seed_of,
)
from internvl.evaluation.preferences import (
    FORMS,
    INSTRUCTIONS,
    MODES,
    Parsed,
    Question,
    boxed_answer,
    final_answer,
    judge,
    read_questions,
    stripped,
)
from internvl.inference.sampling import SamplingConfig
from tests.evaluation.endpoint import Endpoint, serving

QUESTION = Question("q.jsonl:1", None, "2 + 2?", "4")
words = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def nano():
    return Chat.load()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for place, colour in enumerate(("red", "blue")):
        Image.new("RGB", (60, 50), colour).save(tmp_path / f"{place}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, *rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return name


def lines(name):
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# ---- what a response says --------------------------------------------------------------------------------------------


@given(words, words, words, st.sampled_from(["Final answer:", "Final Answer:", "答案:"]))
def test_a_final_answer_is_what_stands_behind_the_trigger(first, second, answer, trigger):
    assert final_answer(f"{first}\n{second}\n{trigger} {answer}") == Parsed(f"{first}\n{second}", answer)


@pytest.mark.parametrize(
    "response",
    [
        "because\n\nthe answer is 4",  # no trigger
        "because\nFinal answer: 4",  # one line break
        "\n\nFinal answer: 4",  # no rationale
        "because\n\nFinal answer: 4\n5",  # two lines
        "because\n\nFinal answer:",  # nothing
        "because\n\nFinal answer: 4\nFinal answer: 4\nFinal answer: 4",  # three triggers
        "",
    ],
)
def test_other_responses_are_in_no_form(response):
    assert final_answer(response) is None


def test_the_last_of_two_triggers_counts():
    assert final_answer("Final answer: 3?\nNo.\nFinal answer: 4") == Parsed("Final answer: 3?\nNo.", "4")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"We find that it is \boxed{4}.", "4"),
        (r"We find that it is \boxed{\frac{1}{2}} or \boxed{\sqrt{{2}}}.", r"\sqrt{{2}}"),
        (r"We find that it is \boxed{\frac{1}{2}", r"We find that it is \boxed{\frac{1}{2}"),
        ("We find that it is four.", "We find that it is four."),
        (r"\boxed{4}", None),
    ],
)
def test_boxed_answers(response, answer):
    found = boxed_answer(response)
    assert (found and found.answer) == answer


# ---- how it is asked -------------------------------------------------------------------------------------------------


@given(st.text(max_size=20), st.lists(st.sampled_from(INSTRUCTIONS), max_size=2))
def test_instructions_at_the_end_are_taken_away(text, endings):
    assume(not any(text.rstrip().endswith(one) for one in INSTRUCTIONS))
    assert stripped("\n".join([text, *endings])) == text.rstrip()
    assert stripped(f"{INSTRUCTIONS[0]} {text}.") == f"{INSTRUCTIONS[0]} {text}."


def test_a_single_picture_comes_first_and_several_stay_where_they_are():
    one = Question("a", "0.png", "How many {x} are in <image>?\nPlease answer Yes or No.", "4")
    asked = FORMS["final"].asked(one)
    assert asked.startswith("<image>\nYour task is to answer the question below.")
    assert asked.endswith("Question:\n\nHow many {x} are in ?")
    two = Question("a", ("0.png", "1.png"), "Which of <image> and <image>?", "4")
    assert FORMS["final"].asked(two).endswith("Question:\n\nWhich of <image> and <image>?")
    assert FORMS["final-zh"].asked(QUESTION).endswith("2 + 2?")
    assert FORMS["boxed"].asked(QUESTION).startswith("2 + 2?\nAnswer the preceding question.")
    plain = Question("a", "0.png", f"What?\n{INSTRUCTIONS[0]}", "4")
    assert FORMS["plain"].asked(plain) == f"<image>\nWhat?\n{INSTRUCTIONS[0]}"


# ---- right or wrong --------------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=12).filter(str.strip), st.sampled_from(sorted(MODES)))
def test_the_truth_itself_is_right(truth, mode):
    assert judge(truth, truth, [mode])
    assert judge(f" {truth} ", truth, [mode])


@pytest.mark.parametrize(
    ("mode", "answer", "truth", "right"),
    [
        ("vqa", "The two dogs.", "2 dogs", True),
        ("vqa", "dogs", "2 dogs", False),
        ("vqa", "the", "a", False),  # nothing is left of either
        ("relaxed", "104", "100", True),
        ("relaxed", "94", "100", False),
        ("relaxed", "104%", "100", True),
        ("relaxed", "1.04", "100%", False),  # not divided by 100
        ("relaxed", "2011", "2010", False),  # a year
        ("relaxed", "a bus", "bus", False),
        ("relaxed", "nan", "100", False),
        ("anls", "abcdefghijklmnopqrst", "abcdefghijklmnopqrsu", True),  # 0.95
        ("anls", "abcdefghij", "abcdefghik", False),  # 0.9
        ("anls", "zzzzzzzzzz", "abcdefghij", False),  # the published tool called this right
        ("mc", "(B)", "B", True),
        ("mc", "b. the bus", "B", True),
        ("mc", "B", "(B) the bus", True),
        ("mc", "3.5", "3.7", False),
        ("mc", "C", "B", False),
        ("math", "45°", "45 degrees", True),
        ("math", r"\frac{1}{2}", "0.5", True),
        ("math", "3.142", "3.1416", True),
        ("math", "3.15", "3.1416", False),
        ("math", "12 cm", "12", True),
        ("math", "0.0", "0", True),
        ("math", "a bus", "0", False),
    ],
)
def test_modes(mode, answer, truth, right):
    assert judge(answer, truth, [mode]) is right


@given(words, words, st.lists(st.sampled_from(sorted(MODES)), min_size=1, max_size=4))
def test_several_modes_are_right_where_one_is(answer, truth, modes):
    assert judge(answer, truth, modes) == any(judge(answer, truth, [mode]) for mode in modes)


def test_a_wrong_mode_is_named():
    with pytest.raises(NoSuchName, match="anls"):
        judge("a", "a", ["anl"])


# ---- pairs -----------------------------------------------------------------------------------------------------------

said = st.sampled_from(["4", "5", "14", "40", "four"]).map(lambda answer: f"so\n\nFinal answer: {answer}")
responses = st.lists(said | st.sampled_from(["4", "so", "maybe\n\nFinal answer: 4"]), max_size=12)


@given(responses, st.integers(1, 4), st.integers(0, 3))
def test_pairs_are_those_of_a_search(responses, most, seed):
    rules = Rules(form=FORMS["final"], modes=("vqa",), pairs=most, seed=seed)
    counts = Counts()
    found = judged(QUESTION, responses, rules)
    pairs = pairs_of(QUESTION, found, rules, counts)
    right = {one for one in responses if one.endswith("Final answer: 4") or one.endswith("Final answer: four")}
    wrong = {one for one in responses if "Final" in one} - right
    # "four" is 4 for VQA; 14 and 40 hold the 4, so they are no clear mistakes beside it.
    possible = {(a, b) for a in right for b in wrong if a.split(": ")[1] not in b.split(": ")[1]}
    assert set(pairs) <= possible
    assert len(pairs) == len(set(pairs)) == min(most, len(possible))
    assert counts.contained == len(right) * len(wrong) - len(possible)
    assert pairs == pairs_of(QUESTION, judged(QUESTION, responses, rules), rules, Counts())
    assert set(found.no_form) == {one for one in responses if "Final" not in one}


def answers(given):
    """What write_pairs asks, of a table."""
    return lambda question: given.get(question, [])


def test_files(folder):
    always, never = Question("q:2", "0.png", "Red?", "yes"), Question("q:3", ("0.png", "1.png"), "Blue?", "no")
    good, bad = "so\n\nFinal answer: {}".format, "so\n\nFinal answer: wrong"
    given = {QUESTION: [good("4"), bad, "no form", bad], always: [good("yes")], never: [bad]}
    counts, out = Counts(), folder / "pairs.jsonl"
    write_pairs(out, [QUESTION, always, never], answers(given), Rules(form=FORMS["final"], modes=("vqa",)), counts)
    [pair] = lines("pairs.jsonl")
    assert (pair["chosen"], pair["rejected"], pair["answer_gt"]) == (good("4"), bad, "4")
    assert read(json.dumps(pair), "preference", origin="x").chosen.turns[-1][1] == good("4")
    assert [row["rejected"] for row in lines("pairs.format.jsonl")] == ["no form"]
    assert lines("pairs.unsolved.jsonl") == [{"image": ["0.png", "1.png"], "question": "Blue?", "answer": "no"}]
    assert [row["response"] for row in lines("pairs.right.jsonl")] == [good("4"), good("yes")]
    assert (counts.questions, counts.responses, counts.right, counts.wrong, counts.no_form) == (3, 6, 2, 2, 1)
    assert (counts.always_right, counts.unsolved, counts.pairs, counts.format_pairs) == (1, 1, 1, 1)


def test_nothing_half_written_is_left(folder):
    def broken():
        yield QUESTION
        raise KeyboardInterrupt

    rules = Rules(form=FORMS["final"], modes=("vqa",))
    with pytest.raises(KeyboardInterrupt):
        write_pairs(folder / "pairs.jsonl", broken(), answers({}), rules, Counts())
    assert [path.name for path in folder.iterdir() if "pairs" in path.name] == []


def test_drop_out_keeps_half_of_the_words(folder):
    question = Question("q:1", "0.png", "<image>\nWhy?", "one two three four five")
    [ask] = dropout_asks(question, 1)
    assert (ask.prompt, ask.prefix) == ("Why?", "one two")
    assert begun(replace(question, answer="one")) is None
    counts = Counts()
    given = {question: [" hundred", " three four five", " hundred"]}
    write_dropout_pairs(folder / "p.jsonl", [question, replace(question, answer="one")], answers(given), 0.5, counts)
    [pair] = lines("p.jsonl")
    assert (pair["question"], pair["chosen"], pair["rejected"]) == ("<image>\nWhy?", question.answer, "one two hundred")
    assert (counts.pairs, counts.too_short) == (1, 1)


# ---- questions -------------------------------------------------------------------------------------------------------


def test_rows_that_are_no_questions_are_named(folder):
    write(
        "q.jsonl", {"question": "2 + 2?", "answer": 4}, {"question": "2 + 2?", "answer": "4"}, {"question": "?"},
        {"question": "<image> ?", "answer": "x"}, {"question": 5, "answer": "x"},
        {"image": ["a", "b"], "question": "<image> <image> <image>", "answer": "x"},
        {"video": "a.mp4", "question": "?", "answer": "x"},
    )  # fmt: skip
    found = list(read_questions("q.jsonl", "answer"))
    assert [one.answer for one in found if isinstance(one, Question)] == ["4"]  # each once
    told = [str(one) for one in found if isinstance(one, DataError)]
    assert [text.split()[0].rstrip(":") for text in told] == [f"q.jsonl:{number}" for number in range(3, 8)]


# ---- gathering -------------------------------------------------------------------------------------------------------


class Counting:
    """Answers with its own count, and remembers what it was asked."""

    def __init__(self, stop_after=None, **told):
        self.asked, self.stop_after, self.told = [], stop_after, told

    def describe(self):
        return {"model": "counting", **self.told}

    def answer(self, asks):
        for ask in asks:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append((ask.question.key, ask.number))
            yield Given(ask, f"{ask.prompt} {ask.number}", "stop")


def asks(samples=3):
    questions = [Question(f"q:{number}", None, f"{number}?", "4") for number in range(4)]
    return [Ask(question, question.text, number) for question in questions for number in range(samples)]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), max_size=3), st.booleans())
def test_a_run_that_was_stopped_goes_on(tmp_path_factory, stops, torn):
    path = tmp_path_factory.mktemp("run") / "p.samples.jsonl"
    asked = []
    for stop in stops:
        sampler = Counting(stop)
        with contextlib.suppress(KeyboardInterrupt):
            list(gather(asks(), sampler, path, {"how": "x"}))
        asked += sampler.asked
        if torn:
            with path.open("a") as file:
                file.write('{"key": "half a line')
    sampler = Counting()
    list(gather(asks(), sampler, path, {"how": "x"}))
    asked += sampler.asked
    assert len(asked) == len(set(asked)) == 12
    found = {(row["key"], row["number"]): row["response"] for row in read_samples([path])}
    assert found == {(ask.question.key, ask.number): f"{ask.prompt} {ask.number}" for ask in asks()}


def test_more_answers_later_and_no_other_settings(tmp_path):
    path = tmp_path / "p.samples.jsonl"
    list(gather(asks(2), Counting(), path, {"how": "x"}))
    later = Counting()
    list(gather(asks(3), later, path, {"how": "x"}))
    assert [number for _, number in later.asked] == [2, 2, 2, 2]
    for settings_, sampler in (({"how": "y"}, Counting()), ({"how": "x"}, Counting(temperature=2.0))):
        with pytest.raises(UsageError, match="was begun with"):
            list(gather(asks(), sampler, path, settings_))


def test_what_another_process_answered_is_not_asked_again(tmp_path):
    paths = [tmp_path / f"p.samples-{rank}of2.jsonl" for rank in range(2)]
    for path, part in zip(paths, (asks()[:4], asks()[4:8]), strict=True):
        list(gather(part, Counting(), path, {"how": "x"}))
    alone = Counting()
    list(gather(asks(), alone, tmp_path / "p.samples.jsonl", {"how": "x"}, beside=paths))
    assert len(alone.asked) == 4
    found = Responses([*paths, tmp_path / "p.samples.jsonl"])
    assert [found(asks()[place].question) for place in (0, 3, 6, 9)] == [
        [f"{ask.prompt} {ask.number}" for ask in asks()[place : place + 3]] for place in (0, 3, 6, 9)
    ]
    assert found(QUESTION) == []


def test_seeds_differ_and_depend_on_question_and_number_alone():
    found = [seed_of(ask, 0) for ask in asks()]
    assert len(set(found)) == 12
    assert [seed_of(ask, 0) for ask in reversed(asks())] == found[::-1]
    assert seed_of(asks()[0], 1) != found[0]


def test_an_answer_does_not_depend_on_what_is_answered_beside_it(nano, folder):
    questions = [Question(f"q:{number}", f"{number}.png", "What is this?", "x") for number in range(2)]
    asked = [Ask(one, FORMS["plain"].asked(one), number) for one in questions for number in range(3)]
    config = SamplingConfig(temperature=1.0, top_k=50, max_new_tokens=8, seed=0)
    refused = []

    def answers(some, size):
        sampler = LocalSampler(nano, Shown(), config, lambda q, e: refused.append(e), name="nano", batch_size=size)
        return {(one.ask.question.key, one.ask.number): one.text for one in sampler.answer(some)}

    together = answers(asked, 6)
    assert answers(asked[::-1], 1) == together
    assert len(set(together.values())) > 1
    missing = Question("q:9", "none.png", "What?", "x")
    assert answers([Ask(missing, "What?", 0), asked[0]], 2) == {key: together[key] for key in list(together)[:1]}
    assert isinstance(refused[0], InternVLError)


# ---- an answer that is continued -------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["Hello", "Who are you?", "What can you do?"])
def test_a_greedy_answer_continues_as_it_went(nano, question):
    """From any whole word of its own answer on, the model says the rest of it."""
    greedy = SamplingConfig(max_new_tokens=60)
    [answer] = nano.batch([question], sampling=greedy)
    spoken = answer.text.split(" ")
    said = [Message("user", (question,))]
    cuts = range(1, len(spoken))
    assert len(spoken) > 2
    prefixes = [" ".join(spoken[:cut]) for cut in cuts]
    found = continued(nano, [(said, prefix) for prefix in prefixes], [greedy] * len(prefixes))
    assert [prefix + text for prefix, (text, _) in zip(prefixes, found, strict=True)] == [answer.text] * len(prefixes)
    assert {finish for _, finish in found} == {"stop"}


@given(st.text(min_size=1, max_size=30).filter(str.strip))
def test_a_beginning_is_that_of_what_is_learnt(nano, prefix):
    """Its ids are the prompt and then the very ids that training has for the text, without the end."""
    encoder, said = nano.encoder, [Message("user", ("Why?",))]
    ids = beginning(encoder, said, prefix)
    whole = encoder.encode([*said, Message("assistant", (Text(prefix),))], generate=False)
    assert ids == whole.input_ids[: len(ids)]
    assert whole.input_ids[len(ids)] in encoder.stop_ids
    prompt = encoder.encode(said).input_ids
    assert ids[: len(prompt)] == prompt


# ---- the command -----------------------------------------------------------------------------------------------------

FAST = ("--mode", "vqa", "--form", "plain", "--max-new-tokens", "8", "--samples", "4", "--device", "cpu")


def pictures(folder):
    rows = [{"image": f"{n}.png", "question": "<image>\nWhat is this?", "answer": "flag"} for n in range(2)]
    return write("q.jsonl", *rows, {"image": "none.png", "question": "?", "answer": "x"})


def test_pairs_of_nano_are_what_lint_and_training_read(folder, capsys, monkeypatch):
    pictures(folder)
    assert run(["prefer", "q.jsonl", *FAST, "--out", "p.jsonl", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["questions"], told["responses"], told["refused"]) == (3, 8, 1)
    assert "none.png" in told["reasons"][0]
    first = {name: (folder / name).read_bytes() for name in ("p.jsonl", "p.samples.jsonl", "p.unsolved.jsonl")}
    monkeypatch.setattr(Chat, "batch", None)  # nothing is asked twice
    given = [row["response"] for row in lines("p.samples.jsonl")[1:]]
    assert run(["prefer", "q.jsonl", *FAST, "--out", "p.jsonl"]) == 1
    assert {name: (folder / name).read_bytes() for name in first} == first
    # With one of its own answers as the truth there are pairs.
    counts = {answer: given[:4].count(answer) for answer in given[:4]}
    truth = min(counts, key=lambda answer: counts[answer])
    rows = lines("q.jsonl")
    again = Question("q", "0.png", rows[0]["question"], truth)
    write_pairs(
        folder / "t.jsonl", [again], answers({again: given[:4]}), Rules(form=FORMS["plain"], modes=("vqa",)), Counts()
    )
    assert lines("t.jsonl")
    capsys.readouterr()
    assert run(["lint", "t.jsonl", "--strict"]) == 0


def test_drop_out_of_nano(folder, capsys):
    write(
        "c.jsonl",
        {"image": "0.png", "question": "<image>\nWhat is it?", "chosen": "It is a red square", "rejected": None},
    )
    wanted = ("prefer", "c.jsonl", "--how", "dropout", "--max-new-tokens", "8", "--out", "d.jsonl")
    assert run([*wanted, "--samples", "2"]) == 0
    found = lines("d.jsonl")
    assert found
    assert all(row["rejected"].startswith("It is") and row["rejected"] != row["chosen"] for row in found)
    assert all(row["image"] == "0.png" for row in found)
    capsys.readouterr()
    assert run(["lint", "d.jsonl", "--strict"]) == 0


ADVICE = {  # what the server answers, by number -> what is said
    ("four", "five"): "4 of 4 different answers are in no form: .*--form final asks; try --form plain .*another --out",
    ("so\n\nFinal answer: 5", "so\n\nFinal answer: 6"): "no answer is right; look at `answer`",
    ("so\n\nFinal answer: 4", "well\n\nFinal answer: 4"): "no answer is wrong; raise --temperature",
    ("so\n\nFinal answer: 4", "so\n\nFinal answer: 44"): "the right answers stand in the wrong ones",
}


@pytest.mark.parametrize("texts", ADVICE)
def test_no_pair_is_a_failure_that_says_what_to_do(folder, capsys, texts):
    def answer(body):
        text = texts[body["seed"] % 2]
        return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}

    write("q.jsonl", {"question": "2 + 2?", "answer": "4"}, {"question": "1 + 3?", "answer": "4"})
    with serving(Endpoint(answer)) as endpoint:
        assert run(["prefer", "q.jsonl", "--mode", "math", "--endpoint", endpoint.url, "--out", "p.jsonl"]) == 1
    out, told = capsys.readouterr()
    assert re.search(f"^internvl: no pair was found: {ADVICE[texts]}", told, re.MULTILINE)
    assert "0 pairs in p.jsonl" in out
    assert lines("p.jsonl") == []  # written all the same, with what goes beside it
    assert json.loads((folder / "p.summary.json").read_text())["pairs"] == 0


def test_advice_for_every_case():
    of = Counts
    assert advice(of(), "final").startswith("no question could be asked")
    assert advice(of(questions=3), "final").startswith("no question was answered")
    assert advice(of(questions=3, responses=9, no_form=3), "plain").endswith("they are empty; raise --max-new-tokens")
    assert advice(of(questions=2, responses=9, right=1, wrong=1), "final").startswith("no question has both")
    assert advice(of(questions=2, too_short=2), None).startswith("every chosen answer is too short")
    assert advice(of(questions=2, responses=2), None).startswith("every answer was continued just as it is")


def test_a_server_answers(folder, capsys):
    def answer(body):
        number = body["seed"] % 2
        text = f"It is plain.\n\nFinal answer: {('4', '5')[number]}"
        return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}

    write("q.jsonl", {"image": "0.png", "question": "2 + 2?", "answer": "4"})
    with serving(Endpoint(answer)) as endpoint:
        assert run(["prefer", "q.jsonl", "--mode", "math", "--endpoint", endpoint.url, "--out", "p.jsonl"]) == 0
    assert len(endpoint.bodies) == 8
    assert len({body["seed"] for body in endpoint.bodies}) == 8
    assert all(body["temperature"] == 1.0 and "top_k" not in body for body in endpoint.bodies)
    assert "Final answer" in json.dumps(endpoint.bodies[0]["messages"])
    assert "data:image/png" in json.dumps(endpoint.bodies[0]["messages"])
    [pair] = lines("p.jsonl")
    assert pair["chosen"].endswith("4")
    assert pair["rejected"].endswith("5")
    assert "8 answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--mode"),
        (["--mode", "vqq"], "vqa"),
        (["--mode", "vqa", "--samples", "0"], "--samples 0"),
        (["--mode", "vqa", "--temperature", "0"], "--temperature 0"),
        (["--mode", "vqa", "--keep", "0.3"], "--keep 0.3 is for --how dropout"),
        (["--mode", "vqa", "--at-once", "3"], "--at-once 3 is for a server"),
        (["--mode", "vqa", "--pairs", "0"], "--pairs 0"),
        (["--mode", "vqa", "--limit", "0"], "--limit 0"),
        (["--how", "dropout", "--mode", "vqa"], "--mode vqa judges answers"),
        (["--how", "dropout", "--keep", "1"], "--keep 1.0"),
        (["--how", "dropout", "--endpoint", "http://localhost:1/v1"], "leave out --endpoint"),
        (["--mode", "vqa", "--endpoint", "http://localhost:1/v1", "--max-tiles", "2"], "only with --extensions"),
        (["--mode", "vqa", "--endpoint", "http://localhost:1/v1", "--top-k", "2"], "only with --extensions"),
        (["--mode", "vqa", "--endpoint", "http://localhost:1/v1", "--device", "cpu"], "asks a server"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, words, said):
    write("q.jsonl", {"question": "2 + 2?", "answer": "4", "chosen": "4"})
    assert run(["prefer", "q.jsonl", "--out", "p.jsonl", *words]) == 2
    out, told = capsys.readouterr()
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert not out
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(("p", "."))) == []


def test_an_out_that_is_no_jsonl_and_a_file_that_is_not_there(folder, capsys):
    assert run(["prefer", "q.jsonl", "--mode", "vqa", "--out", "p.txt"]) == 2
    assert run(["prefer", "q.jsonl", "--mode", "vqa", "--out", "p.jsonl"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_pictures_of_a_question_are_opened_once(nano, folder, monkeypatch):
    opened = []
    shown = Shown()
    monkeypatch.setattr(Shown, "messages", lambda self, ask: opened.append(ask) or [Message("user", (ask.prompt,))])
    config = SamplingConfig(temperature=1.0, top_k=50, max_new_tokens=2, seed=0)
    sampler = LocalSampler(nano, shown, config, lambda q, e: None, name="nano", batch_size=4)
    assert len(list(sampler.answer(asks(3)))) == 12
    assert len(opened) == 4
    assert np.unique([ask.number for ask in opened]).tolist() == [0]
