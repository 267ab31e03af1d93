"""Captions: the published layouts, the prompt to the letter, and figures with and without Java."""

import json

import pytest
from PIL import Image
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from internvl.errors import DataError
from internvl.evaluation.benchmark import Mark, Marked, Sample
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks import captions
from internvl.evaluation.tasks.captions import COCO, COCO_VAL, FLICKR30K, NOCAPS, TASKS, caption_figures, mark_caption
from internvl.metrics import caption_tools
from internvl.metrics.captions import tokenise

JAVA_IS_ABSENT = "Java is not installed (apt-get install default-jre-headless)"


@pytest.fixture
def without_java(monkeypatch):
    monkeypatch.setattr(captions, "missing", lambda tool: JAVA_IS_ABSENT)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco(root, names=("COCO_val2014_000000391895.jpg", "COCO_val2014_000000060623.jpg")):
    for name in names:
        picture(root / "coco/val2014" / name)
    write(root / "coco/annotations/coco_karpathy_test.json", [{"image": f"val2014/{name}"} for name in names])
    annotations = [
        {"image_id": 391895, "id": 1, "caption": "A man with a red helmet on a small moped."},
        {"image_id": 60623, "id": 2, "caption": "A young girl inhales."},
        {"image_id": 391895, "id": 3, "caption": "Man riding a motor bike."},
        {"image_id": 7, "id": 4, "caption": "Of a picture that is not asked about."},
    ]
    write(root / "coco/annotations/coco_karpathy_test_gt.json", {"annotations": annotations, "images": []})


def test_coco_in_the_original_layout(tmp_path):
    coco(tmp_path)
    folder, [source] = Folder(tmp_path), COCO.sources
    assert all(map(folder.has, source.files))
    first, second = source.read(folder)
    assert (first.id, second.id) == ("391895", "60623")
    assert first.prompt == "Provide a one-sentence caption for the provided image."
    assert first.answer == ["A man with a red helmet on a small moped.", "Man riding a motor bike."]
    assert first.pictures[0].name == "coco/val2014/COCO_val2014_000000391895.jpg"
    assert first.pictures[0].read()[:2] == b"\xff\xd8"
    assert (COCO.settings.max_new_tokens, COCO.settings.min_new_tokens, COCO.settings.max_tiles) == (30, 8, 6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["COCO_val2014_000000391895.jpg"] * 2, r"coco_karpathy_test.json\[1\]: picture 391895 a second time"),
        (["COCO_val2014_000000000009.jpg"], "picture 9 has no caption"),
        (["moped.jpg"], "expected a name that ends in a number"),
    ],
)
def test_coco_files_that_do_not_fit(tmp_path, names, message):
    coco(tmp_path, names)
    with pytest.raises(DataError, match=message):
        list(COCO.sources[0].read(Folder(tmp_path)))


def test_flickr30k_and_nocaps_in_the_original_layout(tmp_path):
    picture(tmp_path / "flickr30k/Images/1007129816.jpg")
    flickr = {
        "images": [{"id": 0, "image": "Images/1007129816.jpg"}],
        "annotations": [{"image_id": 0, "caption": "The man with pierced ears."}],
    }
    write(tmp_path / "flickr30k/flickr30k_test_karpathy.json", flickr)
    picture(tmp_path / "nocaps/images/0013ea2087020901.jpg")
    nocaps = {
        "images": [{"id": 0, "file_name": "0013ea2087020901.jpg", "domain": "near-domain"}],
        "annotations": [{"image_id": 0, "caption": "A baby is standing in front of a house."}],
    }
    write(tmp_path / "nocaps/nocaps_val_4500_captions.json", nocaps)
    folder = Folder(tmp_path)
    [one] = FLICKR30K.sources[0].read(folder)
    assert (one.id, one.answer, one.pictures[0].name) == (
        "0",
        ["The man with pierced ears."],
        "flickr30k/Images/1007129816.jpg",
    )
    [one] = NOCAPS.sources[0].read(folder)
    assert (one.facts, one.pictures[0].name) == ({"domain": "near-domain"}, "nocaps/images/0013ea2087020901.jpg")
    assert all(folder.has(file) for task in (FLICKR30K, NOCAPS) for file in task.sources[0].files)


def test_coco_as_vlmevalkit_has_it(tmp_path):
    import base64
    import io

    data = io.BytesIO()
    Image.new("RGB", (8, 6)).save(data, "PNG")
    image = base64.b64encode(data.getvalue()).decode()
    rows = ["index\timage\tanswer", f"0\t{image}\t\"['A bus.', 'It''s red.']\""]
    (tmp_path / "COCO_VAL.tsv").write_text("\n".join(rows) + "\n")
    [one] = COCO_VAL.sources[0].read(Folder(tmp_path))
    assert one.answer == ["A bus.", "Its red."]
    assert one.prompt == (
        "Please describe this image in general. Directly provide the description, do not include prefix like "
        '"This image depicts". '
    )
    (tmp_path / "COCO_VAL.tsv").write_text(f"index\timage\tanswer\n0\t{image}\t__import__('os').getcwd()\n")
    with pytest.raises(DataError, match="expected a list of texts"):
        list(COCO_VAL.sources[0].read(Folder(tmp_path)))


SAID = ["A man on a red moped.", "a girl  brushing her teeth", "Two dogs play."]
KNOWN = [
    ["A man with a red helmet on a small moped.", "Man riding a motor bike."],
    ["A young girl brushing her teeth."],
    ["Three cats sleep."],
]


def rows(facts=({}, {}, {})):
    found = []
    for place, (said, known) in enumerate(zip(SAID, KNOWN, strict=True)):
        sample = Sample(id=str(place), prompt="", answer=known, facts=facts[place])
        found.append(Marked(sample, said, mark_caption(sample, said, compat=None)))
    return found


@pytest.mark.usefixtures("without_java")
def test_figures_without_java_say_so():
    scores = caption_figures()(rows())
    known = {i: [" ".join(tokenise(text)) for text in texts] for i, texts in enumerate(KNOWN)}
    said = {i: [" ".join(tokenise(text))] for i, text in enumerate(SAID)}
    expected = {"CIDEr": Cider().compute_score(known, said)[0], "ROUGE_L": Rouge().compute_score(known, said)[0]}
    expected |= {f"BLEU{n}": value for n, value in enumerate(Bleu(4).compute_score(known, said)[0], start=1)}
    figures = {name: 100 * value for name, value in expected.items()} | {"words": (6 + 5 + 3) / 3}
    assert next(iter(scores.values)) == "CIDEr"
    assert dict(scores.values) == pytest.approx(figures, abs=1e-9)
    assert dict(scores.withheld) == {
        "PTB tokens": f"{JAVA_IS_ABSENT}: words were split by a plain rule",
        "METEOR": JAVA_IS_ABSENT,
        "SPICE": JAVA_IS_ABSENT,
    }


def test_figures_with_java(monkeypatch):
    """Java is started once for all captions, and not again for figures of a part of them."""
    started = []

    def tokens(texts):
        started.append(("tokenizer", len(texts)))
        return [("ptb", *text.lower().split()) for text in texts]

    def counts(candidates, references):
        started.append(("meteor", len(candidates)))
        return [(4.0, 4.0, 0, 0, 2.0, 2.0, *[0] * 14, 1.0, 2.0, 2.0)] * len(candidates)

    monkeypatch.setattr(captions, "missing", lambda tool: "no models" if tool == "spice" else None)
    monkeypatch.setattr(captions, "ptb_tokenise", tokens)
    monkeypatch.setattr(captions, "meteor_counts", counts)
    figures = caption_figures()
    scores = figures(rows())
    assert scores.values["METEOR"] == pytest.approx(100 * 0.5 * (1 - 0.6 * 0.5**0.2))
    assert scores.values["BLEU1"] > 30  # every caption shares the token `ptb`
    assert dict(scores.withheld) == {"SPICE": "no models"}
    figures(rows()[1:])
    assert started == [("tokenizer", 7), ("meteor", 3)]
    monkeypatch.setattr(captions, "missing", lambda tool: None)
    monkeypatch.setattr(captions, "spice", lambda said, known: 0.25)
    assert figures(rows()).values["SPICE"] == 25.0


@pytest.mark.usefixtures("without_java")
def test_parts_of_nocaps():
    domains = ({"domain": "in"}, {"domain": "out"}, {"domain": "in"})
    scores = NOCAPS.summarise(rows(domains))
    inside = caption_figures()([row for row in rows(domains) if row.sample.facts["domain"] == "in"])
    assert scores.groups["domain"] == {"in": inside.values["CIDEr"], "out": 0.0}


def test_a_mark_is_the_rouge_of_one_caption():
    sample = Sample(id="1", prompt="", answer=["A red bus."])
    assert mark_caption(sample, " a red bus", compat=None) == Mark(1.0, "a red bus", {"words": 3})
    assert mark_caption(sample, "", compat=None).score == 0.0
    assert mark_caption(sample, "two dogs", compat="original").score == 0.0


def test_nothing_to_score():
    assert caption_figures()([]).withheld == {"CIDEr": "there is no answer"}


def test_names_and_published_figures():
    assert [task.name for task in TASKS] == ["caption-coco", "caption-flickr30k", "caption-nocaps", "caption-coco-val"]
    known = {"CIDEr", "BLEU1", "BLEU2", "BLEU3", "BLEU4", "METEOR", "ROUGE_L", "words"}
    assert all(row.metric in known for task in TASKS for row in task.published)
    assert {row.value for row in COCO.published if row.metric == "CIDEr"} == {79.3, 128.18}
    assert caption_tools.COUNTED == 23
