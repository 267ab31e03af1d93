"""What readers have to know of a model, told by a process of its own: it loads torch, they never do.

Run as `python -m internvl.serving.described JSON`, where JSON is {"source", "revision", "embedder"}, as
`internvl.serving.wire.Serve` has them. Prints JSON: {"tokenizer", "encoding", "context", "look"} as
`internvl.serving.wire.Open` has them, or {"error"} and exit status 2.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from internvl.errors import InternVLError, UsageError


def described(source: str | None, revision: str | None = None, embedder: str | None = None) -> dict[str, Any]:
    """The fields of `Open` that depend on the model.

    >>> described(None)["encoding"]["template"]
    'internvl2_5'
    """
    from internvl.inference.chat import context
    from internvl.models.config import ChatConfig, VisionConfig
    from internvl.weights.checkpoint import describe
    from internvl.weights.load import load_encoder, resolve

    path = resolve(source, revision=revision)
    encoder = load_encoder(path)
    config = describe(path)[2]
    assert isinstance(config, ChatConfig)  # load_encoder has refused anything else
    look = None
    if embedder is not None:
        other = describe(resolve(embedder))[2]
        if isinstance(other, ChatConfig):
            raise no_embedder(embedder)
        look = {"size": other.image_size if isinstance(other, VisionConfig) else other.tile_size, "fit": "crop"}
    encoding = asdict(encoder.config)
    return {"tokenizer": str(path), "encoding": encoding, "context": context(config.text), "look": look}


def no_embedder(name: str) -> UsageError:
    """What is said of a model that talks where one is wanted that makes vectors."""
    return UsageError(f"--embedder {name}: this model talks and makes no vectors of texts; name an InternVL-C or "
                      "InternVL-14B, such as nano-c")  # fmt: skip


def check_context(asked: int, most: int) -> None:
    """Refuse more tokens than the model reads, which is `most`."""
    if asked > most:
        raise UsageError(f"--context {asked}: the model reads at most {most} tokens; ask for no more, or leave it out")


def main() -> int:
    try:
        found = described(**json.loads(sys.argv[1]))
    except InternVLError as error:
        print(json.dumps({"error": str(error)}))
        return 2
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
