"""A real vLLM gives the answers of the package's own engine: the same tokens, but where two are almost equally likely.

Runs where INTERNVL_TEST_VLLM names the command of an installed vLLM; `pytest -s` prints what was compared.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import internvl
from internvl.data.prompts import Text
from internvl.errors import InternVLError
from internvl.inference.constraint import Constraint
from internvl.nano.sample import Kit
from internvl.nano.world import World
from internvl.serving.backend import Counted
from internvl.serving.native import NativeBackend
from internvl.serving.order import Order, Reference, Sampling, Unopened
from internvl.serving.settings import Settings
from internvl.serving.vllm import VllmBackend, VllmOptions
from internvl.serving.wire import Done, Piece

REAL = os.environ.get("INTERNVL_TEST_VLLM")
pytestmark = pytest.mark.skipif(REAL is None, reason="INTERNVL_TEST_VLLM names no vLLM")

PATIENCE = 3600.0
EPSILON = 1e-3
"""Log-probabilities of two engines in fp32 differ by less."""
LONG = 40
"""An order with four pictures and much text: on a CPU, vLLM knows a prompt again by whole blocks of 128 tokens."""
TEXTS = (
    "What is your name?", "Who made you?", "Name a colour.", "What can you do?", "Hello!", "Can you see pictures?",
    "What is 3 plus 4?", "Say hello.", "Are you a person?", "How are you?", "What are you?", "Thank you.", "Goodbye.",
    "What is the capital of France?", "Count to five.", "What do you know?", "Write a poem.", "Tell me a story.",
    "Is the sky blue?", "What shapes do you know?",
)  # fmt: skip


@dataclass
class Answer:
    """One of the answers to an order; the first, where nothing else is said."""

    ids: Sequence[int]
    text: str
    tokens: list[Any]
    done: Done
    others: tuple[str, ...] = ()


def shown() -> list[tuple[Reference, str]]:
    """Pictures with a question each: three examples of the package, the others drawn."""
    examples = Path(internvl.__file__).parent / "nano" / "examples"
    found = [(_reference(PIL.Image.open(one).convert("RGB")), "What is in the picture?")
             for one in sorted(examples.glob("*.*g")) if one.suffix in (".png", ".jpg")]  # fmt: skip
    world = World(Kit())
    skills = [skill for skill in world.skills if _draws(world, skill)]
    for number in range(20 - len(found)):
        sample = world.draw(skills[number % len(skills)], seed=20261126, number=number)
        found.append((_reference(sample.pictures[0]), sample.turns[0][0]))
    return found


def questions() -> dict[str, list[Order]]:
    """What both engines are asked, by its kind."""
    pictures = shown()
    (one, asked), (two, _), (three, _), (four, _) = pictures[:4]
    compare = Text("What is the difference?")
    both = Text("What is in both pictures?")
    return {
        "text": [_order(Text(text)) for text in TEXTS],
        "one picture": [_order(photo, Text(text)) for photo, text in pictures],
        "several pictures": [
            _order(one, two, three, four, Text(" ".join(TEXTS))),
            _order(one, two, compare), _order(two, one, compare), _order(one, one, both), _order(one, two, three, both),
            _order(Text("Here is one:"), one, Text("and another:"), four, both),
            *(_order(a, b, Text(text)) for (a, _), (b, text) in zip(pictures[4::2], pictures[5::2], strict=True)),
        ],
        "several turns": [
            _talk("Hello!", "Hello.", "What is your name?"),
            _talk("My name is Ann.", "Hello, Ann.", "What is my name?"),
            _talk("What is 3 plus 4?", "7", "And plus 2?", "9", "Are you sure?"),
            _talk((one, Text(asked)), "A picture.", "What colour is it?"),
            _talk((one, Text(asked)), "A picture.", (two, Text("And in this one?"))),
            _talk((one, two, both), "Two things.", (three, Text("And here?")), "More.", "Which was the first?"),
            _talk("Say hello.", "Hello.", "Again.", system="You are a parrot."),
        ],
        "forms": [
            _order(Text("Is the sky blue?"), constraint=Constraint.choice(["yes", "no"])),
            _order(one, Text("Is it a flag?"), constraint=Constraint.choice(["yes", "no"])),
            _order(Text("Name a colour."), constraint=Constraint.regex("[a-z]{3,8}")),
            _order(Text("Tell me of a cat."), constraint=Constraint.json_schema(
                {"type": "object", "properties": {"name": {"enum": ["Tom", "Kit"]}}, "required": ["name"]})),
        ],
        "ends": [
            _order(Text("What is your name?"), sampling={"stop": ("a",)}),
            _order(one, Text(asked), sampling={"stop": ("e", "is")}),
            _order(Text("What is your name?"), sampling={"min_new_tokens": 12, "max_new_tokens": 12}),
            _order(Text("What can you do?"), sampling={"max_new_tokens": 3}),
            _order(Text("What can you do?"), n=3),
            _order(one, Text(asked), n=2, sampling={"stop": ("e",)}),
        ],
    }  # fmt: skip


def _draws(world: World, skill: str) -> bool:
    try:
        return len(world.draw(skill, seed=1, number=0).pictures) == 1
    except InternVLError:
        return False


def _reference(photo: PIL.Image.Image) -> Reference:
    file = io.BytesIO()
    photo.save(file, "PNG")
    return Reference("image", "data:image/png;base64," + base64.b64encode(file.getvalue()).decode())


def _order(*parts: Text | Reference, **changes: Any) -> Order:
    return _told((Unopened("user", parts),), **changes)


def _told(messages: tuple[Unopened, ...], **changes: Any) -> Order:
    sampling = Sampling(**({"max_new_tokens": 48, "top_logprobs": 2} | changes.pop("sampling", {})))
    return Order(model="nano", unopened=messages, sampling=sampling, logprobs=True, **changes)


def _talk(*turns: str | tuple[Text | Reference, ...], system: str | None = None) -> Order:
    """Turns of a person and of the model, one after the other."""
    said = [Unopened("system", (Text(system),))] if system else []
    for number, turn in enumerate(turns):
        parts = (Text(turn),) if isinstance(turn, str) else turn
        said.append(Unopened("assistant" if number % 2 else "user", parts))
    return _told(tuple(said))


async def answered(backend: NativeBackend, order: Order) -> Answer:
    ids: Sequence[int] = ()
    texts = [""] * order.n
    tokens: list[Any] = []
    dones: list[Done] = []
    async with aclosing(backend.answer(order)) as answers:
        async for one in answers:
            if isinstance(one, Counted):
                ids = one.ids
            elif isinstance(one, Piece):
                texts[one.answer] += one.text
                tokens += one.tokens if one.answer == 0 else ()
            else:
                dones.append(one)
    assert sorted(done.answer for done in dones) == list(range(order.n))
    assert [done.last for done in dones] == [False] * (order.n - 1) + [True]
    first = next(done for done in dones if done.answer == 0)
    return Answer(ids, texts[0], tokens, first, tuple(texts[1:]))


def parting(ours: Answer, theirs: Answer) -> tuple[int, float] | None:
    """Where the tokens part, and by how much ours was likelier than the second; None where they do not."""
    for place, (one, other) in enumerate(zip(ours.tokens, theirs.tokens, strict=False)):
        if one["bytes"] != other["bytes"]:
            first, second = (top["logprob"] for top in one["top"])
            return place, first - second
    return None if ours.text == theirs.text else (min(len(ours.tokens), len(theirs.tokens)), float("inf"))


async def all_of(backend: NativeBackend, orders: Sequence[Order]) -> tuple[list[Answer], list[Answer]]:
    """What is asked alone, then all at once, then one again; and what is drawn with seeds."""
    async with asyncio.timeout(PATIENCE):
        await backend.start()
        try:
            alone = [await answered(backend, order) for order in orders[::5]]
            found = list(await asyncio.gather(*(answered(backend, order) for order in orders)))
            again = await answered(backend, orders[LONG])
            warm = [_order(Text("Name a colour."), n=n, sampling={"temperature": 1.0, "seed": seed, **more})
                    for n, seed, more in ((1, 5, {}), (1, 5, {}), (3, 5, {}), (2, 2**63 - 1, {}),
                                          (1, 6, {"top_k": 2**40, "top_p": 0.9, "repetition_penalty": 1.2}),
                                          (2, 7, {"temperature": 1e-6}), (2, 7, {"temperature": 2.0}))]  # fmt: skip
            return [*found, *alone, again], [await answered(backend, order) for order in warm]
        finally:
            await backend.stop()


@pytest.mark.timeout(2 * PATIENCE)
def test_a_real_vllm_answers_as_the_native_engine_does():
    kinds = questions()
    orders = [order for several in kinds.values() for order in several]
    names = [kind for kind, several in kinds.items() for _ in several]
    names += [f"{kind}, alone" for kind in names[::5]] + ["several pictures, again"]
    settings = Settings(slots=8, embedder=None, context=2048)
    ours, _ = asyncio.run(all_of(NativeBackend(settings), orders))
    theirs, warm = asyncio.run(all_of(VllmBackend(settings, VllmOptions(program=REAL or "")), orders))
    apart: dict[str, float] = dict.fromkeys(names, 0.0)
    differ: list[str] = []
    wrong: list[str] = []
    same: Counter[str] = Counter()
    tokens = 0
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert list(one.ids) == list(other.ids)
        part = parting(one, other)
        equal = part[0] if part else len(one.tokens)
        for a, b in zip(one.tokens[:equal], other.tokens[:equal], strict=True):
            apart[name] = max(apart[name], abs(a["logprob"] - b["logprob"]))
        tokens += equal
        same[name] += part is None
        # vLLM draws the stop token, where the native engine sees that a form is complete
        more = name.startswith("forms")
        ends = ((len(one.tokens), one.others, one.done.finish), (len(other.tokens), other.others, other.done.finish))
        if part:
            differ.append(f"{name}: token {part[0]}, margin {part[1]:.2g}: {one.text!r} / {other.text!r}")
            wrong += [differ[-1]] if part[1] > 2 * EPSILON else []
        elif ends[0] != ends[1] or not 0 <= other.done.completion - one.done.completion <= more:
            wrong.append(f"{name}: {ends}, {one.done.completion} / {other.done.completion} tokens")
    asked = Counter(names)
    print(
        "",
        *(
            f"{name}: {same[name]} of {count} equal, log-probabilities within {apart[name]:.2g}"
            for name, count in asked.items()
        ),
        sep="\n",
    )
    print(f"{tokens} tokens are equal", *differ, sep="\n")
    print("warm:", *(repr([one.text, *one.others]) for one in warm), "wrong:", *wrong, sep="\n")
    assert not wrong
    # with a form, vLLM tells what is likely among the tokens that the form allows
    assert max(far for name, far in apart.items() if not name.startswith("forms")) < EPSILON
    print(f"again: {theirs[-1].done.reused} of {len(theirs[-1].ids)} tokens were known")
    assert theirs[-1].done.reused > 0  # a prompt that it has seen, pictures and all
    assert warm[0].text == warm[1].text == warm[2].text  # a seed gives the same again, and n begins with it
    assert all(len(one.others) == n - 1 for one, n in zip(warm, (1, 1, 3, 2, 1, 2, 2), strict=True))
