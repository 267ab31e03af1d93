"""The generation loop on tiny random models: rows are independent, and cached, batched or seeded answers agree."""

from dataclasses import replace

import pytest
import torch

from internvl.errors import UsageError
from internvl.inference.generate import Generation, generate
from internvl.inference.rows import Prompt, new_cache
from internvl.inference.sampling import SamplingConfig
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel
from tests.models.tiny import IMAGE, TEXTS, chat_model, random_ids

GREEDY = SamplingConfig(max_new_tokens=10)
EPSILON = 1e-5
"""Logits (up to 4.4) of a row alone and in a batch, cached and not, differ by less; measured: 5.4e-6."""


def tiles(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def prompts_of(model: ChatModel, config: SamplingConfig, stop_ids: tuple[int, ...] = ()) -> list[Prompt]:
    """Text alone, one tile, two tiles: three lengths."""
    slots = [IMAGE] * model.config.slots_per_tile
    with torch.inference_mode():
        one, two = model.image_features(tiles(1, seed=1)), model.image_features(tiles(2, seed=2))
    ids = [random_ids(7, seed=1).tolist(), [5, *slots, *random_ids(4, seed=2).tolist()], [*slots, 9, *slots, 3, 8]]
    return [Prompt(row, seen, config, stop_ids) for row, seen in zip(ids, (None, one, two), strict=True)]


@torch.inference_mode()
def uncached_logits(model: ChatModel, prompt: Prompt, said: list[int]) -> torch.Tensor:
    """Logits after the prompt and after each generated token, in one pass without a cache."""
    ids = torch.tensor([*prompt.ids])[None]
    x = torch.cat((model.embed(ids, prompt.seen), model.language_model.embed(torch.tensor([said]).long())), dim=1)
    return model.language_model.logits(model.language_model(x))[0, len(prompt.ids) - 1 :]


def answers(model: ChatModel, prompts: list[Prompt]) -> list[list[int]]:
    return [done.ids for done in generate(model, prompts, cache=new_cache(model, prompts))]


def assert_same_choices(model: ChatModel, prompt: Prompt, ours: list[int], theirs: list[int]) -> None:
    """Two greedy answers agree up to the first near tie, where the two best logits differ by 2 epsilon at most."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            first, second = uncached_logits(model, prompt, ours[:i])[-1].topk(2).values
            assert first - second <= 2 * EPSILON, f"token {i} differs: {a} and {b}, the margin is {first - second}"
            return


LENGTH_DEPENDENT = {"internlm2", "phi3"}


@pytest.mark.parametrize("text", sorted(TEXTS))
def test_a_batch_answers_as_its_rows_do_alone(text):
    model = chat_model(text)
    prompts = prompts_of(model, GREEDY)
    together = answers(model, prompts)
    for prompt, ours in zip(prompts, together, strict=True):
        [alone] = answers(model, [prompt])
        assert len(ours) == 10
        assert_same_choices(model, prompt, ours, alone)


@pytest.mark.parametrize("text", sorted(TEXTS.keys() - LENGTH_DEPENDENT))
def test_cached_equals_uncached_and_logprobs_a_teacher_forced_pass(text):
    model = chat_model(text)
    prompts = prompts_of(model, replace(GREEDY, top_logprobs=3))
    for prompt, done in zip(prompts, generate(model, prompts, cache=new_cache(model, prompts)), strict=True):
        logits = uncached_logits(model, prompt, done.ids[:-1])
        assert_same_choices(model, prompt, done.ids, logits.argmax(-1).tolist())
        expected = logits.log_softmax(-1)
        ours = torch.tensor([token.logprob for token in done.tokens])
        torch.testing.assert_close(
            ours, expected.gather(-1, torch.tensor(done.ids)[:, None])[:, 0], atol=EPSILON, rtol=0
        )
        best = torch.tensor([[logprob for _, logprob in token.top] for token in done.tokens])
        torch.testing.assert_close(best, expected.topk(3).values, atol=EPSILON, rtol=0)


def test_log_probabilities_are_the_models_own_token_logprobs():
    model = chat_model()
    [prompt] = prompts_of(model, GREEDY)[:1]
    [done] = generate(model, [prompt], cache=new_cache(model, [prompt]))
    ids = torch.tensor([[*prompt.ids, *done.ids]])
    forced = model.token_logprobs(ids, ids.clone())[0, len(prompt.ids) :]
    ours = torch.tensor([token.logprob for token in done.tokens])
    torch.testing.assert_close(ours, forced.detach(), atol=EPSILON, rtol=0)


def test_a_row_that_stops_does_not_disturb_the_others():
    model = chat_model()
    free = answers(model, prompts_of(model, GREEDY))
    stop = free[1][3]
    ours = answers(model, prompts_of(model, GREEDY, stop_ids=(stop,)))
    assert ours == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in free]
    assert ours[1] == free[1][: free[1].index(stop) + 1] != free[1]


def test_a_row_can_be_ended_from_outside():
    model = chat_model()
    prompts = prompts_of(model, GREEDY)
    free = answers(model, prompts)
    run = Generation(model, prompts, cache=new_cache(model, prompts))
    for emitted in run:
        if len(run.generated[0]) == 4:
            run.end(0)
        assert all(one.row in (0, 1, 2) for one in emitted)
    assert run.generated == [free[0][:4], *free[1:]]


def test_rows_may_ask_for_different_things():
    model = chat_model()
    configs = [
        SamplingConfig(max_new_tokens=3),
        SamplingConfig(max_new_tokens=8, temperature=1.0, seed=5, top_logprobs=2),
        SamplingConfig(max_new_tokens=6, repetition_penalty=3.0),
    ]
    prompts = [
        replace(prompt, config=config) for prompt, config in zip(prompts_of(model, GREEDY), configs, strict=True)
    ]
    done = generate(model, prompts, cache=new_cache(model, prompts))
    assert [len(one.ids) for one in done] == [3, 8, 6]
    assert [len(one.tokens[0].top) for one in done] == [0, 2, 0]
    assert [one.ids for one in done] == [answers(model, [prompt])[0] for prompt in prompts]


def test_a_seed_repeats_an_answer_alone_and_in_a_batch():
    model = chat_model()
    config = SamplingConfig(max_new_tokens=12, temperature=1.5, top_p=0.95, seed=11)
    prompts = prompts_of(model, config)
    once = answers(model, prompts)
    assert once == answers(model, prompts)
    assert once == [answers(model, [prompt])[0] for prompt in prompts]
    others = {str(answers(model, [replace(prompts[0], config=replace(config, seed=s))])) for s in range(5)}
    assert len(others) > 1, "another seed, another answer"
    unseeded = [replace(prompts[0], config=replace(config, seed=None))] * 6
    assert len({tuple(ids) for ids in answers(model, unseeded)}) > 1


def test_a_cache_that_holds_the_beginning_gives_the_same_answer():
    model = chat_model()
    [prompt] = prompts_of(model, GREEDY)[1:2]
    [whole] = answers(model, [prompt])
    cache = new_cache(model, [prompt])
    model.prefill(torch.tensor([prompt.ids[:7]]), prompt.seen, cache=cache, lengths=None)
    cache = cache.copied(torch.tensor([0]), cache.max_len + 30)
    [rest] = generate(model, [Prompt(prompt.ids[7:], config=GREEDY)], cache=cache)
    assert rest.ids == whole


def test_copied_rows_are_their_own():
    cache = KVCache(TEXTS["llama"], slots=2, max_len=4)
    cache.begin(2)
    for layer in range(3):
        k = torch.arange(2 * 2 * 2 * 8.0).view(2, 2, 2, 8)
        cache.write(layer, k, -k)
    cache.advance()
    spread = cache.copied(torch.tensor([0, 0, 1]), 6)
    assert (spread.slots, spread.max_len, spread.lengths.tolist()) == (3, 6, [2, 2, 2])
    spread.begin(1)
    spread.write(0, torch.ones(3, 2, 1, 8), torch.ones(3, 2, 1, 8))
    assert torch.equal(cache.keys[1][:, :, :2], spread.keys[1][[0, 2], :, :2])
    assert cache.keys[0][:, :, 2:].abs().sum() == 0


def test_misuse_is_refused_in_one_line():
    model = chat_model()
    empty = [Prompt([])]
    with pytest.raises(UsageError, match="no tokens"):
        generate(model, empty, cache=new_cache(model, empty))
    beams = [Prompt([1], config=SamplingConfig(beams=2))]
    with pytest.raises(UsageError, match="beam_search"):
        Generation(model, beams, cache=new_cache(model, beams))
    with pytest.raises(UsageError, match="nothing to continue"):
        generate(model, [], cache=new_cache(model, []))


def test_logits_that_are_not_numbers_are_an_error():
    model = chat_model()
    model.language_model.model.norm.weight.data[0] = float("nan")
    prompts = [Prompt([1, 2])]
    with pytest.raises(UsageError, match="float32"):
        generate(model, prompts, cache=new_cache(model, prompts))
