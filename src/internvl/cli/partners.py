"""Whom `internvl chat` talks to: a model on this machine, or one behind a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from internvl.errors import UsageError

if TYPE_CHECKING:
    from internvl.cli.conversation import Partner

TOKENS = 1024
"""Of an answer at most, where a model on this machine is not told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for, by the names of the options; None: nothing was said."""

    model: str | None
    endpoint: str | None
    extensions: bool
    max_tiles: int | None
    system: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    beams: int | None
    seed: int | None
    max_new_tokens: int | None
    device: str | None
    dtype: str | None
    revision: str | None


def partner(wanted: Wanted) -> Partner:
    """Loads the model, or sees that there is a server."""
    if wanted.endpoint is not None:
        return _there(wanted, wanted.endpoint)
    if wanted.extensions:
        raise UsageError("--extensions is about a server; give its address: --endpoint URL")
    return _here(wanted)


def _here(wanted: Wanted) -> Partner:
    from internvl.cli.conversation import Partner
    from internvl.cli.terminal import waiting
    from internvl.inference.sampling import SamplingConfig
    from internvl.weights.load import resolve

    sampling = SamplingConfig(
        max_new_tokens=TOKENS if wanted.max_new_tokens is None else wanted.max_new_tokens,
        temperature=wanted.temperature or 0.0,
        top_p=wanted.top_p,
        top_k=wanted.top_k,
        repetition_penalty=1.0 if wanted.repetition_penalty is None else wanted.repetition_penalty,
        beams=1 if wanted.beams is None else wanted.beams,
        seed=wanted.seed,
    )
    name = wanted.model or "nano"
    path = resolve(wanted.model, revision=wanted.revision)  # a download shows its own progress
    with waiting(f"loading {name}"):
        from internvl import Chat

        chat = Chat.load(
            path,
            device=wanted.device,
            dtype=wanted.dtype,
            max_tiles=wanted.max_tiles,
            system=wanted.system,
            sampling=sampling,
        )
    return Partner(chat, name, at_once=sampling.beams > 1)


def _there(wanted: Wanted, endpoint: str) -> Partner:
    for name in ("device", "dtype", "revision", "beams"):
        if (value := getattr(wanted, name)) is not None:
            raise UsageError(f"--{name} {value} is for a model on this machine, but --endpoint asks a server")

    from internvl.cli.conversation import Partner
    from internvl.cli.terminal import waiting
    from internvl.cli.words import limits
    from internvl.inference.remote import Remote
    from internvl.inference.remote_chat import Drawn, RemoteChat

    ours = {name: getattr(wanted, name) for name in ("top_k", "repetition_penalty", "max_tiles")}
    drawn = Drawn(
        max_tokens=wanted.max_new_tokens,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        seed=wanted.seed,
        extra={name: value for name, value in ours.items() if value is not None},
    )
    with waiting("looking for the server"):
        remote = Remote(endpoint, model=wanted.model, retries=4)
        if not wanted.extensions:
            drawn.check(remote)
    return Partner(RemoteChat(remote, system=wanted.system, drawn=drawn, limits=limits()), remote.model, remote=True)
