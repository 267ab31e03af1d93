"""Everything that is asked beside answers: models, vectors, tokens, and how the server is."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from internvl.serving import published, replies
from internvl.serving.metrics import CONTENT_TYPE
from internvl.serving.order import Reference
from internvl.serving.refusal import Refusal, check_model, in_words_of
from internvl.serving.running import Running, running_of
from internvl.serving.schema import EmbeddingRequest, TokenizeRequest
from internvl.serving.translate import translate

router = APIRouter()
TEXT = {"content": {CONTENT_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}, "description": "The counters."}


@router.head("/health", include_in_schema=False)  # as load balancers ask
@router.get("/health", **published.told(None, published.Health))
async def health() -> Response:
    """The process is alive. It needs no key."""
    return JSONResponse({"status": "ok"})


@router.head("/ready", include_in_schema=False)
@router.get("/ready", **published.told(None, published.Readiness))
async def ready(request: Request) -> Response:
    """A request would be answered now."""
    running = running_of(request)
    if (closed := running.closed) is not None:
        raise closed
    return JSONResponse({"status": "ready", "model": running.backend.facts.model})


@router.get("/metrics", responses={**published.told(None, published.Health)["responses"], 200: TEXT})
async def metrics(request: Request) -> Response:
    """Counters, as Prometheus reads them."""
    running = running_of(request)
    running.metrics.ready.set(running.is_ready)
    return Response(running.metrics.text(), media_type=CONTENT_TYPE)


# ---- models ----------------------------------------------------------------------------------------------------------


def served(running: Running) -> list[replies.Json]:
    facts = running.backend.facts
    listed = replies.models([facts.model], running.created, context=facts.context)["data"]
    if facts.embedder and facts.embedder != facts.model:
        listed += replies.models([facts.embedder], running.created)["data"]
    return listed


def loaded(request: Request) -> Running:
    """What is served is known once it is loaded."""
    running = running_of(request)
    if (closed := running.closed) is not None:
        raise closed
    return running


@router.get("/v1/models", **published.told(None, published.Models))
async def models(request: Request) -> Response:
    """What is served."""
    return JSONResponse({"object": "list", "data": served(loaded(request))})


@router.get("/v1/models/{model:path}", **published.told(None, published.Model, errors=(404,)))
async def model(request: Request, model: str) -> Response:
    """One of the models."""
    listed = {one["id"]: one for one in served(loaded(request))}
    return JSONResponse(listed[check_model(model, list(listed))])


# ---- vectors and tokens ----------------------------------------------------------------------------------------------


@router.post("/v1/embeddings", **published.told(EmbeddingRequest, published.Embeddings))
async def embeddings(request: Request) -> Response:
    """Vectors of texts and pictures."""
    running = running_of(request)
    asked = await running.read(request, EmbeddingRequest)
    facts = running.backend.facts
    if facts.embedder is None:
        raise Refusal(f"{facts.model} is served here, which makes no vectors, and nothing else; ask a server that "
                      "was started with --embedder", status=404, param="model", code="model_not_found")  # fmt: skip
    if asked.model == facts.model != facts.embedder:
        raise Refusal(f"{facts.model} makes no vectors; ask {facts.embedder} for them", status=404, param="model",
                      code="model_not_found")  # fmt: skip
    check_model(asked.model, [facts.embedder])
    return await _embedded(request, running, asked, facts.embedder)


async def _embedded(request: Request, running: Running, asked: EmbeddingRequest, model: str) -> Response:
    texts = [(place, one) for place, one in enumerate(asked.inputs) if isinstance(one, str)]
    images = [(place, one) for place, one in enumerate(asked.inputs) if not isinstance(one, str)]
    shown = [Reference("image", one.image_url.url, place=f"input[{place}].image_url.url") for place, one in images]
    listed = not isinstance(asked.input, str)
    names = {f"texts[{n}]": f"input[{place}]" if listed else "input" for n, (place, _) in enumerate(texts)}
    with in_words_of({"messages": "input", **names}):
        vectors, tokens = await running.flights.fly(
            request.receive, running.backend.embed([text for _, text in texts], shown)
        )
    places = [place for place, _ in (*texts, *images)]
    ordered = [vectors[places.index(place)].tolist() for place in range(len(places))]
    request.state.note.prompt = tokens
    return JSONResponse(replies.embeddings(model, ordered, tokens, as_base64=asked.encoding_format == "base64"))


@router.post("/tokenize", **published.told(TokenizeRequest, published.Tokenized))
async def tokenize(request: Request) -> Response:
    """The tokens that a text or a conversation is."""
    running = running_of(request)
    asked = await running.read(request, TokenizeRequest)
    facts = running.backend.facts
    check_model(asked.model, [facts.model])
    with in_words_of({"messages": "prompt"} if asked.prompt is not None else {}):
        counted = await running.flights.fly(request.receive, running.backend.count(translate(asked, running.preset)))
    tokens = replies.tokenized(counted.ids, facts.context, tiles=counted.tiles, sizes=counted.sizes)
    return JSONResponse(tokens)
