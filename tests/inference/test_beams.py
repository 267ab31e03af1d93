"""Beam search: against an exhaustive search where that is possible, and its rules one by one."""

import itertools
from dataclasses import replace

import pytest
import torch

from internvl.errors import UsageError
from internvl.inference.generate import generate
from internvl.inference.rows import Prompt, new_cache
from internvl.inference.sampling import Completion, SamplingConfig
from internvl.models.chat import ChatModel
from tests.inference.test_generate import prompts_of, uncached_logits
from tests.models.tiny import chat_model, random_ids


def search(model: ChatModel, prompts: list[Prompt]) -> list[Completion]:
    return generate(model, prompts, cache=new_cache(model, prompts))


class Bigram:
    """A model whose logits depend on the last token only, so that every sequence can be scored by hand."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def prefill(self, input_ids, seen, *, cache, lengths):
        self._write(cache, input_ids.shape[1])
        return self.table[input_ids[torch.arange(len(input_ids)), lengths - 1]]

    def step(self, tokens, *, cache):
        self._write(cache, 1)
        return self.table[tokens[:, 0]]

    def _write(self, cache, tokens):
        cache.begin(tokens)
        cache.advance()


def every_ending(
    table: torch.Tensor, start: int, stop: int, longest: int, penalty: float
) -> dict[tuple[int, ...], float]:
    """The worth of every sequence that ends with the stop token or is as long as allowed."""
    logprobs, worth = table.log_softmax(-1), {}
    for length in range(1, longest + 1):
        for ids in itertools.product(range(len(table)), repeat=length):
            if stop in ids[:-1] or (length < longest and ids[-1] != stop):
                continue
            total = sum(float(logprobs[a, b]) for a, b in itertools.pairwise((start, *ids)))
            worth[ids] = total / length**penalty
    return worth


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_enough_beams_find_the_best_sequence(seed, penalty):
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)) * 2
    worth = every_ending(table, start=1, stop=0, longest=4, penalty=penalty)
    config = SamplingConfig(max_new_tokens=4, beams=5**3, length_penalty=penalty, early_stopping="never")
    prompt = Prompt([1], config=config, stop_ids=(0,))
    [found] = generate(Bigram(table), [prompt], cache=new_cache(chat_model(), [prompt]))
    best = max(worth, key=lambda ids: worth[ids])
    assert tuple(found.ids) == best
    assert found.score == pytest.approx(worth[best], abs=2e-7)  # measured: 2.2e-8
    assert found.finish == ("stop" if best[-1] == 0 else "length")
    said = sum(token.logprob for token in found.tokens)
    assert said == pytest.approx(worth[best] * len(best) ** penalty, abs=4e-6)  # measured: 4.8e-7


def test_more_beams_are_never_worth_less_here_and_their_score_is_a_teacher_forced_one():
    model = chat_model()
    config = SamplingConfig(max_new_tokens=6)
    for prompt in prompts_of(model, config):
        [greedy] = search(model, [prompt])
        [found] = search(model, [replace(prompt, config=replace(config, beams=4))])
        logits = uncached_logits(model, prompt, found.ids[:-1])
        forced = logits.log_softmax(-1).gather(-1, torch.tensor(found.ids)[:, None]).sum()
        assert found.score == pytest.approx(float(forced) / 6, abs=4e-6)  # measured: 4e-7
        assert found.score is not None
        assert found.score >= sum(token.logprob for token in greedy.tokens) / 6 - 1e-6


def test_a_batch_of_searches_finds_what_each_finds_alone():
    model = chat_model()
    config = SamplingConfig(max_new_tokens=8, beams=3, length_penalty=0.0)
    prompts = prompts_of(model, config)
    stop = search(model, prompts)[1].ids[2]
    prompts = [replace(prompt, stop_ids=(stop,)) for prompt in prompts]
    together = search(model, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        [alone] = search(model, [prompt])
        assert (found.ids, found.finish) == (alone.ids, alone.finish)
        assert found.score == pytest.approx(alone.score, abs=1e-5)  # of -28: measured: 3.8e-6
    assert len({len(found.ids) for found in together}) > 1, "one of them stops early"


def test_a_minimum_of_tokens_holds():
    model = chat_model()
    config = SamplingConfig(max_new_tokens=8, beams=3)
    [free] = search(model, [Prompt(random_ids(5).tolist(), config=config)])
    stop = free.ids[0]
    prompt = Prompt(random_ids(5).tolist(), config=replace(config, min_new_tokens=5), stop_ids=(stop,))
    [found] = search(model, [prompt])
    assert stop not in found.ids[:5]


def test_ending_at_once_differs_from_searching_on():
    table = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.4, 1.2], [2.0, 0.0, 3.0]]) * 2

    def found(**changes):
        prompt = Prompt([1], config=SamplingConfig(max_new_tokens=6, beams=2, **changes), stop_ids=(0,))
        return generate(Bigram(table), [prompt], cache=new_cache(chat_model(), [prompt]))[0]

    at_once, later = found(early_stopping=True), found(early_stopping="never")
    assert at_once.score is not None
    assert later.score is not None
    assert at_once.score < later.score


def test_one_search_has_one_config():
    model = chat_model()
    configs = [SamplingConfig(beams=2), SamplingConfig(beams=3)]
    with pytest.raises(UsageError, match="share"):
        search(model, [Prompt([1], config=config) for config in configs])
