"""The one client of OpenAI-style servers: for evaluation, judges and chat.

messages --contents--> what /v1/chat/completions takes --Remote.ask, Remote.stream--> Said
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from internvl.data.fetch import without_secrets
from internvl.errors import EndpointError, MissingExtra, UsageError
from internvl.inference.pieces import Stream
from internvl.inference.said import Growing, NoAnswer, Said, read

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")
R = TypeVar("R")

NO_KEY = "none"
REACH = 15.0
"""Seconds to reach a server, or to hear which models it has."""
PATIENCE = 900.0
"""Seconds for one answer, repetitions and pauses included."""
PASSING = (408, 409, 429)
"""HTTP statuses after which the same request may succeed, as after any from 500."""

TAKEN: Mapping[str | None, frozenset[str]] = {
    "internvl": frozenset({"top_k", "repetition_penalty", "max_tiles"}),
    "vllm": frozenset({"top_k", "repetition_penalty"}),
}
"""Fields that are not OpenAI's, by whose the models of a server are, as far as it is known that they are honoured."""


class Listed(NamedTuple):
    """What a server says of a model."""

    owner: str | None
    """Whose it is: `internvl` and `vllm` call them their own."""
    context: int | None
    """Tokens that it reads, where the server says so."""


def _listed(model: Any) -> tuple[str, Listed]:
    """An entry of the list; `TypeError` if it is none."""
    owner, context = getattr(model, "owned_by", None), getattr(model, "max_model_len", None)
    if not isinstance(model.id, str):
        raise TypeError(f"the name of a model is {model.id!r}")
    return model.id, Listed(owner if isinstance(owner, str) else None, context if isinstance(context, int) else None)


class Remote:
    """An OpenAI-style server and one of its models. Whatever goes wrong is an `EndpointError` of one line.

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

    @cached_property
    def served(self) -> dict[str, Listed]:
        """The models that the server lists."""
        import openai

        try:
            found = [_listed(one) for one in self._client.with_options(timeout=REACH, max_retries=2).models.list()]
        except openai.OpenAIError as error:
            said = self._said(error)
            hint = (
                self._key_hint(error) or _path_hint(self._shown, error) or "; is the server running, at this address?"
            )
            raise _refusal(f"{self._shown}: {said}{hint}", error) from None
        except (AttributeError, TypeError, ValueError):  # the client takes an answer for what it should be
            raise EndpointError(
                f"{self._shown}: no list of models came; is this an OpenAI-style address (…/v1)?"
            ) from None
        return dict(sorted(found))

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        seed: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Said:
        """One answer. None leaves a field out; extra: fields that are not OpenAI's."""
        body = self._body(messages, temperature=temperature, top_p=top_p, seed=seed)
        try:
            return read(self._complete(body, max_tokens, dict(extra or {})))
        except NoAnswer as error:
            raise EndpointError(f"{self._shown}: {error}; is this an OpenAI-style address (…/v1)?") from None

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        seed: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Stream[Said]:
        """`ask`, piece by piece. The server is asked when the first piece is; `close()` lets it stop.

        >>> stream = judge.stream([{"role": "user", "content": "Count to 3."}])  # doctest: +SKIP
        >>> "".join(stream), stream.answer.tokens                               # doctest: +SKIP
        ('1, 2, 3', 7)
        """
        body = self._body(messages, temperature=temperature, top_p=top_p, seed=seed)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Stream(self._pieces(body, max_tokens, dict(extra or {})))

    def ask_all(self, requests: Iterable[T], ask: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """`ask` of each request, `at_once` of them on their way together, in the order in which answers come.

        requests are drawn one by one as answers come, in the caller's own thread. After an error no more are drawn; it
        is raised once the answers of those on their way have been given.
        """
        return concurrently(ask, requests, self.at_once)

    def _body(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
        given = {name: value for name, value in fields.items() if value is not None}
        return {**given, "model": self.model, "messages": list(messages)}

    def _pieces(
        self, body: Mapping[str, Any], max_tokens: int | None, extra: Mapping[str, Any]
    ) -> Generator[str, None, Said]:
        import openai

        growing = Growing()
        try:
            chunks = self._complete(body, max_tokens, extra)
            try:
                for chunk in chunks:
                    if piece := growing.hear(chunk):
                        yield piece
            finally:
                chunks.close()
        except openai.OpenAIError as error:
            raise EndpointError(f"{self._shown}: the answer broke off: {self._said(error)}") from None
        except (NoAnswer, AttributeError, TypeError, ValueError):
            raise EndpointError(f"{self._shown}: what came is no stream of an answer; is this an OpenAI-style address "
                                "(…/v1)?") from None  # fmt: skip
        return growing.said(self._shown)

    def _complete(self, body: Mapping[str, Any], max_tokens: int | None, extra: Mapping[str, Any]) -> Any:
        import openai

        limit = self._limit  # other threads may change it meanwhile
        fields: dict[str, Any] = {**body, "extra_body": dict(extra) or None}
        if max_tokens is not None:
            fields[limit] = max_tokens
        try:
            return self._patiently(fields)
        except openai.BadRequestError as error:
            if "stream_options" in body and "stream_options" in str(error):  # older servers do not count what streams
                return self._complete({k: v for k, v in body.items() if k != "stream_options"}, max_tokens, extra)
            if "max_completion_tokens" not in str(error) or limit != "max_tokens" or max_tokens is None:
                raise _refusal(f"{self._shown} refuses the question: {self._said(error)}", error) from None
            self._limit = "max_completion_tokens"  # what newer models of OpenAI call it
            return self._complete(body, max_tokens, extra)
        except openai.OpenAIError as error:
            hint = self._key_hint(error) or self._model_hint(error)
            raise _refusal(f"{self._shown}: {self._said(error)}{hint}", error) from None
        except ValueError:
            raise NoAnswer("the answer is not JSON") from None

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

    def _key_hint(self, error: Exception) -> str:
        if getattr(error, "status_code", None) not in (401, 403):
            return ""
        return "; no key was sent, set OPENAI_API_KEY" if self._key == NO_KEY else "; is the key the right one?"

    def _model_hint(self, error: Exception) -> str:
        """Which models there are, where the one that was asked for is not found."""
        if getattr(error, "status_code", None) != 404:
            return ""
        try:
            names = self.served
            known = self.model in names or any(name in str(error) for name in names)
            return "" if known else f"; it has: {_names(names)}"
        except EndpointError:
            return "; is the address right (mostly …/v1)?"

    def _only_model(self) -> str:
        # Where only some have a context, the others are not asked questions: they make vectors.
        names = [name for name, one in self.served.items() if one.context is not None] or list(self.served)
        if not names:
            raise UsageError(f"{self._shown} has no models")
        if len(names) != 1:
            raise UsageError(f"{self._shown} has {len(names)} models; name one of: {_names(names)}")
        return names[0]


def _names(models: Iterable[str]) -> str:
    names = list(models)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _path_hint(url: str, error: Exception) -> str:
    """What to do where somebody answers who knows no such path."""
    is_path = getattr(error, "status_code", None) == 404 and "/v1" not in urlsplit(url).path
    return "; is the address right (mostly …/v1)?" if is_path else ""


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
