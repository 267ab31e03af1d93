"""The data of zero-shot tasks in its published layouts, and what is wrong with files that are not so."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl.errors import DataError
from internvl.evaluation.folder import Folder
from internvl.evaluation.imagenet import IMAGENET_A, IMAGENET_R
from internvl.evaluation.rankings import Probe
from internvl.evaluation.tasks.retrieval import TASKS as RETRIEVALS
from internvl.evaluation.tasks.zeroshot import TASKS as CLASSIFICATIONS
from internvl.evaluation.zeroshot_data import (
    TEMPLATES,
    ClassSource,
    clip_templates,
    named_by_list,
    read_class_folders,
    read_wds,
    wds_classes,
    wds_shards,
)

TABLE = {task.name: task for task in (*CLASSIFICATIONS, *RETRIEVALS)}


def put(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def png(shade: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("L", (4, 3), shade).save(data, "PNG")
    return data.getvalue()


def source_of(name: str, root: Path):
    folder = Folder(root)
    return next(source for source in TABLE[name].sources if all(map(folder.has, source.files)))


def read(name: str, root: Path):
    return list(source_of(name, root).read(Folder(root)))


# ---- class folders ---------------------------------------------------------------------------------------------------


def test_imagenet_in_class_folders(tmp_path):
    for place in range(1000):
        (tmp_path / f"imagenet-1k/val/n{place:08}").mkdir(parents=True)
    put(tmp_path / "imagenet-1k/val/n00000007/ILSVRC2012_val_1.JPEG", png())
    put(tmp_path / "imagenet-1k/val/n00000007/notes.txt", "no picture")
    put(tmp_path / "clip_benchmark/en_classnames.json", {"imagenet1k": [f"name {place}" for place in range(1000)]})
    put(tmp_path / "clip_benchmark/en_zeroshot_classification_templates.json", {"imagenet1k": ["a {c}", "the {c}"]})
    [sample] = read("zeroshot-imagenet1k", tmp_path)
    assert (sample.id, sample.answer) == ("imagenet-1k/val/n00000007/ILSVRC2012_val_1.JPEG", 7)
    assert sample.facts == {"class": "n00000007"}
    source = source_of("zeroshot-imagenet1k", tmp_path)
    assert isinstance(source, ClassSource)
    classes = source.classes(Folder(tmp_path))
    assert (classes.names[7], len(classes.names), classes.templates) == ("name 7", 1000, ("a {c}", "the {c}"))
    (tmp_path / "imagenet-1k/val/n00001000").mkdir()
    with pytest.raises(DataError, match="imagenet-1k/val has 1001 folders; expected 1000"):
        read("zeroshot-imagenet1k", tmp_path)


def test_imagenet_in_another_language(tmp_path):
    put(tmp_path / "imagenet-1k/val/n0/1.jpeg", png())
    put(tmp_path / "clip_benchmark/cn_classnames.json", {"imagenet1k": ["丁鲷"]})
    folder, task = Folder(tmp_path), TABLE["zeroshot-imagenet1k-cn"]
    assert not any(all(map(folder.has, source.files)) for source in task.sources)  # templates have no stand-in
    put(tmp_path / "clip_benchmark/cn_zeroshot_classification_templates.json", {"imagenet1k": ["{c}的照片。"]})
    source = source_of(task.name, tmp_path)
    assert isinstance(source, ClassSource)
    assert source.classes(folder).names == ("丁鲷",)
    assert source.classes(folder).templates == ("{c}的照片。",)


def test_classes_of_imagenet_v2_are_numbers(tmp_path):
    for number in (0, 1, 2, 10):
        put(tmp_path / "v2" / str(number) / "a.png", png())
    with pytest.raises(DataError, match="v2/10: expected folders called 0 to 3"):
        list(read_class_folders(Folder(tmp_path), root="v2", numbered=True))
    (tmp_path / "v2/10").rename(tmp_path / "v2/3")
    samples = list(read_class_folders(Folder(tmp_path), root="v2", numbered=True))
    assert [sample.answer for sample in samples] == [0, 1, 2, 3]


def test_subsets_of_imagenet(tmp_path):
    """The goldfish (1) is in ImageNet-R only."""
    for numbers in (IMAGENET_A, IMAGENET_R):
        assert len(numbers) == len(set(numbers)) == 200
        assert list(numbers) == sorted(numbers)
        assert 0 <= numbers[0] < numbers[-1] < 1000
    assert (1 in IMAGENET_A, 1 in IMAGENET_R) == (False, True)
    put(tmp_path / "clip_benchmark/en_classnames.json", {"imagenet1k": [str(place) for place in range(1000)]})
    classes = named_by_list(Folder(tmp_path), key="imagenet1k", only=IMAGENET_A)
    assert classes.names[:3] == ("6", "11", "13")
    put(tmp_path / "clip_benchmark/en_classnames.json", {"imagenet1k": ["only one"]})
    with pytest.raises(DataError, match="`imagenet1k` has 1 names; expected 1000"):
        named_by_list(Folder(tmp_path), key="imagenet1k", only=IMAGENET_A)


def test_lists_that_are_not_there_or_no_lists(tmp_path):
    folder = Folder(tmp_path)
    assert clip_templates(folder, "mnist") == (TEMPLATES, "the package's own")
    with pytest.raises(DataError, match=r"jp_zeroshot.*CLIP_benchmark"):
        clip_templates(folder, "imagenet1k", "jp")
    put(tmp_path / "clip_benchmark/en_zeroshot_classification_templates.json", {"mnist": "a {c}"})
    with pytest.raises(DataError, match="`mnist` is no list of texts"):
        clip_templates(folder, "mnist")
    put(tmp_path / "clip_benchmark/en_zeroshot_classification_templates.json", [])
    with pytest.raises(DataError, match="is no JSON object"):
        clip_templates(folder, "mnist")
    put(tmp_path / "empty/a.png", png())
    with pytest.raises(DataError, match="empty has no folders; expected one for each class"):
        list(read_class_folders(folder, root="empty"))


def test_own_templates_have_a_place_for_the_class():
    assert all(template.count("{c}") == 1 for template in TEMPLATES)


# ---- WebDataset ------------------------------------------------------------------------------------------------------


def shards(root: Path, *archives: list[tuple[str, bytes]], kind: str | None = None) -> None:
    put(root / "test/nshards.txt", str(len(archives)))
    if kind:
        put(root / "dataset_type.txt", f"{kind}\n")
    for number, members in enumerate(archives):
        with tarfile.open(root / f"test/{number}.tar", "w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def table(*numbers: int) -> bytes:
    data = io.BytesIO()
    np.save(data, np.array(numbers))
    return data.getvalue()


def test_labels_in_webdataset_archives(tmp_path):
    root = tmp_path / "wds_mnist"
    first = [("s0000000.png", png(1)), ("s0000000.cls", b"7"), ("s0000001.cls", b"2\n"), ("s0000001.webp", png(2))]
    shards(root, first, [("s0000002.png", png(3)), ("s0000002.cls", b"0")])
    put(root / "classnames.txt", "\n".join(map(str, range(10))) + "\n")
    samples = read("zeroshot-mnist", tmp_path)
    assert [sample.answer for sample in samples] == [7, 2, 0]
    assert [sample.id for sample in samples] == [
        "wds_mnist/test/0.tar/s0000000",
        "wds_mnist/test/0.tar/s0000001",
        "wds_mnist/test/1.tar/s0000002",
    ]
    assert [sample.pictures[0].read() for sample in samples] == [png(1), png(2), png(3)]
    folder = Folder(tmp_path)
    assert wds_classes(folder, root="wds_mnist", key="mnist").templates == TEMPLATES
    put(root / "zeroshot_classification_templates.txt", 'a photo of the number: "{c}".\n')
    classes = wds_classes(folder, root="wds_mnist", key="mnist")
    assert classes.templates == ('a photo of the number: "{c}".',)
    assert len(classes.names) == 10


def test_several_labels_in_webdataset_archives(tmp_path):
    root = tmp_path / "wds_voc2007_multilabel"
    shards(root, [("a/1.jpg", png()), ("a/1.npy", table(0, 1, 0, 1))], kind="multilabel")
    put(root / "classnames.txt", "w\nx\ny\nz")
    [sample] = read("zeroshot-voc2007-multilabel", tmp_path)
    assert (sample.id, sample.answer) == ("wds_voc2007_multilabel/test/0.tar/a/1", [1, 3])


def test_captions_in_webdataset_archives(tmp_path):
    members = [("s0.png", png()), ("s0.txt", b"A Dog!\nanother dog")]
    shards(tmp_path / "wds_flickr30k", members, kind="retrieval")
    image, *texts = read("retrieval-flickr30k", tmp_path)
    assert image.answer == ["text:0", "text:1"]
    assert [text.prompt for text in texts] == ["a dog", "another dog"]
    shards(tmp_path / "wds_flickr30k", members, kind="classification")
    with pytest.raises(DataError, match="says 'classification'; expected retrieval"):
        read("retrieval-flickr30k", tmp_path)


@pytest.mark.parametrize(
    ("members", "kind", "message"),
    [
        ([("a.png", png())], None, "0.tar/a: there is no `.cls` beside the picture"),
        ([("a.png", png()), ("a.cls", b"cat")], None, "0.tar/a: its label is b'cat'; expected a class number"),
        ([("a.png", png()), ("a.cls", b"9" * 2**21)], None, "0.tar/a.cls: 2097152 bytes; expected a label or captions"),
        ([("a.png", png()), ("a.npy", b"cat")], "multilabel", "0.tar/a: its labels are no table of numbers"),
        ([("a.png", png()), ("a.npy", table()[:40])], "multilabel", "its labels are no table of numbers"),
        ([("a.png", png())], "pairs", "dataset_type.txt says 'pairs'; expected classification or multilabel"),
    ],
)
def test_archives_that_do_not_fit(tmp_path, members, kind, message):
    shards(tmp_path / "wds", members, kind=kind)
    with pytest.raises(DataError, match=message):
        list(read_wds(Folder(tmp_path), root="wds"))


def test_a_pickle_in_a_label_table_is_refused(tmp_path):
    data = io.BytesIO()
    np.save(data, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    shards(tmp_path / "wds", [("a.png", png()), ("a.npy", data.getvalue())], kind="multilabel")
    with pytest.raises(DataError, match="its labels are no table of numbers"):
        list(read_wds(Folder(tmp_path), root="wds"))


def test_archives_that_are_damaged_or_missing(tmp_path):
    folder = Folder(tmp_path)
    put(tmp_path / "wds/test/nshards.txt", "2")
    put(tmp_path / "wds/test/0.tar", b"no archive at all" * 100)
    with pytest.raises(DataError, match=r"wds/test/0.tar: cannot be read as a tar archive"):
        list(wds_shards(folder, "wds"))
    shards(tmp_path / "wds", [("a.png", png()), ("a.cls", b"1")])
    put(tmp_path / "wds/test/nshards.txt", "2")
    with pytest.raises(DataError, match=r"'wds/test/1.tar' is not in"):
        list(wds_shards(folder, "wds"))
    put(tmp_path / "wds/test/nshards.txt", "many")
    with pytest.raises(DataError, match=r"nshards.txt says 'many'; expected the number of archives"):
        list(wds_shards(folder, "wds"))


# ---- captions --------------------------------------------------------------------------------------------------------


def test_flickr30k_and_its_chinese_version(tmp_path):
    for name in ("10.jpg", "9.jpg"):
        put(tmp_path / "flickr30k/Images" / name, png())
    english = "image,caption\n10.jpg,A man, in.jpg, a hat.\n9.jpg,Dogs.\n\n10.jpg,Second.\n"
    put(tmp_path / "flickr30k/flickr30k_test_karpathy.txt", english)
    put(tmp_path / "flickr30k/flickr30k_cn_test.txt", "image,caption\n9.jpg,一只狗。\n10.jpg,一个男人。\n")
    ten, nine, *texts = read("retrieval-flickr30k", tmp_path)
    assert (ten.id, ten.answer, nine.answer) == (
        "image:flickr30k/Images/10.jpg",
        ["text:0", "text:1"],
        ["text:2"],
    )
    assert [text.prompt for text in texts] == ["a man, in jpg, a hat", "second", "dogs"]
    assert [text.answer for text in texts] == [[ten.id], [ten.id], [nine.id]]
    assert [sample.prompt for sample in read("retrieval-flickr30k-cn", tmp_path)][2:] == ["一只狗。", "一个男人。"]
    put(tmp_path / "flickr30k/flickr30k_test_karpathy.txt", "image,caption\n10.png,A man.\n")
    with pytest.raises(DataError, match=r"flickr30k_test_karpathy.txt:2: is '10.png,A man.'; expected `picture.jpg"):
        read("retrieval-flickr30k", tmp_path)
    put(tmp_path / "flickr30k/flickr30k_test_karpathy.txt", b"image,caption\n10.jpg,\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read("retrieval-flickr30k", tmp_path)


def test_coco_and_its_chinese_version(tmp_path):
    put(tmp_path / "coco/val2014/b.jpg", png())
    put(tmp_path / "coco/train2014/a.jpg", png())
    annotations = [{"image_id": 5, "caption": "Two Dogs."}, {"image_id": 5, "caption": "dogs"}]
    english = {"images": [{"id": 5, "file_name": "b.jpg"}], "annotations": annotations}
    put(tmp_path / "coco/coco_test_karpathy.json", english)
    image, *texts = read("retrieval-coco", tmp_path)
    assert (image.id, [text.prompt for text in texts]) == ("image:coco/val2014/b.jpg", ["two dogs", "dogs"])
    chinese = {
        "images": [{"id": 9, "file_name": "train2014/a.jpg"}, {"id": 5, "file_name": "val2014/b.jpg"}],
        "annotations": [{"image_id": 9, "caption": "飞机。"}, {"image_id": 5, "caption": "狗"}],
    }
    put(tmp_path / "coco/coco-cn_test.json", chinese)
    five, nine, *texts = read("retrieval-coco-cn", tmp_path)
    assert (five.id, nine.id) == ("image:coco/val2014/b.jpg", "image:coco/train2014/a.jpg")
    assert [text.prompt for text in texts] == ["狗", "飞机。"]
    put(tmp_path / "coco/coco_test_karpathy.json", {**english, "annotations": []})
    with pytest.raises(DataError, match=r"coco/val2014/b.jpg: this picture has no caption"):
        read("retrieval-coco", tmp_path)


@pytest.mark.parametrize(("language", "place"), [("es", "XTD10"), ("jp", "STAIR"), ("fr", "MIC")])
def test_xtd(tmp_path, language, place):
    names = ["COCO_val2014_000000000001.jpg", "COCO_train2014_000000000002.jpg"]
    put(tmp_path / "coco/val2014" / names[0], png())
    put(tmp_path / "coco/train2014" / names[1], png())
    put(tmp_path / "xtd10/XTD10/test_image_names.txt", "\n".join(names))
    put(tmp_path / f"xtd10/{place}/test_1kcaptions_{language}.txt", "Un Perro.\nDos gatos.\n")
    one, two, *texts = read(f"retrieval-xtd-{language}", tmp_path)
    assert [one.pictures[0].name, two.pictures[0].name] == [f"coco/val2014/{names[0]}", f"coco/train2014/{names[1]}"]
    assert [text.prompt for text in texts] == ["Un Perro.", "Dos gatos."]  # not cleaned, as published
    put(tmp_path / f"xtd10/{place}/test_1kcaptions_{language}.txt", "Un Perro.\n")
    with pytest.raises(DataError, match=r"1 captions for the 2 pictures of .*test_image_names.txt"):
        read(f"retrieval-xtd-{language}", tmp_path)


def test_videos_and_their_captions(tmp_path):
    put(tmp_path / "msrvtt/videos/video7010.mp4", b"a film")
    rows = [{"video": "video7010.mp4", "caption": "A Cat plays."}]
    put(tmp_path / "msrvtt/metadata.json", rows)
    video, text = read("retrieval-msrvtt", tmp_path)
    assert (video.answer, text.answer, text.prompt) == (["text:0"], ["video:0"], "A Cat plays.")
    assert video.footage.name == "msrvtt/videos/video7010.mp4"
    put(tmp_path / "msrvtt/metadata.json", [{"video": "../secret.mp4", "caption": "x"}])
    with pytest.raises(DataError, match=r"metadata.json\[0\]: .*leads out of the data folder"):
        read("retrieval-msrvtt", tmp_path)


# ---- the tables ------------------------------------------------------------------------------------------------------


def test_what_every_probe_has():
    assert len(TABLE) == len(CLASSIFICATIONS) + len(RETRIEVALS)
    for task in TABLE.values():
        assert isinstance(task, Probe)
        assert task.group == "embeddings"
        assert task.fit == ("stretch" if task.name.startswith("retrieval") and "msrvtt" not in task.name else "crop")
        for source in task.sources:
            assert isinstance(source, ClassSource) == (task.kind == "classification")
        assert all(0 < row.value <= 100 for row in task.published)


def test_published_scores_are_those_of_the_tables():
    """Averages that were printed beside them come out again."""

    def values(name, mode=""):
        return [row.value for row in TABLE[f"retrieval-{name}"].published if row.options == mode]

    g = "--mode G"
    assert round(np.mean([*values("flickr30k"), *values("coco")]), 1) == 86.6
    assert round(np.mean([*values("flickr30k", g), *values("coco", g)]), 1) == 88.8
    assert round(np.mean([*values("flickr30k-cn"), *values("coco-cn")]), 1) == 89.0
    assert round(np.mean([*values("flickr30k-cn", g), *values("coco-cn", g)]), 1) == 90.9
    ten = {
        task.name: [r.value for r in task.published if r.metric == "text_retrieval_recall@10"] for task in RETRIEVALS
    }
    spoken = [ten[f"retrieval-xtd-{language}"] for language in ("en", "es", "fr", "zh", "it", "ko", "ru", "jp")]
    assert np.mean(spoken, axis=0).round(1).tolist() == [95.1, 96.6]
    first = {task.name: task.published[0].value for task in CLASSIFICATIONS if task.published}
    variants = ("imagenet1k", "imagenet-a", "imagenet-r", "imagenetv2", "imagenet-sketch", "objectnet")
    assert round(np.mean([first[f"zeroshot-{name}"] for name in variants]), 1) == 82.4
    languages = ("imagenet1k", "imagenet1k-cn", "imagenet1k-jp", "imagenet1k-ar", "imagenet1k-it")
    assert (
        round(np.mean([first[f"zeroshot-{name}"] for name in languages]), 1) == 63.9
    )  # printed as 64.0, of rounded ones
