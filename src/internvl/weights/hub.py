"""From what a person calls a model to a folder on this machine; the Hugging Face hub where it is not here yet."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from socket import gaierror

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from internvl import zoo
from internvl.errors import CheckpointError, NoSuchName, UsageError

NANO = Path(__file__).parent.parent / "nano" / "checkpoint"
NANO_C = NANO.with_name("pair")
SIDECARS = (".json", ".txt", ".model", ".jinja", ".md")
EMBEDDED, EMBEDDED_C = "nano", "nano-c"
"""What the embedded models are called: the one that talks, and the one that searches."""
WEIGHTS = (".safetensors", ".bin", ".pth")
"""The kinds of weight files, best first; a repository may hold several, and one is enough."""
STEP = re.compile(r"step-(\d+)")
"""A checkpoint of a training run."""
SAME_TOKENIZER = "OpenGVLab/InternVL-14B-224px"
"""Its tokenizer is that of plain InternVL-C."""


def resolve(
    source: str | Path | None = None, *, revision: str | None = None, token: str | None = None, weights: bool = True
) -> Path:
    """The folder (or `.pth`) of a model: the embedded one, a path, a zoo name, or a hub id, which is downloaded.

    None and "nano" are the embedded one, "nano-c" is its contrastive sibling. A training run, or one of its
    checkpoints, is its model: see `of_run`. What was downloaded before is found again without a network. `NoSuchName`
    suggests the nearest name of the zoo.
    revision and token are of a model on the hub; with anything else they are a `UsageError`. weights=False downloads
    what stands beside the weights only; for plain InternVL-C, which is published without its tokenizer, another's.

    >>> resolve("internvl2.5-1b")  # doctest: +SKIP
    """
    path = Path(source or "").expanduser()
    here = bool(str(source)) and path.exists()
    own = {EMBEDDED: NANO, EMBEDDED_C: NANO_C}
    embedded = NANO if source is None else None if here else own.get(str(source))
    given = [name for name, value in (("revision", revision), ("token", token)) if value is not None]
    if given and (embedded or here):
        what = "the embedded model" if embedded else f"{source}, which is here"
        raise UsageError(f"{' and '.join(given)} given with {what}; expected a model on the hub")
    if embedded:
        if not embedded.is_dir():
            raise CheckpointError(
                f"no embedded model in this installation ({embedded}); name one: internvl zoo lists them"
            )
        return embedded
    if here:
        return of_run(path)
    name, file = str(source), None
    try:
        row = zoo.find(name)
        name, file = row.hub, row.file
        if row.layout == "pair-pth" and not weights:
            name, file, revision = SAME_TOKENIZER, None, None
    except NoSuchName as error:
        if not is_hub_id(name):
            raise NoSuchName(f"{error} It is no file or folder here either.") from None
    return download(name, file=file, revision=revision, token=token, weights=weights)


def is_hub_id(name: str) -> bool:
    """Whether it has the form of one: owner/name.

    >>> is_hub_id("OpenGVLab/InternVL2_5-1B"), is_hub_id("./folder")
    (True, False)
    """
    return name.count("/") == 1 and all(name.split("/")) and name[0] not in ".~"


def is_far(source: str | None) -> bool:
    """Whether `resolve` asks the hub for it: it is neither embedded nor here, and has a name that a model can have."""
    if not source or source in (EMBEDDED, EMBEDDED_C) or Path(source).expanduser().exists():
        return False
    try:
        zoo.find(source)
    except NoSuchName:
        return is_hub_id(source)
    return True


def of_run(path: Path) -> Path:
    """The model in the folder of a training run (its result, else its newest checkpoint) or of one checkpoint.

    Any other path, and every folder that has a model of its own, is itself.
    """
    if not path.is_dir() or (path / "config.json").is_file() or any(file.suffix in WEIGHTS for file in path.iterdir()):
        return path
    checkpoints = {int(found[1]): step for step in path.iterdir() if (found := STEP.fullmatch(step.name))}
    found = [path, *(checkpoints[number] for number in sorted(checkpoints, reverse=True))]
    return next((model for step in found if ((model := step / "model") / "config.json").is_file()), path)


def download(
    repo: str,
    *,
    file: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    weights: bool = True,
) -> Path:
    """Fetch what a model needs from the hub: its weights in one form and the files beside them, never code.

    An interrupted download is taken up again. Without a network the copy of before is used, if there is one, and a
    warning says so.
    """
    where = f"{repo}{f'@{revision}' if revision else ''}"
    try:
        listed = huggingface_hub.HfApi(token=token).model_info(repo, revision=revision).siblings or []
        wanted = [file] if file else needed((entry.rfilename for entry in listed), weights=weights)
        folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted, token=token)
    except RevisionNotFoundError:
        raise NoSuchName(f"{repo} has no revision {revision!r} on the Hugging Face hub") from None
    except GatedRepoError:
        raise CheckpointError(
            f"{where} asks its users to accept terms: do that on its page, then set HF_TOKEN or run hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise NoSuchName(
            f"{where} is not on the Hugging Face hub, or it is private and needs a token (HF_TOKEN or hf auth login)"
        ) from None
    except HFValidationError:
        raise NoSuchName(f"{where} is no name that the Hugging Face hub can have") from None
    except Exception as error:
        if not _is_of_the_network(error):
            if isinstance(error, OSError):
                raise CheckpointError(f"{where} could not be stored on this machine ({_first_line(error)})") from error
            raise
        folder = _cached(repo, revision, where, error)
    path = Path(folder)
    return path / file if file else path


def _is_of_the_network(error: Exception) -> bool:
    """Each release of the hub's library has another HTTP library, with errors of its own."""
    if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests", "urllib3"):
        return True
    return isinstance(error, ConnectionError | TimeoutError | gaierror | HfHubHTTPError | LocalEntryNotFoundError)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__


def _cached(repo: str, revision: str | None, where: str, error: Exception) -> str:
    """The snapshot of before. The hub may have a newer one, so whoever is not offline by choice is warned."""
    reason = _first_line(error)
    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{where} is not on this machine and the hub could not be reached ({reason}); "
            "try again with a network, or give the folder of a copy"
        ) from None
    if not isinstance(error, OfflineModeIsEnabled):
        warnings.warn(f"{where}: the hub could not be reached ({reason}); {folder} is used", stacklevel=4)
    return folder


def needed(names: Iterable[str], *, weights: bool = True) -> list[str]:
    """Of the files of a repository: the best kind of weights (or none), and what stands beside them.

    >>> needed(["config.json", "modeling.py", "model.safetensors", "pytorch_model.bin", "examples/a.jpg", "vocab.txt"])
    ['config.json', 'vocab.txt', 'model.safetensors']
    """
    top = [name for name in names if "/" not in name and not name.startswith(".")]
    beside = [name for name in top if name.endswith(SIDECARS) or name.startswith(("LICENSE", "NOTICE"))]
    for suffix in WEIGHTS if weights else ():
        kind = [name for name in top if name.endswith(suffix) and not name.startswith(("training_", "optimizer"))]
        if kind:
            indices = {f"{stem}{suffix}.index.json" for stem in ("model", "pytorch_model")}
            return [n for n in beside if not n.endswith(".index.json") or n in indices] + kind
    return beside
