"""`internvl search`: the pictures that a text speaks of, best first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from internvl.errors import UsageError


def search(
    text: Annotated[str, typer.Argument(help="What is looked for.", show_default=False)],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Pictures, and folders of pictures.", show_default=False)
    ],
    model: Annotated[
        str, typer.Option(metavar="M", help="Hub id, zoo name or folder of an InternVL-C or -14B.")
    ] = "nano-c",
    mode: Annotated[Literal["C", "G"], typer.Option(help="How InternVL-14B looks at pictures.")] = "C",
    top: Annotated[int, typer.Option(metavar="N", help="So many, the best first.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help='One object a line: {"image": ..., "cosine": ...}.')] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """Find pictures by a text: the cosine of each picture with it, and the picture.

    Of folders every picture is looked at, those of their folders too.
    """
    from internvl.cli.terminal import waiting
    from internvl.cli.words import existing, limits

    found = [picture for image in images for picture in pictures_of(existing(image))]
    if not found:
        raise UsageError(f"there is no picture in {', '.join(images)}")

    import json

    from internvl.inference.embed import Embedder
    from internvl.weights.load import resolve

    path = resolve(model, revision=revision)
    with waiting(f"loading {model}"):
        full = "InternVL-C" if mode == "C" else "InternVL-G"
        embedder = Embedder.load(path, mode=full, fit="stretch", device=device, dtype=dtype, limits=limits())
        wanted = embedder.texts(text)
    with waiting("looking"):
        cosines = (embedder.images(found) @ wanted.T)[:, 0].tolist()
    for cosine, picture in sorted(zip(cosines, found, strict=True), key=lambda pair: -pair[0])[:top]:
        if as_json:
            typer.echo(json.dumps({"image": picture, "cosine": round(cosine, 6)}, ensure_ascii=False))
        else:
            typer.echo(f"{cosine:.3f}  {picture}")


def pictures_of(name: str) -> list[str]:
    """The picture itself, or the pictures of a folder, sorted by name.

    >>> pictures_of("https://example.org/photo.png")
    ['https://example.org/photo.png']
    """
    from internvl.cli.words import PICTURES

    folder, seen = Path(name), PICTURES - {"svg", "heic"}
    if not folder.is_dir():
        return [name]
    return [str(file) for file in sorted(folder.rglob("*")) if file.suffix.lower().removeprefix(".") in seen]
