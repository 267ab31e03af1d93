"""A real vLLM gives the answers of the package's own engine: the same tokens, but where two are almost equally likely.

Runs where INTERNVL_TEST_VLLM names the command of an installed vLLM; `pytest -s` prints what was compared.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
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
from internvl.serving.settings import Settings
from internvl.serving.translate import Order, Reference, Sampling, Unopened
from internvl.serving.vllm import VllmBackend, VllmOptions
from internvl.serving.wire import Done, Piece

REAL = os.environ.get("INTERNVL_TEST_VLLM")
pytestmark = pytest.mark.skipif(REAL is None, reason="INTERNVL_TEST_VLLM names no vLLM")

PATIENCE = 3600.0
EPSILON = 1e-3
"""Log-probabilities of two engines in fp32 differ by less."""
TEXTS = (
    "What is your name?", "Who made you?", "Name a colour.", "What can you do?", "Hello!", "Can you see pictures?",
    "What is 3 plus 4?", "Say hello.", "Are you a person?", "How are you?", "What are you?", "Thank you.", "Goodbye.",
    "What is the capital of France?", "Count to five.", "What do you know?", "Write a poem.", "Tell me a story.",
    "Is the sky blue?", "What shapes do you know?",
)  # fmt: skip


@dataclass
class Answer:
    ids: Sequence[int]
    text: str
    tokens: list[Any]
    done: Done


def questions() -> list[Order]:
    """20 of text, 20 with a picture: three examples of the package, the others drawn."""
    examples = Path(internvl.__file__).parent / "nano" / "examples"
    shown = [(PIL.Image.open(one).convert("RGB"), "What is in the picture?")
             for one in sorted(examples.glob("*.*g")) if one.suffix in (".png", ".jpg")]  # fmt: skip
    world = World(Kit())
    skills = [skill for skill in world.skills if _draws(world, skill)]
    number = 0
    while len(shown) < 20:
        sample = world.draw(skills[number % len(skills)], seed=20261126, number=number)
        shown.append((sample.pictures[0], sample.turns[0][0]))
        number += 1
    return [_order(Text(text)) for text in TEXTS] + [_order(_reference(photo), Text(text)) for photo, text in shown]


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
    sampling = Sampling(**({"max_new_tokens": 48, "top_logprobs": 2} | changes.pop("sampling", {})))
    return Order(model="nano", unopened=(Unopened("user", parts),), sampling=sampling, logprobs=True, **changes)


async def answered(backend: NativeBackend, order: Order) -> Answer:
    ids: Sequence[int] = ()
    texts: list[str] = []
    tokens: list[Any] = []
    dones: list[Done] = []
    async with aclosing(backend.answer(order)) as answers:
        async for one in answers:
            if isinstance(one, Counted):
                ids = one.ids
            elif isinstance(one, Piece):
                texts.append(one.text)
                tokens += one.tokens
            else:
                dones.append(one)
    return Answer(ids, "".join(texts), tokens, dones[-1])


def parting(ours: Answer, theirs: Answer) -> tuple[int, float] | None:
    """Where the tokens part, and by how much ours was likelier than the second; None where they do not."""
    for place, (one, other) in enumerate(zip(ours.tokens, theirs.tokens, strict=False)):
        if one["bytes"] != other["bytes"]:
            first, second = (top["logprob"] for top in one["top"])
            return place, first - second
    return None if ours.text == theirs.text else (min(len(ours.tokens), len(theirs.tokens)), float("inf"))


def test_a_real_vllm_answers_as_the_native_engine_does():
    orders = questions()
    forms = [
        _order(Text("Is the sky blue?"), constraint=Constraint.choice(["yes", "no"])),
        _order(Text("Name a colour."), constraint=Constraint.regex("[a-z]{3,8}")),
        _order(Text("Tell me of a cat."), constraint=Constraint.json_schema(
            {"type": "object", "properties": {"name": {"enum": ["Tom", "Kit"]}}, "required": ["name"]})),
        _order(Text("What is your name?"), sampling={"stop": ("a",)}),
        _order(Text("What is your name?"), sampling={"min_new_tokens": 12, "max_new_tokens": 12}),
    ]  # fmt: skip

    async def all_of(backend: NativeBackend) -> list[Answer]:
        async with asyncio.timeout(PATIENCE):
            await backend.start()
            try:
                alone = [await answered(backend, order) for order in orders[::5]]
                found = list(await asyncio.gather(*(answered(backend, order) for order in [*orders, *forms])))
                again = await answered(backend, orders[-1])
                several = _order(Text("Name a colour."), n=3, sampling={"temperature": 1.0, "seed": 5})
                return [*found, *alone, again, await answered(backend, several)]
            finally:
                await backend.stop()

    settings = Settings(slots=8, embedder=None, context=2048)
    ours = asyncio.run(all_of(NativeBackend(settings)))
    theirs = asyncio.run(all_of(VllmBackend(settings, VllmOptions(program=REAL or ""))))
    *ours, _ = ours
    *theirs, three = theirs
    apart = 0.0
    differ: list[str] = []
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert list(one.ids) == list(other.ids)
        part = parting(one, other)
        same = part[0] if part else min(len(one.tokens), len(other.tokens))
        for a, b in zip(one.tokens[:same], other.tokens[:same], strict=True):
            apart = max(apart, abs(a["logprob"] - b["logprob"]))
        if part:
            differ.append(f"{number}: token {part[0]}, margin {part[1]:.2g}: {one.text!r} / {other.text!r}")
            assert part[1] < 2 * EPSILON, differ
        elif number < len(orders):
            assert one.done.completion == other.done.completion
            assert one.done.finish == other.done.finish
    print(
        f"\n{len(ours)} answers, {len(differ)} part; log-probabilities differ by at most {apart:.2g}", *differ, sep="\n"
    )
    assert apart < EPSILON
    assert theirs[-1].done.reused > 0  # a prompt that it has seen, picture and all
    assert three.done.answer == 2
    assert three.done.last
