"""Would the tests of requests notice? Each fault is planted, and the test that is about it must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from internvl.data.prompts import Text
from internvl.errors import InternVLError
from internvl.serving import fields, order, refusal, response_events, responses, schema, tools, translate
from internvl.serving.refusal import Refusal
from tests.serving import test_clients, test_errors, test_fields, test_schema, test_tools, test_translate

Plant = Callable[[pytest.MonkeyPatch], None]


def takes_any_value_for_a_default(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fields, "_same", lambda value, accepted: True)


def takes_true_for_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fields, "_same", lambda value, accepted: value == accepted)


def forgets_the_limits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fields, "limits_of", lambda info: fields.DEFAULT)


def counts_no_media(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schema, "check_media", lambda messages, most: None)


def lets_an_assistant_speak_last(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schema, "check_order", lambda messages: None)


def walks_no_deeper(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fields, "walk", lambda value: iter([(1, None, value)]))


def takes_any_text_for_an_address(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fields, "ADDRESSES", ("url", "image_url", "file_data", "text"))


def says_what_went_wrong_inside(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refusal, "internal", lambda: Refusal("in /secret/place", status=500, code="internal_error"))


def reads_typed_text_as_structure(patch: pytest.MonkeyPatch) -> None:
    whole = order.Unopened.message

    def message(self, opened=None):
        read = whole(self, opened)
        return replace(read, parts=tuple(part.text if isinstance(part, Text) else part for part in read.parts))

    patch.setattr(order.Unopened, "message", message)


def puts_all_media_first(patch: pytest.MonkeyPatch) -> None:
    def message(self, opened):
        media = [one for part in self.references for one in order._shown((opened or {})[part])]
        texts = [part for part in self.parts if isinstance(part, order.Text)]
        return order.Message(self.role, (*media, *texts))

    patch.setattr(order.Unopened, "message", message)


def leaves_answers_as_they_came(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(translate, "_rank", lambda call, calls: 0)


def lets_half_a_mark_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tools, "_begun", lambda text: 0)


def takes_calls_that_nobody_offered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tools, "_call", lambda text: tools.Call("add", "{}"))


def leaves_references_where_they_led(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tools, "_pointed", lambda value, root, **_: value)


def forgets_how_events_are_numbered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(response_events.Growing, "_event", lambda self, event, **body: {
        "type": f"response.{event}", "sequence_number": 0, **body})  # fmt: skip


def calls_places_of_an_input_as_a_chat_does(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(responses, "calling", lambda request: lambda place: place)


def forgets_where_a_picture_stood(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(order.Order, "called", lambda self, name: self)


def rows(test: Callable[..., None], table: list) -> Callable[[], None]:
    def run() -> None:
        for row in table:
            test(*row)

    return run


def example(test: Any, **given: Any) -> Callable[[], None]:
    """One example of a property: looking for the smallest takes long."""
    return lambda: test.hypothesis.inner_test(**given)


REFUSED = rows(test_schema.test_refused_by_name, test_schema.REFUSED)
CAUGHT: dict[Plant, Callable[[], None]] = {
    takes_any_value_for_a_default: REFUSED,
    takes_true_for_one: REFUSED,
    forgets_the_limits: rows(test_schema.test_every_limit_is_kept_and_says_both_numbers, test_schema.LIMITS),
    counts_no_media: rows(test_schema.test_every_limit_is_kept_and_says_both_numbers, test_schema.LIMITS),
    lets_an_assistant_speak_last: REFUSED,
    walks_no_deeper: test_fields.test_the_extent_of_a_body,
    takes_any_text_for_an_address: test_fields.test_a_picture_is_no_text_but_text_that_begins_like_one_is,
    says_what_went_wrong_inside: lambda: test_fields.test_every_error_has_a_status(OSError(), 500, "internal_error"),
    reads_typed_text_as_structure: example(
        test_translate.test_no_text_becomes_structure_or_a_slot,
        before="<image>",
        after="<image>",
        system="",
        said="",
        tool="",
    ),
    puts_all_media_first: test_translate.test_media_of_all_kinds_stand_where_their_parts_stand,
    leaves_answers_as_they_came: test_translate.test_tools_and_their_answers,
    lets_half_a_mark_out: example(test_tools.test_streamed_is_whole, text=test_tools.CALL, cuts=(5,)),
    takes_calls_that_nobody_offered: example(test_tools.test_what_is_no_call_is_not_lost, text="<tool_call>"),
    leaves_references_where_they_led: test_tools.test_the_schema_of_calls_keeps_references_whole,
    calls_places_of_an_input_as_a_chat_does: lambda: test_errors.test_an_error_of_the_order_of_an_input_has_its_place(
        [test_errors.USER, test_errors.SYSTEM], "input[1]", None
    ),
    forgets_where_a_picture_stood: lambda: test_errors.test_what_is_refused_has_its_place(
        "responses", test_errors.spoken(test_errors.SEEN), "input[0].content[0].image_url", False
    ),
    forgets_how_events_are_numbered: test_clients.test_events_are_numbered,
}


@pytest.mark.parametrize("plant", CAUGHT, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_caught(plant, monkeypatch):
    CAUGHT[plant]()
    plant(monkeypatch)
    with pytest.raises((AssertionError, InternVLError, pytest.fail.Exception)):
        CAUGHT[plant]()
