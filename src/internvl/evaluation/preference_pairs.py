"""From answers to preference pairs: what is right is chosen, what is wrong is rejected.

    right x wrong, the right answer not contained in the wrong one, at most so many of a question  ->  pairs.jsonl
    right x in no form                                                                     ->  pairs.format.jsonl
    questions that were never answered rightly                                             ->  pairs.unsolved.jsonl
    the right ones                                                                         ->  pairs.right.jsonl

Pairs are records of kind `preference`. Every file is written under another name first, and all that decides which pairs
are drawn is a seed and the question.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from internvl.errors import InternVLError, UsageError
from internvl.evaluation.preference_samples import Ask
from internvl.evaluation.preferences import Form, Parsed, Question, judge, without_pictures

REASONS = 100
"""That are kept why rows could not be asked."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How answers become pairs."""

    form: Form
    modes: tuple[str, ...]
    """An answer that one of them calls right is right, see `preferences.MODES`."""
    pairs: int = 15
    """Of one question at most."""
    seed: int = 0


@dataclass
class Counts:
    """What became of it all."""

    questions: int = 0
    responses: int = 0
    right: int = 0
    wrong: int = 0
    no_form: int = 0
    """Responses that are not in the form that was asked for."""
    always_right: int = 0
    """Questions without a wrong answer."""
    unsolved: int = 0
    """Questions without a right answer."""
    contained: int = 0
    """Pairs left out because the right answer stands in the wrong one."""
    possible: int = 0
    pairs: int = 0
    format_pairs: int = 0
    too_short: int = 0
    """Drop-out: chosen answers that are too short to be cut."""
    refused: int = 0
    """Rows that could not be asked."""
    reasons: list[str] = field(default_factory=list)
    """Why, for the first of them."""

    def refuse(self, origin: str, error: InternVLError) -> None:
        self.refused += 1
        if len(self.reasons) < REASONS:
            said = str(error)
            self.reasons.append(said if said.startswith(origin) else f"{origin}: {said}")


@dataclass
class Judged:
    """The answers to one question."""

    right: list[tuple[str, Parsed]] = field(default_factory=list)
    wrong: list[tuple[str, Parsed]] = field(default_factory=list)
    no_form: list[str] = field(default_factory=list)


def judged(question: Question, responses: Iterable[str], rules: Rules) -> Judged:
    """The different answers to one question, sorted by what they are worth."""
    found = Judged()
    for response in dict.fromkeys(responses):
        parsed = rules.form.parse(response)
        if parsed is None:
            found.no_form.append(response)
        elif judge(parsed.answer, question.answer, rules.modes):
            found.right.append((response, parsed))
        else:
            found.wrong.append((response, parsed))
    return found


def pairs_of(question: Question, found: Judged, rules: Rules, counts: Counts) -> list[tuple[str, str]]:
    """Chosen and rejected: all pairs, or as many of them as may be drawn by chance."""
    possible: list[tuple[str, str]] = []
    for right, said in found.right:
        for wrong, other in found.wrong:
            if said.answer.lower() in other.answer.lower():
                counts.contained += 1
            else:
                possible.append((right, wrong))
    counts.possible += len(possible)
    return _drawn(possible, question, rules)


def _drawn(possible: Sequence[tuple[str, str]], question: Question, rules: Rules) -> list[tuple[str, str]]:
    if len(possible) <= rules.pairs:
        return list(possible)
    return random.Random(f"{rules.seed}/{question.key}").sample(possible, rules.pairs)


def pair_record(question: Question, prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    """A record of kind `preference`; what training does not read says where it comes from."""
    image = {} if question.image is None else {"image": question.image}
    told = {"question": prompt, "chosen": chosen, "rejected": rejected}
    return {**image, **told, "answer_gt": question.answer, "question_orig": question.text, "from": question.origin}


Answers = Callable[[Question], Sequence[str]]
"""The responses to a question."""


def write_pairs(out: Path, questions: Iterable[Question], answers: Answers, rules: Rules, counts: Counts) -> None:
    """Judge all answers and write the four files; `counts` gets the figures."""
    if rules.pairs < 1:
        raise UsageError(f"pairs is {rules.pairs}; expected at least 1 a question")
    names = {"": out, **{part: out.with_name(f"{out.stem}.{part}.jsonl") for part in ("format", "unsolved", "right")}}
    with whole_files(names) as files:
        for question in questions:
            given = answers(question)
            counts.questions += 1
            counts.responses += len(given)
            if given:
                _write_question(question, judged(question, given, rules), rules, counts, files)


def _write_question(
    question: Question, found: Judged, rules: Rules, counts: Counts, files: Mapping[str, IO[str]]
) -> None:
    counts.right += len(found.right)
    counts.wrong += len(found.wrong)
    counts.no_form += len(found.no_form)
    counts.always_right += bool(found.right and not found.wrong and not found.no_form)
    prompt = rules.form.asked(question)
    for response, _ in found.right:
        write_line(files["right"], {**_asked(question), "response": response})
    if not found.right:
        counts.unsolved += 1
        write_line(files["unsolved"], _asked(question))
        return
    for chosen, rejected in pairs_of(question, found, rules, counts):
        counts.pairs += 1
        write_line(files[""], pair_record(question, prompt, chosen, rejected))
    formless = [(right, other) for right, _ in found.right for other in found.no_form]
    for chosen, rejected in _drawn(formless, question, rules):
        counts.format_pairs += 1
        write_line(files["format"], pair_record(question, prompt, chosen, rejected))


def _asked(question: Question) -> dict[str, Any]:
    image = {} if question.image is None else {"image": question.image}
    return {**image, "question": question.text, "answer": question.answer}


def advice(counts: Counts, form: str | None) -> str:
    """What to do where no pair was found; `form` is that of the answers, None for drop-out.

    >>> advice(Counts(questions=12, responses=96, no_form=85, wrong=11, unsolved=12), "final")
    '85 of 96 different answers are in no form: this model does not answer as --form final asks; try --form plain'
    """
    judged_ = counts.right + counts.wrong + counts.no_form
    if not counts.questions:
        return "no question could be asked; correct the rows, see what was said of them"
    if form is None and counts.too_short == counts.questions:
        return "every chosen answer is too short to be cut; raise --keep, or choose longer answers"
    if not counts.responses:
        return "no question was answered; see what was said of them"
    if form is None:
        return "every answer was continued just as it is; raise --temperature or --samples, or lower --keep"
    if counts.no_form > judged_ / 2:
        other = "they are empty; raise --max-new-tokens" if form == "plain" else (
            f"this model does not answer as --form {form} asks; try --form plain"
        )  # fmt: skip
        return f"{counts.no_form} of {judged_} different answers are in no form: {other}"
    if not counts.right:
        return "no answer is right; look at `answer` and --mode, raise --samples, or ask a better model"
    if not counts.wrong:
        return "no answer is wrong; raise --temperature or --samples, or ask harder questions"
    if counts.contained and not counts.possible:
        return "the right answers stand in the wrong ones; look at `answer` and --mode"
    return "no question has both a right and a wrong answer; raise --samples or --temperature"


# ---- drop-out: an answer continued without the picture ---------------------------------------------------------------


def begun(question: Question, keep: float = 0.5) -> str | None:
    """The first words of the chosen answer, half of them as a rule; None where that is none at all.

    >>> begun(Question("a", None, "Why?", "one two three four five"))
    'one two'
    """
    words = question.answer.split(" ")
    kept = int(len(words) * keep)
    return " ".join(words[:kept]) if kept else None


def dropout_asks(question: Question, samples: int, keep: float = 0.5) -> Iterator[Ask]:
    """What is asked of a model that does not see the picture: to go on after half of the answer."""
    prefix = begun(question, keep)
    if prefix is not None:
        prompt = without_pictures(question.text)
        yield from (Ask(question, prompt, number, prefix) for number in range(samples))


def write_dropout_pairs(
    out: Path, questions: Iterable[Question], answers: Answers, keep: float, counts: Counts
) -> None:
    """The chosen answers, each against its own beginning continued without the picture."""
    with whole_files({"": out}) as files:
        for question in questions:
            counts.questions += 1
            prefix, given = begun(question, keep), answers(question)
            if prefix is None:
                counts.too_short += 1
                continue
            counts.responses += len(given)
            for rejected in dict.fromkeys(prefix + continuation for continuation in given):
                if rejected.strip() != question.answer.strip():
                    counts.pairs += 1
                    write_line(files[""], pair_record(question, question.text, question.answer, rejected))


# ---- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_files(paths: Mapping[str, Path]) -> Generator[Mapping[str, IO[str]]]:
    """Files that are there once all of them are whole."""
    partial = {name: path.with_name(f".{path.name}.{os.getpid()}") for name, path in paths.items()}
    try:
        with contextlib.ExitStack() as stack:
            opened = {name: path.open("w", encoding="utf-8", errors="replace") for name, path in partial.items()}
            for file in opened.values():
                stack.enter_context(file)
            yield opened
        for name, path in paths.items():
            os.replace(partial[name], path)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def write_line(file: IO[str], values: Mapping[str, Any]) -> None:
    file.write(json.dumps(values, ensure_ascii=False) + "\n")
