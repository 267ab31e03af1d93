"""The data of zero-shot classification and retrieval, in the forms that people have them in.

    class folders   imagenet-1k/val/n01440764/*.JPEG         a folder a class, as torchvision's ImageFolder reads
    WebDataset      wds_imagenet1k/test/{nshards.txt,0.tar}  as CLIP_benchmark publishes and exports them
    captions        Karpathy's splits of Flickr30k and COCO, their Chinese versions, XTD, MSR-VTT

Class names and templates of a language are read from CLIP_benchmark's `en_classnames.json` and
`en_zeroshot_classification_templates.json` in the folder `clip_benchmark` of the data folder.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from internvl.errors import DataError
from internvl.evaluation.benchmark import Picture, Sample, Source
from internvl.evaluation.folder import Folder
from internvl.evaluation.rankings import OWN_TEMPLATES
from internvl.evaluation.rows import Row

TEMPLATES = ("a photo of a {c}.", "a picture showing a {c}.", "a close view of a {c}.", "a drawing of a {c}.", "{c}")
"""Where the data folder has none: our own, English, for photographs. Published scores have CLIP_benchmark's."""
CLIP_BENCHMARK = "https://github.com/LAION-AI/CLIP_benchmark, clip_benchmark/datasets"
STILLS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov")
LARGEST_TEXT = 2**26
"""Bytes of a list of captions or names."""
LARGEST_LABEL = 2**20
"""Bytes of a label or of the captions of one picture."""


# ---- classes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classes:
    """Between what a classifier chooses, and in which sentences the names are put."""

    names: tuple[str, ...]
    templates: tuple[str, ...]
    origin: str
    """Where the templates are from, for the report."""


@dataclass(frozen=True)
class ClassSource(Source):
    """A source whose pictures have classes; a sample's `answer` is a class number, or a list of them."""

    classes: Callable[[Folder], Classes] = field(kw_only=True)


def clip_names(folder: Folder, key: str, language: str = "en") -> tuple[str, ...]:
    """CLIP_benchmark's names of a data set's classes."""
    return _texts(folder, f"clip_benchmark/{language}_classnames.json", key)


def clip_templates(folder: Folder, key: str, language: str = "en") -> tuple[tuple[str, ...], str]:
    """CLIP_benchmark's templates and where they are from; those of ImageNet for a data set that has none of its own.

    English ones may be missing: then `TEMPLATES` stand in.
    """
    name = f"clip_benchmark/{language}_zeroshot_classification_templates.json"
    if not folder.find(name) and language == "en":
        return TEMPLATES, OWN_TEMPLATES
    known = Row(_object(folder, name), name)
    used = key if key in known else "imagenet1k"
    return _texts(folder, name, used), f"{name}, {used}"


def _texts(folder: Folder, name: str, key: str) -> tuple[str, ...]:
    found = Row(_object(folder, name), name)[key]
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in cast("list[Any]", found)):
        raise DataError(f"{name}: `{key}` is no list of texts; get the file from {CLIP_BENCHMARK}")
    return tuple(cast("list[str]", found))


def _object(folder: Folder, name: str) -> Mapping[str, Any]:
    folder.path(name, hint=f"it is in {CLIP_BENCHMARK}")
    found = folder.json(name)
    if not isinstance(found, dict):
        raise DataError(f"{name}: is no JSON object; get the file from {CLIP_BENCHMARK}")
    return cast("Mapping[str, Any]", found)


# ---- class folders ---------------------------------------------------------------------------------------------------


def named_by_folders(folder: Folder, *, root: str, key: str = "") -> Classes:
    """The folders' own names, `_` read as a space: what people have of their own."""
    names = tuple(path.name.replace("_", " ") for path in class_folders(folder, root))
    return Classes(names, *clip_templates(folder, key))


def named_by_list(
    folder: Folder, *, key: str, language: str = "en", only: Sequence[int] | None = None, templates: str = ""
) -> Classes:
    """CLIP_benchmark's list, of which `only` gives the numbers of a subset."""
    names = clip_names(folder, key, language)
    if only is not None and max(only) >= len(names):
        raise DataError(f"clip_benchmark/{language}_classnames.json: `{key}` has {len(names)} names; expected 1000")
    kept = names if only is None else tuple(names[place] for place in only)
    return Classes(kept, *clip_templates(folder, templates or key, language))


def class_folders(folder: Folder, root: str) -> list[Path]:
    """The folders of a root, sorted by name."""
    found = sorted(path for path in folder.path(root).iterdir() if path.is_dir())
    if not found:
        raise DataError(f"{root} has no folders; expected one for each class, with its pictures inside")
    return found


def read_class_folders(
    folder: Folder, *, root: str, classes: int | None = None, numbered: bool = False, videos: bool = False
) -> Iterator[Sample]:
    """Samples of class folders, sorted. classes: how many there must be. numbered: their names are class numbers."""
    found = class_folders(folder, root)
    if classes is not None and len(found) != classes:
        raise DataError(f"{root} has {len(found)} folders; expected {classes}, one for each class")
    for place, path in enumerate(found):
        if numbered and not (path.name.isdecimal() and int(path.name) < len(found)):
            raise DataError(f"{root}/{path.name}: expected folders called 0 to {len(found) - 1}")
        label = int(path.name) if numbered else place
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() not in (VIDEOS if videos else STILLS):
                continue
            name = file.relative_to(folder.root).as_posix()
            facts = {"class": path.name}
            if videos:
                yield Sample(id=name, prompt="", footage=folder.footage(name), answer=label, facts=facts)
            else:
                yield Sample(id=name, prompt="", pictures=(folder.picture(name),), answer=label, facts=facts)


# ---- WebDataset ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One sample of a tar archive: its key, its picture, and what else stands beside it, by ending."""

    where: str
    picture: Picture
    beside: Mapping[str, bytes]

    def one(self, ending: str) -> bytes:
        if ending not in self.beside:
            raise DataError(f"{self.where}: there is no `.{ending}` beside the picture; expected one")
        return self.beside[ending]


def read_wds(folder: Folder, *, root: str) -> Iterator[Sample]:
    """Samples of CLIP_benchmark's WebDataset form: labels (`.cls`) or truth tables of several labels (`.npy`)."""
    kind = wds_kind(folder, root)
    if kind not in ("classification", "multilabel"):
        raise DataError(f"{root}/dataset_type.txt says {kind!r}; expected classification or multilabel")
    for shard in wds_shards(folder, root):
        answer = _labels(shard) if kind == "multilabel" else _label(shard)
        yield Sample(id=shard.where, prompt="", pictures=(shard.picture,), answer=answer)


def wds_classes(folder: Folder, *, root: str, key: str) -> Classes:
    """`classnames.txt` of the data set, and its templates where CLIP_benchmark's file is not there."""
    names = tuple(lines(folder, f"{root}/classnames.txt"))
    own = f"{root}/zeroshot_classification_templates.txt"
    if folder.find(own):
        return Classes(names, tuple(lines(folder, own)), own)
    return Classes(names, *clip_templates(folder, key))


def wds_kind(folder: Folder, root: str) -> str:
    name = f"{root}/dataset_type.txt"
    return " ".join(lines(folder, name)).strip().lower() if folder.find(name) else "classification"


def wds_shards(folder: Folder, root: str, split: str = "test") -> Iterator[Shard]:
    """Every picture of the archives `split/0.tar` …, with what stands beside it; pictures are read late."""
    [count, *_] = [*lines(folder, f"{root}/{split}/nshards.txt"), ""]
    if not count.isdecimal() or not 0 < int(count) < 100_000:
        raise DataError(f"{root}/{split}/nshards.txt says {count[:20]!r}; expected the number of archives")
    for number in range(int(count)):
        name = f"{root}/{split}/{number}.tar"
        path = folder.path(name)
        try:
            with tarfile.open(path, "r:") as archive:  # uncompressed: a picture's bytes lie in the file as they are
                yield from _grouped(archive, path, name)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{name}: cannot be read as a tar archive ({error}); get it again") from None


def _grouped(archive: tarfile.TarFile, path: Path, name: str) -> Iterator[Shard]:
    """Neighbours whose names are equal up to the first point are one sample."""
    key, picture, beside = "", None, dict[str, bytes]()
    for member in archive:
        if not member.isreg():
            continue
        stem, _, ending = member.name.rpartition("/")[2].partition(".")
        stem, ending = member.name.removesuffix(f".{ending}"), ending.lower()
        if stem != key:
            if picture is not None:
                yield Shard(f"{name}/{key}", picture, beside)
            key, picture, beside = stem, None, {}
        if f".{ending}" in STILLS:
            read = partial(_read_range, path, member.offset_data, member.size)
            picture = Picture(f"{name}/{member.name}", read)
        elif ending in ("cls", "npy", "txt"):
            if member.size > LARGEST_LABEL:
                raise DataError(f"{name}/{member.name}: {member.size} bytes; expected a label or captions")
            content = archive.extractfile(member)
            beside[ending] = b"" if content is None else content.read()
    if picture is not None:
        yield Shard(f"{name}/{key}", picture, beside)


def _read_range(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _label(shard: Shard) -> int:
    text = shard.one("cls").strip()
    if not text.isdigit():
        raise DataError(f"{shard.where}: its label is {text[:20]!r}; expected a class number")
    return int(text)


def _labels(shard: Shard) -> list[int]:
    try:
        table = np.load(io.BytesIO(shard.one("npy")), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{shard.where}: its labels are no table of numbers ({error})") from None
    if table.ndim != 1:
        raise DataError(f"{shard.where}: its labels have the shape {table.shape}; expected one number for each class")
    return np.flatnonzero(table).tolist()


# ---- captions --------------------------------------------------------------------------------------------------------

Clean = Callable[[str], str]
Captioned = Iterator[tuple[Picture, Sequence[str]]]


def both_sides(captioned: Captioned, clean: Clean) -> Iterator[Sample]:
    """Pictures with captions as samples: each picture looks for its captions, each caption for its picture."""
    texts: list[Sample] = []
    for picture, captions in captioned:
        if not captions:
            raise DataError(f"{picture.name}: this picture has no caption; expected at least one")
        own = [f"text:{len(texts) + place}" for place in range(len(captions))]
        name = f"image:{picture.name}"
        texts += [
            Sample(id=id, prompt=clean(caption), answer=[name], facts={"side": "text"})
            for id, caption in zip(own, captions, strict=True)
        ]
        yield Sample(id=name, prompt="", pictures=(picture,), answer=own, facts={"side": "image"})
    yield from texts


def read_flickr(folder: Folder, *, name: str, pictures: str) -> Iterator[Sample]:
    """A list of `picture.jpg,caption` under a line of headings; a picture's captions need not stand together."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines(folder, name, blank=True)[1:], start=2):
        if not line.strip():
            continue
        picture, mark, caption = line.strip().partition(".jpg,")
        if not mark:
            raise DataError(f"{name}:{number}: is {line[:40]!r}; expected `picture.jpg,caption`")
        found.setdefault(f"{picture}.jpg", []).append(caption)
    captioned = ((folder.picture(f"{pictures}/{picture}"), captions) for picture, captions in found.items())
    return both_sides(captioned, _clean)


def read_coco(folder: Folder, *, name: str, pictures: str) -> Iterator[Sample]:
    """Pictures and captions in COCO's form, in the order of the pictures' numbers."""
    captions: dict[str, list[str]] = {}
    for row in folder.json_rows(name, "annotations"):
        captions.setdefault(str(row["image_id"]), []).append(row.text("caption"))
    images = sorted(folder.json_rows(name, "images"), key=lambda row: row.number("id"))

    def captioned() -> Captioned:
        for row in images:
            own = captions.get(str(row["id"]), [])
            yield folder.picture(f"{pictures}/{row.text('file_name')}".removeprefix("./"), row=row), own

    return both_sides(captioned(), _clean)


def read_xtd(folder: Folder, *, language: str, place: str) -> Iterator[Sample]:
    """XTD: a list of COCO pictures, and one caption a line in each language; captions stay as they are."""
    listed, said = "xtd10/XTD10/test_image_names.txt", f"xtd10/{place}/test_1kcaptions_{language}.txt"
    names, captions = lines(folder, listed), lines(folder, said)
    if len(names) != len(captions):
        raise DataError(
            f"{said}: {len(captions)} captions for the {len(names)} pictures of {listed}; expected one each"
        )
    captioned = (
        (folder.picture(f"coco/{'val2014' if 'val' in name else 'train2014'}/{name}"), [caption])
        for name, caption in zip(names, captions, strict=True)
    )
    return both_sides(captioned, str)


def read_wds_captions(folder: Folder, *, root: str) -> Iterator[Sample]:
    """Captions in CLIP_benchmark's WebDataset form: one a line in the `.txt` beside a picture."""
    if (kind := wds_kind(folder, root)) != "retrieval":
        raise DataError(f"{root}/dataset_type.txt says {kind!r}; expected retrieval")

    def captioned() -> Captioned:
        for shard in wds_shards(folder, root):
            yield shard.picture, _decoded(shard.one("txt"), shard.where).splitlines()

    return both_sides(captioned(), _clean)  # those of the hub were exported as they are


def read_videos(folder: Folder, *, name: str, videos: str) -> Iterator[Sample]:
    """A JSON list of {"video", "caption"}, one caption a video; each looks for the other."""
    rows = list(folder.json_rows(name))
    for place, row in enumerate(rows):
        footage = folder.footage(f"{videos}/{row.text('video')}", row=row)
        yield Sample(id=f"video:{place}", prompt="", footage=footage, answer=[f"text:{place}"], facts={"side": "video"})
    for place, row in enumerate(rows):
        facts = {"side": "text"}
        yield Sample(id=f"text:{place}", prompt=row.text("caption"), answer=[f"video:{place}"], facts=facts)


# ---- lists -----------------------------------------------------------------------------------------------------------


def lines(folder: Folder, name: str, *, blank: bool = False) -> list[str]:
    """The lines of a text file; blank: also the empty ones."""
    path = folder.path(name)
    if path.stat().st_size > LARGEST_TEXT:
        raise DataError(f"{name}: larger than {LARGEST_TEXT // 2**20} MiB; expected a list")
    found = _decoded(path.read_bytes(), name).removeprefix("\ufeff").split("\n")
    return [line.strip() for line in found if blank or line.strip()]


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start}); expected text") from None


def _clean(caption: str) -> str:
    from internvl.data.pair import clean_caption  # whoever lists the benchmarks need not wait for Pillow

    return clean_caption(caption)
