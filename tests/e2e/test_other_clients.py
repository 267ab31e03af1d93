"""Clients that others wrote work unchanged: LangChain's and LiteLLM's, against a server that runs.

Neither is a dependency: `pip install langchain-openai litellm` into the environment that runs this. What each of them
sends and reads is what is tested; what the model says to it is compared with what it says to a plain request.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import math
import os
import warnings
from pathlib import Path
from typing import Literal

import pytest

import internvl
from tests.e2e.served import asked, running

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one when it is imported
langchain_openai = pytest.importorskip("langchain_openai", reason="needs: pip install langchain-openai litellm")
litellm = pytest.importorskip("litellm", reason="needs: pip install langchain-openai litellm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # they warn of one another
]

KEY = "sk-clients-0123456789abcdef"
FLAG = Path(internvl.__file__).parent / "nano" / "examples" / "flag.png"
PICTURE = "data:image/png;base64," + base64.b64encode(FLAG.read_bytes()).decode()
QUESTION = "Which country's flag is this?"
SHOWN = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}},
                                      {"type": "text", "text": QUESTION}]}]  # fmt: skip
COUNTRY = {"title": "Country", "type": "object", "properties": {"name": {"enum": ["France", "Chile"]}},
           "description": "A country.", "required": ["name"], "additionalProperties": False}  # fmt: skip


@pytest.fixture(scope="module")
def served():
    with running("--slots", "4", "--no-ui", key=KEY) as one:
        yield one
    with warnings.catch_warnings():  # what these clients leave open is let go of here, without a word
        warnings.simplefilter("ignore")
        litellm.in_memory_llm_clients_cache.flush_cache()
        gc.collect()


@pytest.fixture(scope="module")
def plain(served):
    """What a plain request is answered."""

    def ask(body, route="chat/completions"):
        status, said = served.send("POST", f"/v1/{route}", body)
        assert status == 200, said
        return json.loads(said)

    return ask


@pytest.fixture(scope="module")
def answer(plain):
    """What the model says to the picture."""
    said = plain(asked(QUESTION, PICTURE, max_tokens=24))["choices"][0]["message"]["content"]
    assert said
    return said


# ---- LangChain -------------------------------------------------------------------------------------------------------


def chat(served, **more):
    return langchain_openai.ChatOpenAI(
        model="nano", base_url=served.url, api_key=KEY, max_retries=0, **{"max_tokens": 24, **more}
    )


def test_langchain_asks_and_streams(served, plain):
    said = plain(asked("Say something.", max_tokens=24, temperature=0))["choices"][0]["message"]["content"]
    model = chat(served, temperature=0)
    whole = model.invoke("Say something.")
    assert whole.content == said
    assert whole.usage_metadata["output_tokens"] > 0
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    pieces = list(model.stream("Say something."))
    assert len(pieces) > 2
    assert "".join(piece.content for piece in pieces) == said


def test_langchain_streams_usage(served):
    total = None
    for piece in chat(served, stream_usage=True).stream("Say something."):
        total = piece if total is None else total + piece
    assert total.usage_metadata["input_tokens"] > 0
    assert total.usage_metadata["output_tokens"] > 0


def test_langchain_asks_several_at_once_without_blocking(served, answer):
    model = chat(served)
    found = asyncio.run(model.abatch([langchain_messages()] * 3))
    assert [one.content for one in found] == [answer] * 3


def langchain_messages(kind="image_url"):
    from langchain_core.messages import HumanMessage

    picture = {
        "image_url": {"type": "image_url", "image_url": {"url": PICTURE}},
        "image": {"type": "image", "base64": PICTURE.partition(",")[2], "mime_type": "image/png"},
    }[kind]
    return [HumanMessage(content=[picture, {"type": "text", "text": QUESTION}])]


@pytest.mark.parametrize("kind", ["image_url", "image"])
def test_langchain_shows_pictures_in_both_of_its_ways(served, answer, kind):
    assert chat(served).invoke(langchain_messages(kind)).content == answer


def test_langchain_speaks_in_turns_with_a_system_message(served):
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    turns = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hello."), HumanMessage("And now?")]
    assert chat(served).invoke(turns).content


def langchain_tool():
    from langchain_core.tools import tool

    @tool
    def country_of(colour: Literal["red", "blue"]) -> str:
        """The country whose flag has a colour."""
        return colour

    return country_of


def test_langchain_binds_tools_and_reads_the_call(served):
    from langchain_core.messages import ToolMessage

    country_of = langchain_tool()
    for choice in ("required", "country_of"):
        called = (
            chat(served, max_tokens=400)
            .bind_tools([country_of], tool_choice=choice, strict=True)
            .invoke("Which country has this flag?")
        )
        [call] = called.tool_calls
        assert call["name"] == "country_of"
        assert call["args"]["colour"] in ("red", "blue")
    assert chat(served).bind_tools([country_of]).invoke("Hello") is not None  # it may call, or not
    turns = ["Which country has this flag?", called, ToolMessage("France", tool_call_id=call["id"])]
    assert chat(served).bind_tools([country_of]).invoke(langchain_turns(turns)) is not None


def langchain_turns(turns):
    from langchain_core.messages import HumanMessage

    return [HumanMessage(one) if isinstance(one, str) else one for one in turns]


def test_langchain_streams_a_call_in_pieces_that_fit_together(served):
    country_of = langchain_tool()
    total = None
    for piece in (
        chat(served, max_tokens=400)
        .bind_tools([country_of], tool_choice="required", strict=True)
        .stream("Which country?")
    ):
        total = piece if total is None else total + piece
    [call] = total.tool_calls
    assert call["name"] == "country_of"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_structured_answers(served, method):
    model = chat(served, temperature=0, max_tokens=400).with_structured_output(COUNTRY, method=method)
    assert model.invoke("Which country has the tricolour?")["name"] in ("France", "Chile")


def test_langchain_gets_any_json(served):
    """What this small model never ends the client refuses by itself; what came by then is the beginning of JSON."""
    import openai

    model = chat(served, temperature=0, max_tokens=60).with_structured_output(None, method="json_mode")
    try:
        said = json.dumps(model.invoke("Answer in JSON."))
    except openai.LengthFinishReasonError as error:
        said = error.completion.choices[0].message.content
    assert said.startswith("{")


def test_langchain_gets_structured_answers_as_pydantic(served):
    from pydantic import BaseModel

    class Country(BaseModel):
        """A country."""

        name: Literal["France", "Chile"]

    found = chat(served, temperature=0, max_tokens=400).with_structured_output(Country).invoke(langchain_messages())
    assert isinstance(found, Country)


def test_langchain_reads_logprobs(served):
    said = chat(served).bind(logprobs=True, top_logprobs=2).invoke("Hello")
    tokens = said.response_metadata["logprobs"]["content"]
    assert tokens
    assert all(one["logprob"] <= 0 and len(one["top_logprobs"]) == 2 for one in tokens)


def test_langchain_uses_the_responses_route(served):
    said = chat(served, use_responses_api=True).invoke("Hello")
    assert said.text if isinstance(said.text, str) else said.text()
    pieces = list(chat(served, use_responses_api=True).stream("Hello"))
    assert len(pieces) > 2


def test_langchain_is_told_of_mistakes(served):
    import openai

    with pytest.raises(openai.AuthenticationError):
        langchain_openai.ChatOpenAI(model="nano", base_url=served.url, api_key="sk-wrong", max_retries=0).invoke("Hi")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        langchain_openai.ChatOpenAI(model="other", base_url=served.url, api_key=KEY, max_retries=0).invoke("Hi")
    with pytest.raises(openai.BadRequestError, match="frequency_penalty"):
        chat(served, frequency_penalty=1.0).invoke("Hi")


def embedder(served):
    return langchain_openai.OpenAIEmbeddings(
        model="nano-c", base_url=served.url, api_key=KEY, check_embedding_ctx_length=False, max_retries=0
    )


def test_langchain_embeds(served, plain):
    found = embedder(served).embed_documents(["a cat", "a dog"])
    told = plain({"model": "nano-c", "input": ["a cat", "a dog"], "encoding_format": "float"}, "embeddings")
    for mine, one in zip(found, told["data"], strict=True):
        assert mine == pytest.approx(one["embedding"], abs=1e-6)
        assert math.hypot(*mine) == pytest.approx(1, abs=1e-4)
    assert embedder(served).embed_query("a cat") == pytest.approx(found[0], abs=1e-6)


# ---- LiteLLM ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lite(served):
    return {"model": "openai/nano", "api_base": served.url, "api_key": KEY, "max_tokens": 24, "num_retries": 0}


def test_litellm_asks_and_streams(lite, answer):
    whole = litellm.completion(messages=SHOWN, **lite)
    assert whole.choices[0].message.content == answer
    assert whole.usage.completion_tokens > 0
    pieces = list(litellm.completion(messages=SHOWN, stream=True, stream_options={"include_usage": True}, **lite))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == answer
    assert litellm.stream_chunk_builder(pieces).usage.completion_tokens == whole.usage.completion_tokens


def test_litellm_asks_without_blocking(lite, answer):
    async def both():
        return await asyncio.gather(*(litellm.acompletion(messages=SHOWN, **lite) for _ in range(2)))

    assert [one.choices[0].message.content for one in asyncio.run(both())] == [answer] * 2


def test_litellm_calls_tools_and_keeps_to_a_schema(lite):
    longer = lite | {"max_tokens": 400}
    tool = {"type": "function", "function": {"name": "country_of", "description": "The country of a flag.",
            "parameters": COUNTRY}}  # fmt: skip
    said = litellm.completion(messages=SHOWN, tools=[tool], tool_choice="required", **longer).choices[0]
    assert said.finish_reason == "tool_calls"
    assert set(json.loads(said.message.tool_calls[0].function.arguments)) == {"name"}
    schema = {"type": "json_schema", "json_schema": {"name": "country", "schema": COUNTRY, "strict": True}}
    said = litellm.completion(messages=SHOWN, response_format=schema, **longer).choices[0]
    assert set(json.loads(said.message.content)) == {"name"}


def test_litellm_passes_extensions_on(lite):
    few = litellm.completion(messages=SHOWN, extra_body={"max_tiles": 1}, **lite)
    many = litellm.completion(messages=SHOWN, extra_body={"max_tiles": 6}, **lite)
    assert few.usage.prompt_tokens <= many.usage.prompt_tokens
    chosen = litellm.completion(messages=SHOWN, extra_body={"guided_choice": ["yes", "no"]}, **lite)
    assert chosen.choices[0].message.content in ("yes", "no")


def test_litellm_embeds(lite, plain):
    found = litellm.embedding(model="openai/nano-c", input=["a cat", "a dog"], api_base=lite["api_base"], api_key=KEY)
    told = plain({"model": "nano-c", "input": ["a cat", "a dog"], "encoding_format": "float"}, "embeddings")
    assert [one["embedding"] for one in found.data] == [
        pytest.approx(one["embedding"], abs=1e-6) for one in told["data"]
    ]


def test_litellm_uses_the_responses_route(lite, plain):
    common = {key: value for key, value in lite.items() if key not in ("max_tokens", "num_retries")}
    found = litellm.responses(input="Hello", max_output_tokens=24, **common)
    told = plain({"model": "nano", "input": "Hello", "max_output_tokens": 24}, "responses")
    assert found.output[0].content[0].text == told["output"][0]["content"][0]["text"]
    events = [one.type for one in litellm.responses(input="Hello", max_output_tokens=24, stream=True, **common)]
    assert str(getattr(events[-1], "value", events[-1])) in ("response.completed", "response.incomplete")


def test_litellm_continues_texts(lite, plain):
    found = litellm.text_completion(prompt="The sky is", **{**lite, "model": "text-completion-openai/nano"})
    told = plain({"model": "nano", "prompt": "The sky is", "max_tokens": 24}, "completions")
    assert found.choices[0].text == told["choices"][0]["text"]


def test_litellm_is_told_of_mistakes(lite):
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(messages=SHOWN, **{**lite, "api_key": "sk-wrong"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=SHOWN, **{**lite, "model": "openai/other"})
    with pytest.raises(litellm.BadRequestError, match="presence_penalty"):
        litellm.completion(messages=SHOWN, presence_penalty=1.0, **lite)
