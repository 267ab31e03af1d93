"""Would the golden cases notice? Each fault is planted, and at least one case must fail."""

from collections.abc import Callable

import pytest

from internvl.inference import beams, draft, sampling
from internvl.models import attention
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel
from tests.inference import test_golden

Plant = Callable[[pytest.MonkeyPatch], None]


def forgets_the_minimum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sampling, "forbid", lambda scores, ids: scores)


def leaves_beams_where_they_are(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KVCache, "reorder", lambda self, rows: None)


def starts_from_every_beam(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(beams, "CLOSED", 0.0)


def continues_after_the_padding(patch: pytest.MonkeyPatch) -> None:
    read = ChatModel.prefill
    patch.setattr(ChatModel, "prefill", lambda self, ids, seen, *, cache, lengths: read(self, ids, seen, cache=cache))


def stops_one_token_late(patch: pytest.MonkeyPatch) -> None:
    add = draft.Draft.add

    def late(self, chosen):
        before = self.ids[-1] if self.ids else -1
        finish = add(self, chosen)
        return "stop" if before in self.stop_ids else None if finish == "stop" else finish

    patch.setattr(draft.Draft, "add", late)


def forgets_a_token_when_copying(patch: pytest.MonkeyPatch) -> None:
    def stretched(tensor, chosen, extent, max_len):
        new = tensor.new_zeros(len(chosen), tensor.shape[1], max_len, tensor.shape[3])
        new[:, :, : extent - 1] = tensor[chosen, :, : extent - 1]
        return new

    patch.setattr(attention, "_stretched", stretched)


FAULTS: list[Plant] = [
    forgets_the_minimum,
    leaves_beams_where_they_are,
    starts_from_every_beam,
    continues_after_the_padding,
    stops_one_token_late,
    forgets_a_token_when_copying,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_the_golden_cases_catch(plant, monkeypatch):
    def passes(test, cases) -> bool:
        for case in cases:
            try:
                test(*case)
            except AssertionError:
                return False
        return True

    committed = [case for case in test_golden.CASES if case[0] == "qwen2-v2_5-bf16"]
    plant(monkeypatch)
    assert not passes(test_golden.test_generated_ids_and_scores, committed) or not passes(
        test_golden.test_captions, test_golden.CAPTIONS
    )
