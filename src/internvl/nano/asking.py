"""Questions in English or Chinese, with the instructions that benchmarks put after them."""

from __future__ import annotations

import random
from dataclasses import dataclass

SHORT = "Answer the question using a single word or phrase."
YES_OR_NO = "Please answer yes or no."

Both = tuple[str, str]
"""The same in English and in Chinese."""
Wordings = tuple[tuple[str, ...], tuple[str, ...]]
"""Ways to ask one thing, in English and in Chinese."""

YES: Both = ("Yes", "是")
NO: Both = ("No", "否")


@dataclass(frozen=True)
class Asked:
    """A question with its answer and one that is false."""

    question: str
    answer: str
    wrong: str | None = None

    @property
    def turn(self) -> tuple[str, str]:
        return self.question, self.answer


@dataclass(frozen=True)
class Asker:
    """Asks in one language.

    >>> rng = random.Random(1)
    >>> Asker(chinese=True).ask(rng, (("How many {noun}?",), ("有几个{noun}?",)), "3", noun=("stars", "星形")).turn
    ('有几个星形?', '3')
    """

    chinese: bool

    def say(self, text: str | Both) -> str:
        return text if isinstance(text, str) else text[self.chinese]

    def ask(
        self,
        rng: random.Random,
        wordings: Wordings,
        answer: str | Both,
        wrong: str | Both | None = None,
        *,
        brief: bool = True,
        **values: str | Both,
    ) -> Asked:
        """One of the wordings, filled in. A third of the English ones bring an instruction, unless not `brief`."""
        question = rng.choice(wordings[self.chinese]).format(**{k: self.say(v) for k, v in values.items()})
        if brief and not self.chinese and rng.random() < 1 / 3:
            if answer in (YES, NO):
                question += rng.choice((f" {YES_OR_NO}", f" {YES_OR_NO} {SHORT}", f"\n{SHORT}"))
            else:
                question += f"\n{SHORT}"
        return Asked(question, self.say(answer), None if wrong is None else self.say(wrong))


def some_language(rng: random.Random) -> Asker:
    """Chinese for about one sample of seven."""
    return Asker(chinese=rng.random() < 0.15)


def yes(true: bool) -> tuple[Both, Both]:
    """The answer and the false one."""
    return (YES, NO) if true else (NO, YES)
