"""`internvl embed`: pictures and texts as vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from internvl.errors import UsageError


def embed(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Pictures.", show_default=False)
    ] = None,
    text: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A text; may be given several times.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Hub id, zoo name or folder. Default: nano; nano-c has a text side.")
    ] = None,
    mode: Annotated[Literal["C", "G"], typer.Option(help="How InternVL-14B looks at pictures.")] = "C",
    pool: Annotated[
        Literal["class", "mean"], typer.Option(help="Of a tower: class token, or mean of patches.")
    ] = "class",
    fit: Annotated[Literal["crop", "stretch"], typer.Option(help="How a picture is made square.")] = "crop",
    out: Annotated[Path | None, typer.Option(metavar="F.npy", help="Write one array (N, dim) there.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """Unit vectors of pictures, and of texts where the model has a text side; pictures first, then texts.

    Prints one JSON object a line, {"source": ..., "vector": [...]}, or writes an array with --out.
    """
    from internvl.cli.terminal import waiting
    from internvl.cli.words import existing, limits

    images, texts = [existing(image) for image in images or []], text or []
    if not images and not texts:
        raise UsageError("nothing to embed; give pictures, or texts with --text")
    if out is not None and out.suffix != ".npy":
        raise UsageError(f"--out {out}: the array is written as .npy; choose a name that ends so")

    import json

    import torch

    from internvl.inference.embed import Embedder
    from internvl.weights.load import resolve

    path = resolve(model, revision=revision)
    with waiting(f"loading {model or 'nano'}"):
        full = "InternVL-C" if mode == "C" else "InternVL-G"
        embedder = Embedder.load(path, mode=full, pool=pool, fit=fit, device=device, dtype=dtype, limits=limits())
    with waiting("looking"):
        found = [embedder.images(images)] if images else []
        found += [embedder.texts(texts)] if texts else []
    vectors = torch.cat(found).cpu().numpy()
    if out is not None:
        import numpy as np

        np.save(out, vectors)
        typer.echo(f"wrote {vectors.shape[0]} vectors of {vectors.shape[1]} to {out}")
        return
    for source, vector in zip([*images, *texts], vectors.tolist(), strict=True):
        typer.echo(json.dumps({"source": source, "vector": [round(value, 7) for value in vector]}, ensure_ascii=False))
