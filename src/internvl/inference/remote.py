"""The one client of OpenAI-style servers: for evaluation, judges and chat.

    messages --contents--> what /v1/chat/completions takes --Remote.ask--> Said

How a conversation goes over the wire: a text is a text part, a picture a `data:` address. Where all pictures of a
message stand before its first text, whoever serves the model introduces them in the family's way (`<image>` and a line
break for one, `Image-1: <image>` and so on for several). Everywhere else a picture stands where its part stands.
"""

from __future__ import annotations

import base64
import io
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from internvl.data.fetch import without_secrets
from internvl.data.image import to_rgb
from internvl.data.prompts import ImageSlot, Message, Piece, Structure, bind
from internvl.errors import EndpointError, MissingExtra, UsageError

if TYPE_CHECKING:
    from openai import OpenAI
    from PIL.Image import Image as Photo

T = TypeVar("T")
R = TypeVar("R")

NO_KEY = "none"
REACH = 15.0
"""Seconds to reach a server, or to hear which models it has."""
PATIENCE = 900.0
"""Seconds for one answer, repetitions and pauses included."""
PASSING = (408, 409, 429)
"""HTTP statuses after which the same request may succeed, as after any from 500."""

KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Pictures that every server reads, by Pillow's names."""


# ---- a conversation on the wire --------------------------------------------------------------------------------------


def contents(messages: Sequence[Message], files: Sequence[bytes | None] = ()) -> list[dict[str, Any]]:
    """A conversation as an OpenAI-style server takes it.

    files: for each picture in the order of its slots the file that it was read from; it is sent as it is where any
    reader sees the same picture in it, as PNG otherwise.

    >>> contents([Message("user", ("Hello",))])
    [{'role': 'user', 'content': 'Hello'}]
    """
    turns, pictures = bind(messages)
    sources = [*files, *[None] * (len(pictures) - len(files))]
    addresses = [address_of(picture.photo, file) for picture, file in zip(pictures, sources, strict=True)]
    sent: list[dict[str, Any]] = []
    for place, turn in enumerate(turns):
        own = [index for index, picture in enumerate(pictures) if picture.turn == place]
        content = _parts(turn.pieces, own, addresses) if own else "".join(map(_text, turn.pieces))
        sent.append({"role": turn.role, "content": content})
    return sent


def _parts(pieces: Sequence[Piece], own: Sequence[int], addresses: Sequence[str]) -> list[dict[str, Any]]:
    """The parts of a message with pictures: in the short form if the family's opening is what it says."""
    spelt = "".join(f"\0{piece.index}\0" if isinstance(piece, ImageSlot) else _text(piece) for piece in pieces)
    opening = _opening(own)
    picture = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    if spelt.startswith(opening):
        rest = spelt[len(opening) :]
        return [*(picture[index] for index in own), *([{"type": "text", "text": rest}] if rest else [])]
    parts: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, ImageSlot):
            parts.append(picture[piece.index])
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += _text(piece)
        else:
            parts.append({"type": "text", "text": _text(piece)})
    first = next((place for place, part in enumerate(parts) if part["type"] == "text"), len(parts))
    # An empty text says that the pictures after it stand where they stand.
    return [{"type": "text", "text": ""}, *parts] if first >= len(own) else parts


def _opening(own: Sequence[int]) -> str:
    """How the family introduces these pictures, a picture being written as its number between zero bytes."""
    if len(own) == 1:
        return f"\0{own[0]}\0\n"
    return "".join(f"Image-{number}: \0{index}\0\n" for number, index in enumerate(own, start=1))


def _text(piece: Piece) -> str:
    assert not isinstance(piece, ImageSlot)
    return piece.text if isinstance(piece, Structure) else piece


def address_of(photo: Photo, file: bytes | None = None) -> str:
    """A picture as a `data:` address."""
    if file is None or photo.format not in KINDS or not _is_plain(photo):
        stream = io.BytesIO()
        to_rgb(photo).save(stream, "PNG")
        return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return f"data:{KINDS[photo.format]};base64,{base64.b64encode(file).decode()}"


def _is_plain(photo: Photo) -> bool:
    """Whether a reader that knows nothing of orientation, opacity and animation sees the picture that we see."""
    plain = photo.mode in ("RGB", "L") and "transparency" not in photo.info and getattr(photo, "n_frames", 1) == 1
    return plain and (photo.mode == "L" or to_rgb(photo) is photo)


# ---- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a server answered."""

    text: str
    finish: str | None
    tokens: int | None
    """Of the answer, where the server counts them."""


class Remote:
    """An OpenAI-style server and one of its models.

    >>> judge = Remote("http://localhost:8000/v1", model="judge")                                  # doctest: +SKIP
    >>> judge.ask([{"role": "user", "content": "Is 2 + 2 = 4?"}], max_tokens=5).text                # doctest: +SKIP
    'Yes.'
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        patience: float = PATIENCE,
        retries: int = 6,
        at_once: int = 8,
    ) -> None:
        """url ends in /v1 with most servers. model None: the only one that the server has. key None:
        $OPENAI_API_KEY, or none. patience: seconds that one answer may take in all. retries: after a busy or failing
        server, each after a longer pause. at_once: requests that are on their way together.
        """
        if not _is_address(url):
            raise UsageError(f"endpoint {url!r}: expected an address such as http://localhost:8000/v1")
        if at_once < 1 or retries < 0 or not 0 < patience < math.inf:
            raise UsageError(
                f"at_once {at_once}, retries {retries}, patience {patience}: expected at least 1, at least 0, seconds"
            )
        self.at_once = at_once
        self._shown = without_secrets(url)
        # A server of one's own mostly wants no key, but the client insists on something.
        self._key = key or os.environ.get("OPENAI_API_KEY") or NO_KEY
        if not (self._key.isascii() and self._key.isprintable() and self._key == self._key.strip()):
            raise UsageError(f"the key of {self._shown} has letters that no key has (line break, space, accent)")
        self._patience, self._retries = patience, retries
        self._client = _client(url, self._key)
        self._limit = "max_tokens"
        self.model = model if model is not None else self._only_model()

    def describe(self) -> dict[str, Any]:
        """What is written down of it."""
        return {"endpoint": self._shown, "model": self.model}

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        seed: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Said:
        """One answer. None leaves a field out; extra: fields that are not OpenAI's."""
        fields = {"temperature": temperature, "top_p": top_p, "seed": seed}
        body: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        body |= {"model": self.model, "messages": list(messages)}
        try:
            return _read(self._complete(body, max_tokens, dict(extra or {})))
        except _NoAnswer as error:
            raise EndpointError(f"{self._shown}: {error}; is this an OpenAI-style address (…/v1)?") from None

    def ask_all(self, requests: Iterable[T], ask: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """`ask` of each request, `at_once` of them on their way together, in the order in which answers come.

        requests are drawn one by one as answers come, in the caller's own thread. After an error no more are drawn; it
        is raised once the answers of those on their way have been given.
        """
        return concurrently(ask, requests, self.at_once)

    def _complete(self, body: Mapping[str, Any], max_tokens: int, extra: Mapping[str, Any]) -> Any:
        import openai

        limit = self._limit  # other threads may change it meanwhile
        fields: dict[str, Any] = {**body, limit: max_tokens, "extra_body": extra or None}
        try:
            return self._patiently(fields)
        except openai.BadRequestError as error:
            if "max_completion_tokens" not in str(error) or limit != "max_tokens":
                raise _refusal(f"{self._shown} refuses the question: {self._said(error)}", error) from None
            self._limit = "max_completion_tokens"  # what newer models of OpenAI call it
            return self._complete(body, max_tokens, extra)
        except openai.OpenAIError as error:
            raise _refusal(f"{self._shown}: {self._said(error)}", error) from None
        except ValueError:
            raise _NoAnswer("the answer is not JSON") from None

    def _patiently(self, fields: Mapping[str, Any]) -> Any:
        """One request, sent again while the server is silent, busy or failing, until patience or retries end."""
        import openai

        end = time.monotonic() + self._patience
        for attempt in range(self._retries + 1):
            left = end - time.monotonic()
            # A long answer takes its time, a lost one must be asked for again; that nobody is there is known soon.
            waiting = openai.Timeout(min(left, self._patience * 2 / 3), connect=min(left, REACH))
            try:
                return self._client.chat.completions.create(**fields, timeout=waiting)
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                status, pause = getattr(error, "status_code", None), _pause(error, attempt)
                if status is not None and status < 500 and status not in PASSING:
                    raise
                if time.monotonic() + pause >= end:
                    raise EndpointError(
                        f"{self._shown}: no answer in {self._patience:g} s (asked {_times(attempt + 1)}, "
                        f"{self._said(error).rstrip('.')}); see what the server does, or wait longer "
                        "(internvl eval: --patience SECONDS)"
                    ) from None
                if attempt == self._retries:
                    raise
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _said(self, error: Exception) -> str:
        """What an error of the client says, on one line; some servers repeat the key that they were given."""
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, Mapping) else None
        status = getattr(error, "status_code", None)
        text = " ".join(str(message or error).split())
        text = text if self._key == NO_KEY else text.replace(self._key, "***")
        cause = f" ({error.__cause__})" if error.__cause__ is not None and not message else ""
        return f"{text[:300]}{cause}" if status is None else f"HTTP {status}, {text[:300]}"

    def _only_model(self) -> str:
        import openai

        try:
            found = [model.id for model in self._client.with_options(timeout=REACH, max_retries=2).models.list()]
        except openai.OpenAIError as error:
            said = self._said(error)
            raise EndpointError(f"{self._shown}: {said}; is the server running, at this address?") from None
        except (AttributeError, TypeError, ValueError):  # the client takes an answer for what it should be
            found: list[Any] = [None]
        names = sorted(name for name in found if isinstance(name, str))
        if len(names) < len(found):
            raise EndpointError(f"{self._shown}: no list of models came; is this an OpenAI-style address (…/v1)?")
        if not names:
            raise UsageError(f"{self._shown} has no models")
        if len(names) != 1:
            raise UsageError(f"{self._shown} has {len(names)} models; name one of: {', '.join(names[:10])}")
        return names[0]


def _refusal(text: str, error: Exception) -> EndpointError:
    found = EndpointError(text)
    found.status = getattr(error, "status_code", None)
    return found


def _pause(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt: what the server wishes, or twice as long as before, up to 8."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        wished = float(headers.get("retry-after", ""))
    except ValueError:  # none, or a date
        wished = 0.0
    # Not all at the same moment again.
    return wished if 0 < wished <= 60 else min(8.0, 0.5 * 2**attempt) * random.uniform(0.75, 1.0)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class _NoAnswer(Exception):
    """What came is no answer of a chat."""


def _read(done: Any) -> Said:
    """What the client made of the answer, which it does not check."""
    choices = getattr(done, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise _NoAnswer("the answer holds no choices")
    text = getattr(getattr(choices[0], "message", None), "content", 0)  # pyright: ignore[reportUnknownArgumentType]
    finish = getattr(choices[0], "finish_reason", None)  # pyright: ignore[reportUnknownArgumentType]
    tokens = getattr(getattr(done, "usage", None), "completion_tokens", None)
    if not isinstance(text, str | None):
        raise _NoAnswer("the answer holds no text")
    return Said(
        text=text or "",
        finish=finish if isinstance(finish, str) else None,
        tokens=tokens if isinstance(tokens, int) else None,
    )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not match
        return False


def _client(url: str, key: str) -> OpenAI:
    try:
        from openai import OpenAI
    except ImportError:
        raise MissingExtra("an endpoint needs the package openai (pip install 'internvl[eval]')") from None
    return OpenAI(base_url=url, api_key=key, max_retries=0)  # `Remote._patiently` repeats, within bounds


def concurrently(work: Callable[[T], R], requests: Iterable[T], at_once: int) -> Iterator[tuple[T, R]]:
    """See `Remote.ask_all`. The threads are daemons: an interrupted program does not wait for a slow server."""
    inbox: SimpleQueue[tuple[T] | None] = SimpleQueue()
    outbox: SimpleQueue[tuple[T, R | None, BaseException | None]] = SimpleQueue()

    def serve() -> None:
        while (item := inbox.get()) is not None:
            [request] = item
            try:
                outbox.put((request, work(request), None))
            except BaseException as error:
                outbox.put((request, None, error))

    threads = 0
    failed: BaseException | None = None
    source, under_way = iter(requests), 0
    try:
        while True:
            while under_way < at_once and failed is None:
                try:
                    inbox.put((next(source),))
                except StopIteration:
                    break
                except Exception as error:  # what is under way is still given
                    failed = error
                    break
                under_way += 1
                if threads < under_way:
                    Thread(target=serve, daemon=True).start()
                    threads += 1
            if not under_way:
                break
            request, answer, error = outbox.get()
            under_way -= 1
            if error is None:
                yield request, answer  # pyright: ignore[reportReturnType]
            failed = failed or error
    finally:
        for _ in range(threads):
            inbox.put(None)
    if failed is not None:
        raise failed
