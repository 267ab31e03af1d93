"""Token ids and labels as the first code base made them, for `compat="original"` and nothing else.

It rendered a conversation to one string, tokenised that, and then looked for the answers by tokenising pieces of the
string again and adding up their lengths. Where the sum came out wrong, and the sample had not reached the length limit,
the whole sample carried no loss. What it did before that depended on the template:

    internvl2_5, internvl3_5_gpt_oss    each message is tokenised on its own; nothing can come out wrong
    Hermes-2, phi3-chat                 an assistant's first message is dropped; a system message is an error
    internlm2-chat                      the same, and white space around every message is stripped
    internvl_zh                         no answer is ever found
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from internvl.data.prompts import Piece, Rendered, Template, Turn
from internvl.data.tokenizer import Tokenizer
from internvl.errors import PromptError

Span = tuple[int, int]


@dataclass(frozen=True)
class Script:
    """A conversation's text in one template, tokenised as the first code base did.

    `slots`: how many each picture takes.
    """

    tokenizer: Tokenizer
    template: Template
    system_message: str | None
    slots: Sequence[int]

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a conversation that the assistant is to continue."""
        return self._ids(self._text(self._rendered(turns, generate=True)))

    def training(self, turns: Sequence[Turn], max_length: int | None) -> tuple[list[int], list[bool]]:
        """Ids of a finished conversation, cut to `max_length`, and which of them are learnt."""
        assert self.template.masks is not None
        if self.template.masks.by == "message":
            ids, learnt = self._message_by_message(turns)
            return ids[:max_length], learnt[:max_length]
        text = self._text(self._rendered(self._accepted(turns)))
        ids = self._ids(text)[:max_length]
        spans, accounted = self._answers(text)
        real = sum(i != self.tokenizer.pad_id for i in ids)
        if accounted != real and (max_length is None or accounted < max_length):
            spans = []
        never = self.tokenizer.id_of(self.template.masks.never) if self.template.masks.never else None
        return ids, [i != never and any(start <= at < stop for start, stop in spans) for at, i in enumerate(ids)]

    def _message_by_message(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        learnt: list[bool] = []
        # Only a slow tokenizer could be kept from adding its bos; the family's fast ones with a bos are byte-level.
        every_message = self.tokenizer.adds_bos and self.tokenizer.id_of("Ċ") is not None
        rendered = self.template.render(turns, system_message=self.system_message)
        for place, message in enumerate(rendered):
            bos = every_message or (place == 0 and self.tokenizer.adds_bos)
            own = self.tokenizer.encode(self._text([message]), specials="all", bos=bos)
            head = len(self.tokenizer.encode(message.head, specials="all", bos=every_message))
            stop = len(own) - bool(message.tail)
            ids += own
            learnt += [message.role == "assistant" and head <= at < stop for at in range(len(own))]
        return ids, learnt

    def _accepted(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns of a training sample that is rendered as one string."""
        if turns and turns[0].role == "system":
            raise PromptError('this template trains without system messages with compat="original"; remove the message')
        turns = list(turns[1:] if turns and turns[0].role == "assistant" else turns)
        for place, turn in enumerate(turns):
            if turn.role != ("user", "assistant")[place % 2]:
                raise PromptError(
                    f'turn {place + 1} is out of order: with compat="original" user and assistant alternate'
                )
        assert self.template.masks is not None
        if self.template.masks.by == "answer":
            turns = [replace(turn, pieces=_stripped(turn.pieces)) for turn in turns]
        return turns

    def _answers(self, text: str) -> tuple[list[Span], int]:
        """Where the answers are by adding up the lengths of pieces, and how many tokens that accounts for."""
        assert self.template.masks is not None
        match self.template.masks.by:
            case "exchange":
                return self._by_exchange(text, self.template.masks.added)
            case "answer":
                return self._by_answer(text, self.template.masks.added)
            case _:
                return [], 0

    def _by_exchange(self, text: str, added: int) -> tuple[list[Span], int]:
        end, assistant = self.template.assistant.end, self.template.assistant.head
        messages = text.split(end)
        exchanges = [end.join(messages[:3])]  # the first one with the system message
        exchanges += [end.join(messages[at : at + 2]) for at in range(3, len(messages), 2)]
        spans: list[Span] = []
        at = 0
        for place, exchange in enumerate(exchanges):
            question, *answer = exchange.split(end + assistant)
            if len(answer) != 1:
                break
            known = added if place else 0
            start = at + len(self._ids(question + end + assistant)) - known
            at += len(self._ids(exchange)) - known + 1
            spans.append((start, at))
        return spans, at

    def _by_answer(self, text: str, added: int) -> tuple[list[Span], int]:
        user, assistant = self.template.user.head, self.template.assistant.head
        opening, *rest = text.split(assistant)
        at = len(self._ids(opening + assistant))
        spans: list[Span] = []
        for place, piece in enumerate(rest):
            answer, *question = piece.split(user) if place < len(rest) - 1 else [piece]
            start, at = at, at + len(self._ids(answer)) - added
            spans.append((start, at))
            if question:
                at += len(self._ids(user + question[0] + assistant)) - added
        return spans, at

    def _rendered(self, turns: Sequence[Turn], *, generate: bool = False) -> list[Rendered]:
        return self.template.render(turns, system_message=self.system_message, generate=generate, compat="original")

    def _text(self, rendered: Sequence[Rendered]) -> str:
        return "".join(self.template.spell(message.pieces, slots=self.slots) for message in rendered)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, specials="all", bos=self.tokenizer.adds_bos)


def _stripped(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Without white space at both ends; the places of pictures are no white space."""
    left = list(pieces)
    for end, strip in ((0, str.lstrip), (-1, str.rstrip)):
        while left and isinstance(left[end], str) and not strip(str(left[end])):
            left.pop(end)
        if left and isinstance(left[end], str):
            left[end] = strip(str(left[end]))
    return tuple(left)
