"""From what a person calls a model to a folder on this machine; the Hugging Face hub where it is not here yet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from internvl import zoo
from internvl.errors import CheckpointError, NoSuchName

NANO = Path(__file__).parent.parent / "nano" / "checkpoint"
SIDECARS = (".json", ".txt", ".model", ".jinja", ".md")
WEIGHTS = (".safetensors", ".bin", ".pth")
"""The kinds of weight files, best first; a repository may hold several, and one is enough."""


def resolve(source: str | Path | None = None, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder (or `.pth`) of a model: the embedded one, a path, a zoo name, or a hub id, which is downloaded.

    What was downloaded before is found again without a network. `NoSuchName` suggests the nearest name of the zoo.

    >>> resolve("internvl2.5-1b")  # doctest: +SKIP
    """
    if source is None:
        if not NANO.is_dir():
            raise CheckpointError(f"no embedded model in this installation ({NANO}); name one: internvl zoo lists them")
        return NANO
    path = Path(source).expanduser()
    if str(source) and path.exists():
        return path
    name, file = str(source), None
    try:
        row = zoo.find(name)
        name, file = row.hub, row.file
    except NoSuchName as error:
        is_hub_id = name.count("/") == 1 and all(name.split("/")) and name[0] not in ".~"
        if not is_hub_id:
            raise NoSuchName(f"{error} It is no file or folder here either.") from None
    return download(name, file=file, revision=revision, token=token)


def download(repo: str, *, file: str | None = None, revision: str | None = None, token: str | None = None) -> Path:
    """Fetch what a model needs from the hub: its weights in one form and the files beside them, never code.

    An interrupted download is taken up again. Without a network the copy of before is used, if there is one.
    """
    where = f"{repo}{f'@{revision}' if revision else ''}"
    try:
        listed = huggingface_hub.HfApi(token=token).model_info(repo, revision=revision).siblings or []
        wanted = [file] if file else needed(entry.rfilename for entry in listed)
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
    except Exception as error:  # each release of the hub's library has another HTTP library, with errors of its own
        folder = _cached(repo, revision, where, error)
    path = Path(folder)
    return path / file if file else path


def _cached(repo: str, revision: str | None, where: str, error: Exception) -> str:
    try:
        return huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
    except Exception:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{where} is not on this machine and the hub could not be reached ({reason}); "
            "try again with a network, or give the folder of a copy"
        ) from None


def needed(names: Iterable[str]) -> list[str]:
    """Of the files of a repository: the best kind of weights, and what stands beside them.

    >>> needed(["config.json", "modeling.py", "model.safetensors", "pytorch_model.bin", "examples/a.jpg", "vocab.txt"])
    ['config.json', 'vocab.txt', 'model.safetensors']
    """
    top = [name for name in names if "/" not in name and not name.startswith(".")]
    beside = [name for name in top if name.endswith(SIDECARS) or name.startswith(("LICENSE", "NOTICE"))]
    for suffix in WEIGHTS:
        kind = [name for name in top if name.endswith(suffix) and not name.startswith(("training_", "optimizer"))]
        if kind:
            indices = {f"{stem}{suffix}.index.json" for stem in ("model", "pytorch_model")}
            return [n for n in beside if not n.endswith(".index.json") or n in indices] + kind
    return beside
