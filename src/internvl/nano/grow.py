"""A larger nano out of a smaller one: more tokens and more decoder layers that compute the same at first.

    python -m internvl.nano.grow --data ../shared/data --old OLD --out NEW      # the vocabulary, then the checkpoint

Training does not begin again when the form grows. The idea is that of Net2Net (Chen, Goodfellow and Shlens 2016,
arXiv:1511.05641): the grown network starts as the same function. A decoder layer adds to what passes through it, so
one whose two last products are zero adds nothing; Wu et al. 2024 (LLaMA Pro, arXiv:2401.02415) put such layers between
those of a trained decoder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from internvl.errors import ConfigError
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig
from internvl.models.init import initialise
from internvl.nano import form, vocab

LAYERS, TABLE, HEAD = (
    "language_model.model.layers.",
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
)
SILENT = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
"""The last products of a layer's two branches."""
LOWER = 0.7
"""A new token is a little less likely than its first part, so that greedy answers stay what they were."""


def grow(
    old: Mapping[str, Tensor], parts: Sequence[Sequence[int]], config: ChatConfig, *, seed: int = 0
) -> dict[str, Tensor]:
    """Weights of a chat model of the form `config` that answers as the smaller one with weights `old` does.

    `parts` are, for each token of the new vocabulary, the old tokens that it is made of, see `parts_of`. Everything
    that is not in `parts` or a decoder layer has to be of the same size in both. Raises ConfigError where it is not.

    | new                                      | starts as                                                        |
    |------------------------------------------|------------------------------------------------------------------|
    | token that was one before                | its rows                                                         |
    | token that was several: embedding        | the mean of their embeddings                                     |
    | token that was several: row of the head  | that of the first, times `LOWER`                                 |
    | further decoder layers, spread evenly    | `internvl.models.init`, the last product of both branches zero   |
    """
    model = ChatModel(config)
    initialise(model, seed=seed)
    grown = dict(model.state_dict())
    before = 1 + max(int(name[len(LAYERS) :].split(".")[0]) for name in old if name.startswith(LAYERS))
    sources = places(before, config.text.layers)
    for name, values in grown.items():
        if name == TABLE:
            grown[name] = torch.stack([old[TABLE][list(own)].float().mean(0) for own in parts])
        elif name == HEAD:
            grown[name] = torch.stack([old[HEAD][own[0]].float() * (LOWER if len(own) > 1 else 1) for own in parts])
        elif name.startswith(LAYERS):
            index, _, rest = name[len(LAYERS) :].partition(".")
            if (source := sources[int(index)]) is not None:
                grown[name] = old[f"{LAYERS}{source}.{rest}"]
            elif rest in SILENT:
                grown[name] = torch.zeros_like(values)
        else:
            grown[name] = old[name]
        if grown[name].shape != values.shape:
            raise ConfigError(f"{name} is {list(grown[name].shape)}, expected {list(values.shape)} in the grown form")
    return grown


def places(before: int, after: int) -> list[int | None]:
    """For each layer of the grown decoder the one that it was, None for a new one; the new ones evenly spread.

    >>> places(4, 6)
    [0, 1, None, 2, 3, None]
    """
    if after < before:
        raise ConfigError(f"{before} layers cannot grow to {after}")
    found: list[int | None] = []
    new = after - before
    ends = [0, *(before * (i + 1) // new for i in range(new))] if new else [0, before]
    for start, end in pairwise(ends):
        found += [*range(start, end), *([None] if new else [])]
    return found


def parts_of(old: Path, new: Path) -> list[list[int]]:
    """For each token of the new vocabulary the old tokens that make up the same bytes; `old`, `new`: their folders."""
    ids, special = (_ids(old, name) for name in ("vocab.json", "added_tokens.json"))
    ranks = {pair: i for i, pair in enumerate(vocab.read_merges(old))}
    tokens = {
        number: [ids[part] for part in vocab.apply(ranks, text)] for text, number in _ids(new, "vocab.json").items()
    }
    tokens |= {number: [special[text]] for text, number in _ids(new, "added_tokens.json").items()}
    return [tokens[number] for number in range(len(tokens))]


def _ids(folder: Path, name: str) -> dict[str, int]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, of one file or several."""
    return {
        name: values for path in sorted(folder.glob("model*.safetensors")) for name, values in load_file(path).items()
    }


def grow_checkpoint(old: Path, tokenizer: Path, out: Path, *, sizes: form.Sizes = form.NANO, seed: int = 0) -> None:
    """Write nano in today's form, with this tokenizer, out of a checkpoint of a smaller form."""
    image_token = _ids(tokenizer, "added_tokens.json")["<IMG_CONTEXT>"]
    tensors = grow(read_weights(old), parts_of(old, tokenizer), form.chat_config(image_token, sizes), seed=seed)
    form.write_checkpoint(tensors, tokenizer, out, sizes)


def main() -> None:
    from internvl.nano.world import World

    parser = argparse.ArgumentParser(description="Grow a checkpoint of nano into today's form.")
    parser.add_argument("--data", type=Path, required=True, help="the folder shared/data")
    parser.add_argument("--old", type=Path, required=True, help="the checkpoint to grow")
    parser.add_argument("--out", type=Path, required=True, help="where the grown one is written")
    parser.add_argument("--draws", type=int, default=200, help="samples of each skill whose words are counted")
    args = parser.parse_args()
    world = World.of(args.data)
    texts = [*vocab.written(args.data), *vocab.common(), *vocab.said(world, args.draws)]
    characters = vocab.characters_of(texts) + vocab.COMMON + vocab.SIGNS
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer"
        vocab.build(texts, tokenizer, first=vocab.read_merges(args.old), characters=characters)
        grow_checkpoint(args.old, tokenizer, args.out)


if __name__ == "__main__":
    main()
