"""Zero-shot classification of pictures and videos with InternVL-C, in five languages.

Published scores are those of the InternVL 1.0 repository (clip_benchmark, arXiv:2312.14238 section 4.3), with
CLIP_benchmark's class names and templates. The data: ImageNet and its variants as class folders, anything as the
WebDataset folders of https://huggingface.co/clip-benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from internvl.evaluation.benchmark import Benchmark, File, Published, Settings, Source
from internvl.evaluation.imagenet import IMAGENET_A, IMAGENET_R
from internvl.evaluation.rankings import Probe, class_figures, classes_figures, mark_class, mark_classes, video_figures
from internvl.evaluation.zeroshot_data import (
    CLIP_BENCHMARK,
    ClassSource,
    named_by_folders,
    named_by_list,
    read_class_folders,
    read_wds,
    wds_classes,
)

REPOSITORY = "InternVL 1.0 repository, clip_benchmark"
MODEL = "InternVL-14B-224px"

# ---- classification --------------------------------------------------------------------------------------------------

# acc1, acc5, mean recall of the classes, of InternVL-C in 16 bit; acc5 of two classes is none.
FIGURES: dict[str, tuple[float, float | None, float]] = {
    "imagenet1k": (83.178, 97.322, 83.204),
    "imagenet-a": (83.773, 95.587, 81.839),
    "imagenet-r": (95.497, 99.183, 94.602),
    "imagenetv2": (77.260, 94.680, 77.380),
    "imagenet_sketch": (73.859, 91.998, 73.864),
    "objectnet": (80.591, 93.879, 79.704),
    "cifar10": (99.350, 99.960, 99.350),
    "cifar100": (93.150, 99.250, 93.140),
    "mnist": (80.600, 97.430, 80.287),
    "caltech101": (89.490, 98.480, 95.487),
    "sun397": (76.002, 96.234, 76.420),
    "fgvc_aircraft": (52.715, 94.269, 52.552),
    "country211": (34.081, 60.488, 34.066),
    "cars": (94.167, 99.950, 94.167),
    "birdsnap": (72.033, 96.369, 70.276),
    "dtd": (70.745, 93.670, 70.798),
    "eurosat": (79.374, 99.841, 80.138),
    "fer2013": (56.199, 97.325, 53.054),
    "flowers": (86.063, 95.365, 85.632),
    "food101": (95.263, 99.549, 95.275),
    "gtsrb": (65.487, 90.895, 57.752),
    "pets": (96.048, 99.918, 96.025),
    "renderedsst2": (67.930, None, 67.929),
    "resisc45": (74.226, 96.635, 74.811),
    "stl10": (99.450, 100.0, 99.450),
    "voc2007": (79.975, 97.950, 90.488),
}
LANGUAGES: dict[str, tuple[str, tuple[float, float, float]]] = {
    "cn": ("Chinese", (64.460, 87.842, 64.442)),
    "jp": ("Japanese", (61.488, 81.146, 61.406)),
    "ar": ("Arabic", (44.860, 66.418, 44.764)),
    "it": ("Italian", (65.686, 85.254, 65.578)),
}
VTAB = ("flowers", "pets", "resisc45", "dtd", "eurosat", "cifar100", "caltech101")
"""Which the hub has under the name of that collection."""


def _accuracies(values: tuple[float, float | None, float]) -> tuple[Published, ...]:
    rows = zip(("acc1", "acc5", "mean_per_class_recall"), values, strict=True)
    return tuple(Published(MODEL, value, name, REPOSITORY) for name, value in rows if value is not None)


def _names(language: str, required: bool) -> tuple[File, ...]:
    """CLIP_benchmark's lists. The English templates may be missing, and then ours stand in."""
    found = [File(f"clip_benchmark/{language}_classnames.json", hint=CLIP_BENCHMARK)]
    if required:
        templates = f"clip_benchmark/{language}_zeroshot_classification_templates.json"
        found.append(File(templates, hint=CLIP_BENCHMARK))
    return tuple(found)


def hub_name(key: str) -> str:
    """The folder of a data set in CLIP_benchmark's WebDataset form."""
    return f"wds_vtab-{key}" if key in VTAB else f"wds_{key}"


def _wds(key: str) -> ClassSource:
    root = hub_name(key)
    hint = f"https://huggingface.co/datasets/clip-benchmark/{root}, or written by clip_benchmark_export_wds"
    files = (File(f"{root}/test/nshards.txt", hint=hint), File(f"{root}/classnames.txt", hint=hint))
    return ClassSource(
        "huggingface", files, partial(read_wds, root=root), classes=partial(wds_classes, root=root, key=key)
    )


def _imagenet(
    root: str, classes: int, *, numbered: bool = False, only: Sequence[int] | None = None, key: str = "imagenet1k"
) -> ClassSource:
    return ClassSource(
        "original",
        (File(root, hint=f"{classes} folders of pictures, one for each class"), *_names("en", required=False)),
        partial(read_class_folders, root=root, classes=classes, numbered=numbered),
        classes=partial(named_by_list, key="imagenet1k", only=only, templates=key),
    )


FOLDERS: dict[str, ClassSource] = {
    "imagenet1k": _imagenet("imagenet-1k/val", 1000),
    "imagenet-a": _imagenet("imagenet-a", 200, only=IMAGENET_A, key="imagenet-a"),
    "imagenet-r": _imagenet("imagenet-r", 200, only=IMAGENET_R, key="imagenet-r"),
    "imagenetv2": _imagenet("imagenetv2-matched-frequency-format-val", 1000, numbered=True, key="imagenetv2"),
    "imagenet_sketch": _imagenet("imagenet_sketch", 1000, key="imagenet_sketch"),
}


def _language(language: str) -> tuple[ClassSource, ...]:
    """ImageNet's pictures in either form, with the names and templates of a language."""
    classes = partial(named_by_list, key="imagenet1k", language=language)
    folders, archives = FOLDERS["imagenet1k"], _wds("imagenet1k")
    lists = _names(language, required=True)
    return tuple(
        ClassSource(source.layout, (source.files[0], *lists), source.read, classes=classes)
        for source in (folders, archives)
    )


def _classification(
    name: str, title: str, sources: tuple[Source, ...], published: tuple[Published, ...] = (), note: str = ""
) -> Probe:
    return Probe(
        name=f"zeroshot-{name.replace('_', '-')}",
        title=title,
        paper="arXiv:2312.14238",
        group="embeddings",
        kind="classification",
        fit="crop",
        sources=sources,
        mark=mark_class,
        summarise=class_figures,
        published=published,
        note=note,
    )


def _standard(key: str) -> Probe:
    sources = (*((FOLDERS[key],) if key in FOLDERS else ()), _wds(key))
    return _classification(key, f"{key}, zero-shot", sources, _accuracies(FIGURES[key]))


_FOLDER = "zeroshot-folder"
OWN = _classification(
    "folder",
    "A folder of class folders, zero-shot",
    (
        ClassSource(
            "original",
            (File(_FOLDER, hint="folders of pictures, each called as its class"),),
            partial(read_class_folders, root=_FOLDER),
            classes=partial(named_by_folders, root=_FOLDER),
        ),
    ),
    note="Your own pictures: nothing is published.",
)

VOC_MULTILABEL = Probe(
    name="zeroshot-voc2007-multilabel",
    title="VOC 2007, several classes a picture, zero-shot",
    paper="arXiv:2312.14238",
    group="embeddings",
    kind="classification",
    fit="crop",
    sources=(_wds("voc2007_multilabel"),),
    mark=mark_classes,
    summarise=classes_figures,
)

# mean of acc1 and acc5 of InternVL-C: with one frame, with eight
KINETICS = {"400": (71.0, 79.4), "600": (71.3, 78.8), "700": (65.7, 71.5)}


def _kinetics(size: str, frames: int) -> Probe:
    root = f"kinetics{size}/val"
    source = ClassSource(
        "original",
        (File(root, hint="folders of videos, each called as its class"),),
        partial(read_class_folders, root=root, videos=True),
        classes=partial(named_by_folders, root=root, key=f"kinetics{size}"),
    )
    value = KINETICS[size][frames > 1]
    return Probe(
        name=f"zeroshot-kinetics{size}" + ("-8frames" if frames > 1 else ""),
        title=f"Kinetics-{size}, zero-shot, {frames} frame" + "s" * (frames > 1),
        paper="arXiv:2312.14238",
        group="embeddings",
        kind="classification",
        fit="crop",
        sources=(source,),
        mark=mark_class,
        summarise=video_figures,
        settings=Settings(frames=frames),
        published=(Published(MODEL, value, "mean of acc1 and acc5", REPOSITORY),),
        note="Code and templates of the published score were never released: that it is a mean of acc1 and acc5, the "
        "choice of frames and the mean of their vectors are inferred.",
    )


TASKS: tuple[Benchmark, ...] = (
    *map(_standard, FIGURES),
    *(
        _classification(f"imagenet1k-{code}", f"ImageNet-1K in {name}, zero-shot", _language(code), _accuracies(row))
        for code, (name, row) in LANGUAGES.items()
    ),
    VOC_MULTILABEL,
    OWN,
    *(_kinetics(size, frames) for size in KINETICS for frames in (1, 8)),
)
