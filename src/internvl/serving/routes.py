"""Chat, completions and responses: each is read, ordered, answered, and told all at once or piece by piece."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from internvl.serving import published
from internvl.serving.answers import Answers
from internvl.serving.order import Order
from internvl.serving.refusal import Refusal, check_model, in_words_of
from internvl.serving.replies import (
    DONE,
    Choice,
    Chunks,
    Head,
    Json,
    TextChunks,
    completion,
    event,
    new_id,
    text_completion,
)
from internvl.serving.response_events import Growing, response
from internvl.serving.responses import ResponsesRequest
from internvl.serving.running import Running, Stream, running_of
from internvl.serving.schema import ChatRequest, CompletionRequest
from internvl.serving.translate import translate

router = APIRouter()
OF_COMPLETIONS = {"messages": "prompt"}
OF_RESPONSES = {"messages": "input", "max_tokens": "max_output_tokens"}
"""What the fields of a chat are called there."""


def failed(refusal: Refusal) -> Iterable[bytes]:
    """What a stream of chat or completions ends with when it breaks off."""
    yield event(refusal.body())


def ordered(running: Running, asked: ChatRequest | CompletionRequest | ResponsesRequest) -> Order:
    check_model(asked.model, [running.backend.facts.model])
    return translate(asked, running.preset)


def head_of(running: Running, asked: ChatRequest | CompletionRequest | ResponsesRequest, prefix: str) -> Head:
    tier = "default" if asked.service_tier == "auto" else asked.service_tier
    return Head(new_id(prefix), running.backend.facts.model, int(time.time()), tier)


# ---- chat ------------------------------------------------------------------------------------------------------------


@router.post("/v1/chat/completions", **published.told(ChatRequest, published.ChatCompletion, stream="chat"))
async def chat(request: Request) -> Response:
    """Answer a conversation."""
    running = running_of(request)
    asked = await running.read(request, ChatRequest)
    order = ordered(running, asked)
    answers, head = running.answers(request, order), head_of(running, asked, "chatcmpl-")
    if order.stream:
        return Stream(running, chat_events(answers, Chunks(head, order.include_usage)), failed)
    choices = await running.flights.fly(request.receive, answers.whole())
    return JSONResponse(completion(head, choices, answers.usage))


async def chat_events(answers: Answers, chunks: Chunks) -> AsyncGenerator[bytes]:
    begun: set[int] = set()
    calls: dict[int, int] = {}
    async with aclosing(answers.said()) as all_said:
        async for said in all_said:
            tokens = said.tokens or None
            if said.index not in begun:
                begun.add(said.index)
                yield event(chunks.begin(said.index))
            if said.words:
                yield event(chunks.words(said.index, said.words, tokens))
                tokens = None
            if said.calls:
                first = calls.get(said.index, 0)
                calls[said.index] = first + len(said.calls)
                yield event(chunks.calls(said.index, said.calls, first=first))
            if said.finish:
                yield event(chunks.end(said.index, said.finish, tokens))
    if chunks.with_usage:
        yield event(chunks.usage(answers.usage))
    yield DONE


# ---- completions -----------------------------------------------------------------------------------------------------


@router.post("/v1/completions", **published.told(CompletionRequest, published.TextCompletion, stream="completions"))
async def completions(request: Request) -> Response:
    """Continue a text, or several."""
    running = running_of(request)
    asked = await running.read(request, CompletionRequest)
    with in_words_of(OF_COMPLETIONS):
        order = ordered(running, asked)
        answers, head = running.answers(request, order), head_of(running, asked, "cmpl-")
        if order.stream:
            return Stream(running, text_events(answers, TextChunks(head, order.include_usage), order), failed)
        choices = await running.flights.fly(request.receive, answers.whole())
    return JSONResponse(text_completion(head, choices, answers.usage))


async def text_events(answers: Answers, chunks: TextChunks, order: Order) -> AsyncGenerator[bytes]:
    with in_words_of(OF_COMPLETIONS):
        async with aclosing(answers.said()) as all_said:
            async for said in all_said:
                piece = Choice(said.index, said.words, "length" if said.finish == "length" else "stop", (),
                               said.tokens if order.logprobs else None)  # fmt: skip
                yield event(chunks.piece(piece, done=said.finish is not None))
    if order.include_usage:
        yield event(text_completion(chunks.head, [], answers.usage))
    yield DONE


# ---- responses -------------------------------------------------------------------------------------------------------


@router.post("/v1/responses", **published.told(ResponsesRequest, published.ResponseObject, stream="responses"))
async def responses(request: Request) -> Response:
    """Answer a conversation, in the form of OpenAI's newer API."""
    running = running_of(request)
    asked = await running.read(request, ResponsesRequest)  # speaks of the fields as they were sent
    with in_words_of(OF_RESPONSES):
        order = ordered(running, asked)
        answers, head = running.answers(request, order), head_of(running, asked, "resp_")
        growing = Growing(head, asked, running.settings.temperature)
        if order.stream:
            return Stream(running, response_events(answers, growing), lambda refusal: named(growing.fail(refusal)))
        [choice] = await running.flights.fly(request.receive, answers.whole())
    body = response(growing, choice.text, choice.finish, answers.usage, calls=choice.calls,
                    logprobs=choice.logprobs or ())  # fmt: skip
    return JSONResponse(body)


async def response_events(answers: Answers, growing: Growing) -> AsyncGenerator[bytes]:
    begun = False
    with in_words_of(OF_RESPONSES):
        async with aclosing(answers.said()) as all_said:
            async for said in all_said:
                for one in () if begun else named(growing.begin()):
                    yield one
                begun = True
                for one in named(growing.words(said.words, said.tokens)) if said.words or said.tokens else ():
                    yield one
                for call in said.calls:
                    for one in named(growing.call(call)):
                        yield one
    [choice] = answers.choices()
    for one in named(growing.end(choice.finish, answers.usage)):
        yield one


def named(events: Iterable[Json]) -> Iterable[bytes]:
    return (event(one, one["type"]) for one in events)
