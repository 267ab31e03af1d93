"""Retrieval of pictures by captions and of captions by pictures, in many languages, and of videos.

Published scores are those of the InternVL 1.0 repository (clip_benchmark, arXiv:2312.14238 section 4.3).
"""

from __future__ import annotations

from functools import partial

from internvl.evaluation.benchmark import Benchmark, File, Published, Settings, Source
from internvl.evaluation.rankings import Probe, found_figures, mark_found
from internvl.evaluation.tasks.zeroshot import MODEL, REPOSITORY, hub_name
from internvl.evaluation.zeroshot_data import read_coco, read_flickr, read_videos, read_wds_captions, read_xtd

MODES = {"C": "", "G": "--mode G"}
SPLITS = "https://github.com/mehdidc/retrieval_annotations/releases/tag/1.0.0"
RELEASE = "https://github.com/OpenGVLab/InternVL/releases/tag/data"
XTD10 = "https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10, cloned as xtd10"

_SIX = tuple(f"{side}_retrieval_recall@{k}" for side in ("text", "image") for k in (1, 5, 10))
# Pictures to texts at 1, 5, 10, then texts to pictures.
RECALLS: dict[str, dict[str, tuple[float, ...]]] = {
    "flickr30k": {"C": (94.7, 99.6, 99.9, 81.66, 96.04, 98.20), "G": (95.7, 99.7, 99.9, 84.98, 97.00, 98.58)},
    "coco": {"C": (70.60, 89.02, 93.54, 54.12, 77.32, 84.63), "G": (74.92, 91.30, 95.22, 58.58, 81.32, 87.95)},
    "flickr30k-cn": {"C": (90.3, 98.8, 99.7, 75.10, 92.90, 96.38), "G": (92.9, 99.4, 99.8, 77.68, 94.76, 97.28)},
    "coco-cn": {"C": (68.80, 92.00, 96.70, 68.85, 91.93, 96.49), "G": (71.40, 93.90, 97.70, 73.79, 94.40, 98.10)},
}
XTD: dict[str, dict[str, tuple[float, ...]]] = {
    "en": {"C": (74.8, 92.2, 97.3, 76.7, 92.0, 96.7), "G": (79.8, 94.8, 98.6, 81.2, 94.7, 98.3)},
    "es": {"C": (70.1, 89.6, 95.7, 70.6, 90.2, 94.3), "G": (74.5, 92.5, 97.7, 75.5, 93.5, 96.6)},
    "fr": {"C": (69.0, 88.9, 95.1, 69.7, 88.3, 93.5), "G": (72.8, 91.9, 96.5, 74.5, 91.8, 96.2)},
    "zh": {"C": (67.1, 87.7, 95.6, 64.8, 87.6, 94.2), "G": (69.5, 91.1, 96.7, 69.8, 91.2, 96.2)},
    "it": {"C": (70.4, 90.0, 96.0, 67.9, 89.9, 94.4), "G": (74.5, 93.1, 96.9, 73.3, 93.1, 96.4)},
    "ko": {"C": (59.2, 83.6, 92.2, 58.3, 84.0, 90.8), "G": (64.7, 87.7, 95.1, 64.3, 87.9, 94.2)},
    "ru": {"C": (64.4, 86.4, 93.3, 64.3, 85.1, 91.7), "G": (69.0, 89.2, 94.8, 68.5, 87.4, 93.9)},
    "jp": {"C": (67.6, 89.9, 95.5, 63.3, 87.5, 93.6), "G": (70.3, 91.0, 96.1, 68.5, 90.2, 95.4)},
    "pl": {},
    "tr": {},
}
XTD_PLACE = {"jp": "STAIR", "fr": "MIC"}
"""Where XTD's repository has a language, if not in XTD10."""
FLICKR_IMAGES = File("flickr30k/Images", hint="https://www.kaggle.com/datasets/adityajn105/flickr30k")
VAL2014 = File("coco/val2014", hint="http://images.cocodataset.org/zips/val2014.zip, unpacked")
TRAIN2014 = File("coco/train2014", hint="http://images.cocodataset.org/zips/train2014.zip, unpacked")


def _retrieval(
    name: str,
    title: str,
    paper: str,
    *sources: Source,
    published: dict[str, tuple[float, ...]],
    lead: int = 1,
) -> Probe:
    return Probe(
        name=f"retrieval-{name}",
        title=title,
        paper=paper,
        group="embeddings",
        kind="retrieval",
        fit="stretch",
        sources=sources,
        mark=mark_found,
        summarise=found_figures(lead=lead),
        published=tuple(
            Published(MODEL, value, figure, REPOSITORY, MODES[mode])
            for mode, values in published.items()
            for figure, value in zip(_SIX, values, strict=True)
        ),
    )


def _flickr(name: str, hint: str) -> Source:
    file = f"flickr30k/{name}"
    return Source(
        "original", (File(file, hint=hint), FLICKR_IMAGES), partial(read_flickr, name=file, pictures="flickr30k/Images")
    )


def _coco(name: str, hint: str, pictures: str, *images: File) -> Source:
    file = f"coco/{name}"
    return Source("original", (File(file, hint=hint), *images), partial(read_coco, name=file, pictures=pictures))


def _wds_captions(key: str) -> Source:
    root = hub_name(key)
    file = File(f"{root}/test/nshards.txt", hint=f"https://huggingface.co/datasets/clip-benchmark/{root}")
    return Source("huggingface", (file,), partial(read_wds_captions, root=root))


def _xtd(language: str) -> Probe:
    place = XTD_PLACE.get(language, "XTD10")
    files = (
        File("xtd10/XTD10/test_image_names.txt", hint=XTD10),
        File(f"xtd10/{place}/test_1kcaptions_{language}.txt", hint=XTD10),
        VAL2014,
        TRAIN2014,
    )
    source = Source("original", files, partial(read_xtd, language=language, place=place))
    return _retrieval(
        f"xtd-{language}", f"XTD, {language}", "arXiv:2012.05107", source, published=XTD[language], lead=10
    )


RETRIEVAL = (
    _retrieval(
        "flickr30k",
        "Flickr30k, Karpathy test",
        "arXiv:1505.04870",
        _flickr("flickr30k_test_karpathy.txt", SPLITS),
        _wds_captions("flickr30k"),
        published=RECALLS["flickr30k"],
    ),
    _retrieval(
        "flickr30k-cn",
        "Flickr30k-CN",
        "arXiv:1708.04390",
        _flickr("flickr30k_cn_test.txt", RELEASE),
        published=RECALLS["flickr30k-cn"],
    ),
    _retrieval(
        "coco",
        "COCO, Karpathy test",
        "arXiv:1504.00325",
        _coco("coco_test_karpathy.json", SPLITS, "coco/val2014", VAL2014),
        _wds_captions("mscoco_captions"),
        published=RECALLS["coco"],
    ),
    _retrieval(
        "coco-cn",
        "COCO-CN",
        "arXiv:1805.08661",
        _coco("coco-cn_test.json", RELEASE, "coco", VAL2014, TRAIN2014),
        published=RECALLS["coco-cn"],
    ),
    *(_xtd(language) for language in XTD),
)


def _msrvtt(frames: int) -> Probe:
    files = (
        File("msrvtt/metadata.json", hint='a list of {"video": "video7010.mp4", "caption": "…"}, one caption a video'),
        File(
            "msrvtt/videos",
            hint="the videos of https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language",
        ),
    )
    return Probe(
        name="retrieval-msrvtt" + ("-8frames" if frames > 1 else ""),
        title="MSR-VTT" + (", 8 frames" if frames > 1 else ""),
        paper="https://doi.org/10.1109/CVPR.2016.571",
        group="embeddings",
        kind="retrieval",
        fit="crop",
        sources=(Source("original", files, partial(read_videos, name="msrvtt/metadata.json", videos="msrvtt/videos")),),
        mark=mark_found,
        summarise=found_figures("v2t_retrieval", "t2v_retrieval"),
        settings=Settings(frames=frames),
        note="Plain ranking. With --compat original by the dual softmax, which the published program always uses: it "
        "draws on all queries of the test set at once.",
    )


TASKS: tuple[Benchmark, ...] = (*RETRIEVAL, _msrvtt(1), _msrvtt(8))
