"""Would the tests of the worker and its supervisor notice? Each fault is planted, and the test about it must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from internvl.inference.answer import GrowingText
from internvl.serving import incarnation, saying, supervisor, worker
from internvl.serving.refusal import Refusal
from internvl.serving.wire import Memory
from tests.serving import test_supervisor, test_worker
from tests.serving.working import Client, at_work

Plant = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[Client], None]


def believes_what_is_said_of_pictures(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(saying, "digest", lambda tiles: "?")


def tells_the_tokens_of_a_stop_string(patch: pytest.MonkeyPatch) -> None:
    whole = saying.Spoken.__init__
    patch.setattr(saying.Spoken, "__init__", lambda self, spell, stop: whole(self, spell, ()))


def does_not_mind_stop_strings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(saying.Saying, "stopped", False)


def shows_the_beginning_of_a_stop_string(patch: pytest.MonkeyPatch) -> None:
    certain = GrowingText._certain

    def all_of_it(self):
        certain(self)
        return len(self._held)

    patch.setattr(GrowingText, "_certain", all_of_it)


def forgets_to_drop(patch: pytest.MonkeyPatch) -> None:
    def drop(self, id):
        asked = self._asked.pop(id, None)
        if asked is not None and asked.own is not None:
            del self._own[asked.own]

    patch.setattr(worker.Worker, "_drop", drop)


def minds_no_form(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(saying.Speech, "_restricts", lambda self, ask: None)


def strips_what_has_a_form(patch: pytest.MonkeyPatch) -> None:
    whole = GrowingText.__init__
    patch.setattr(GrowingText, "__init__", lambda self, decoder, stop=(), *, strip=True: whole(self, decoder, stop))


def mixes_answers_up(patch: pytest.MonkeyPatch) -> None:
    answers = saying.Speech.answers
    patch.setattr(saying.Speech, "answers", lambda self, ask: answers(self, ask)[:1] * ask.n)


def says_not_when_to_come_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker, "queue_full", lambda seconds: Refusal("busy", status=429, code="queue_full"))


def check_a_few_drops(client: Client) -> None:
    test_worker.check_drops(client, requests=20)  # where nothing is dropped, each is answered to its end


WORKER: list[tuple[Plant, Check, dict[str, Any]]] = [
    (believes_what_is_said_of_pictures, test_worker.check_the_pictures_are_those_that_came, {}),
    (tells_the_tokens_of_a_stop_string, test_worker.check_the_place_of_a_stop, {}),
    (does_not_mind_stop_strings, test_worker.check_stops, {}),
    (shows_the_beginning_of_a_stop_string, test_worker.check_stops, {}),
    (forgets_to_drop, check_a_few_drops, {}),
    (minds_no_form, test_worker.check_forms, {}),
    (strips_what_has_a_form, test_worker.check_forms, {}),
    (mixes_answers_up, test_worker.check_several_answers, {}),
    (says_not_when_to_come_again, test_worker.check_a_full_queue, {"queue": 2}),
]


@pytest.mark.parametrize(("plant", "check", "engine"), WORKER, ids=lambda value: getattr(value, "__name__", ""))
def test_the_tests_of_the_worker_catch(plant, check, engine, monkeypatch):
    plant(monkeypatch)
    with at_work(**engine) as client, pytest.raises((AssertionError, ValueError)):
        check(client)


# ---- the supervisor --------------------------------------------------------------------------------------------------


def tells_nobody_of_a_death(patch: pytest.MonkeyPatch) -> None:
    def lose(self):
        self._worker, self._counters = None, {}

    patch.setattr(supervisor.Supervisor, "_lose", lose)


def drops_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supervisor.Supervisor, "_drop", lambda self, id: self._waiting.pop(id, None))


def keeps_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Memory, "close", lambda self: None)


def hands_the_keys_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(incarnation, "KEYS_VARIABLE", "ANOTHER")


def writes_everything_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(incarnation, "PERIOD", 0.0)


def believes_any_worker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(incarnation, "understood", lambda message, memory: None)


SUPERVISOR: list[tuple[Plant, Callable[..., None], tuple[Any, ...]]] = [
    (tells_nobody_of_a_death, test_supervisor.test_who_waits_when_the_worker_is_killed_is_told, ()),
    (drops_nothing, test_supervisor.test_who_stops_early_is_dropped_and_who_has_all_is_not, ()),
    (keeps_memory, test_supervisor.test_memory_is_closed_whatever_happens, ()),
    (believes_any_worker, test_supervisor.test_a_worker_that_is_not_understood_is_replaced, ("vectors of no shape",)),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "test", "given"), SUPERVISOR, ids=lambda value: getattr(value, "__name__", ""))
def test_the_tests_of_the_supervisor_catch(plant, test, given, monkeypatch):
    monkeypatch.setattr(incarnation, "COMMAND", test_supervisor.fake_command())
    monkeypatch.setattr(test_supervisor, "PATIENCE", 1.5)  # each makes it wait for ever, once the worker has started
    opened: list[Memory] = []
    made = Memory.__init__

    def kept(self, descriptor):
        made(self, descriptor)
        opened.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(Memory, "__init__", kept)
        plant(patch)
        with pytest.raises((AssertionError, TimeoutError)):
            test(*given)
    for memory in opened:
        memory.close()


def test_the_test_of_the_keys_catches_that_they_are_handed_on(monkeypatch):
    monkeypatch.setattr(incarnation, "COMMAND", test_supervisor.fake_command())
    hands_the_keys_on(monkeypatch)
    with pytest.raises(AssertionError):
        test_supervisor.test_the_keys_of_the_api_are_not_told_to_the_worker(monkeypatch)


def test_the_test_of_the_log_catches_a_flood(monkeypatch, caplog):
    writes_everything_down(monkeypatch)
    with pytest.raises(AssertionError):
        test_supervisor.test_a_log_is_not_flooded(caplog, monkeypatch)


def test_the_test_of_descriptors_catches_open_memory(monkeypatch):
    left: list[Memory] = []
    close = Memory.close

    def forgetful(self):
        if self in left or len(left) < 20:
            left.append(self)
        else:
            close(self)

    with at_work() as client, monkeypatch.context() as patch:
        patch.setattr(Memory, "close", forgetful)
        with pytest.raises(AssertionError):
            test_worker.check_descriptors(client, requests=30)
    for memory in left:
        close(memory)
