"""Requests for an engine on tiny models, and running them to the end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from internvl.inference.engine import Ended, Engine, EngineConfig, Failed, Request, Spoke
from internvl.inference.generate import generate
from internvl.inference.rows import Prompt, new_cache
from internvl.inference.sampling import Completion, Finish, SamplingConfig, Token
from internvl.inference.seen import Features, digest
from internvl.models.chat import ChatModel
from internvl.models.config import RopeScaling
from tests.models.tiny import IMAGE, TEXTS, chat_config, random_ids, shake

EPSILON = 1e-5
"""Log-probabilities of the same token, alone and served, differ by less; measured: 2.4e-6."""
GREEDY = SamplingConfig(max_new_tokens=8)


def roomy(text: str = "qwen2", positions: int = 128) -> ChatModel:
    """A tiny model that reads enough for conversations. Where rope depends on length, it does so from early on."""
    rope = RopeScaling(kind="dynamic", factor=2.0, original=6) if text == "internlm2" else TEXTS[text].rope
    return shake(ChatModel(replace(chat_config(text), text=replace(TEXTS[text], max_positions=positions, rope=rope))))


def picture(seed: int, tiles: int = 1) -> tuple[str, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 256, (tiles, 56, 56, 3), dtype=np.uint8)
    return digest(pixels), pixels


def asking(model: ChatModel, *parts: int | list[int] | tuple[str, np.ndarray], **options) -> Request:
    """A request for these ids, runs of ids and pictures, greedy if nothing else is said."""
    ids: list[int] = []
    pictures = []
    for part in parts:
        if isinstance(part, tuple):
            pictures.append(part)
            ids += [IMAGE] * (len(part[1]) * model.config.slots_per_tile)
        else:
            ids += part if isinstance(part, list) else [part]
    return Request(ids=ids, pictures=pictures, **{"sampling": GREEDY, **options})


def words(count: int, seed: int) -> list[int]:
    return random_ids(count, seed=seed).tolist()


def any_request(model: ChatModel, draw: Random) -> Request:
    """Text and pictures, greedy or not, often with a beginning that others have too."""
    parts: list = [words(draw.choice((3, 9)), seed=draw.randrange(2))]
    for _ in range(draw.randrange(3)):
        parts += [picture(draw.randrange(3), tiles=draw.choice((1, 2))), words(draw.randrange(1, 6), draw.randrange(9))]
    config = SamplingConfig(max_new_tokens=draw.randrange(1, 9), top_logprobs=draw.choice((0, 2)))
    if draw.random() < 0.4:
        config = replace(config, temperature=1.0, seed=draw.randrange(99), top_p=0.9)
    return asking(
        model, *parts, sampling=config, n=draw.choice((1, 1, 1, 2)), user=draw.choice("abc"),
        priority=draw.choice((0, 0, 1)), stop_ids=(draw.randrange(1, IMAGE),),
    )  # fmt: skip


def alone(model: ChatModel, request: Request, answer: int = 0) -> Completion:
    """What `generate` says to the request alone; `lone_prompt` is what it was asked."""
    prompt = lone_prompt(model, request, answer)
    [done] = generate(model, [prompt], cache=new_cache(model, [prompt]))
    return done


def lone_prompt(model: ChatModel, request: Request, answer: int = 0) -> Prompt:
    config, seen = request.sampling, Features(model, "imagenet").of(request.pictures)
    if config.seed is not None:
        config = replace(config, seed=config.seed + answer)
    return Prompt(request.ids, seen, config, request.stop_ids, request.counted)


@dataclass
class Heard:
    """What came of one answer."""

    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None
    reused: int = 0
    first_step: int | None = None
    last_step: int | None = None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


@dataclass
class Ear:
    """Collects the events of an engine, and checks that they come in order."""

    engine: Engine
    answers: dict[tuple[int, int], Heard] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    steps: int = 0

    def step(self) -> None:
        self.steps += 1
        for event in self.engine.step():
            assert event.id not in self.errors, "nothing comes after a failure"
            if isinstance(event, Failed):
                self.errors[event.id] = event.error
                continue
            heard = self.answers.setdefault((event.id, event.answer), Heard())
            assert heard.finish is None, "nothing comes after the end"
            if isinstance(event, Spoke):
                heard.first_step = heard.first_step or self.steps
                heard.tokens.append(event.token)
            elif isinstance(event, Ended):
                heard.finish, heard.reused, heard.last_step = event.finish, event.reused, self.steps

    def all(self, most: int = 2000) -> "Ear":
        while self.engine.busy:
            self.step()
            assert self.steps < most, "it does not end"
        return self


def farthest(heard: Heard, expected: Completion) -> float:
    """The largest difference between log-probabilities of the same tokens."""
    assert heard.ids == expected.ids
    return max(abs(a.logprob - b.logprob) for a, b in zip(heard.tokens, expected.tokens, strict=True))


def engine_of(model: ChatModel, **config) -> Engine:
    return Engine(model, "imagenet", EngineConfig(**{"slots": 4, "max_len": 96, "chunk": 7, **config}))


def served(engine: Engine, requests: Iterable[Request], between: Callable[[Ear], None] = Ear.step) -> list[list[Heard]]:
    """Answers of requests that come one after the other, `between` having been done after each."""
    ear, ids = Ear(engine), []
    requests = list(requests)
    for request in requests:
        ids.append(engine.submit(request))
        between(ear)
    ear.all()
    assert not ear.errors, ear.errors
    return [[ear.answers[id, answer] for answer in range(request.n)] for id, request in zip(ids, requests, strict=True)]
