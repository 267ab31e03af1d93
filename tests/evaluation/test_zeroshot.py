"""Zero-shot classification and retrieval on the tiny InternVL-14B: the figures are those computed by hand."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from internvl.data.image import normalise
from internvl.data.pair import encode_picture
from internvl.errors import DataError, UsageError
from internvl.evaluation.benchmark import Benchmark, Marked, Sample, Settings
from internvl.evaluation.folder import Folder
from internvl.evaluation.manifest import begin
from internvl.evaluation.planning import plan
from internvl.evaluation.rankings import KS, class_figures, classes_figures, mark_class, mark_classes, mark_found
from internvl.evaluation.responders import Asked
from internvl.evaluation.runner import answer_all
from internvl.evaluation.scoring import score_run
from internvl.evaluation.tasks.captions import COCO
from internvl.evaluation.tasks.retrieval import TASKS as RETRIEVALS
from internvl.evaluation.tasks.zeroshot import TASKS as CLASSIFICATIONS
from internvl.evaluation.zeroshot import PairResponder, frame_numbers, responder_of
from internvl.evaluation.zeroshot_data import TEMPLATES
from internvl.inference.embed import Embedder
from internvl.metrics.classification import zero_shot_weights
from internvl.metrics.retrieval import dual_softmax, recalls
from tests.conftest import golden

TABLE = {task.name: task for task in (*CLASSIFICATIONS, *RETRIEVALS)}
NAMES = ("red", "green", "blue", "yellow", "white", "black")
CAPTIONS = ["A Red picture.", "the green one!", "a picture", "something blue (dark)", "a yellow field", "so; white"]
UNIT = 2e-6
"""Worst seen: 3.0e-7."""


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(golden("checkpoints/internvl-14b"), dtype="float32", device="cpu")


def picture(path: Path, seed: int) -> Path:
    """A picture like no other."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (50 + 9 * seed, 64), tuple(map(int, rng.integers(0, 256, 3))))
    ImageDraw.Draw(image).ellipse((4, 6, 30, 20 + seed), fill=tuple(map(int, rng.integers(0, 256, 3))))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def ask(name, root, embedder, **settings):
    """The rows of a probe, answered and marked, without a runner."""
    probe = TABLE[name]
    folder = Folder(root)
    source = next(source for source in probe.sources if all(map(folder.has, source.files)))
    samples = list(source.read(folder))
    assert len({sample.id for sample in samples}) == len(samples)
    responder = responder_of(PairResponder(embedder, name="tiny", batch_size=4), probe, root)
    asked = [Asked(sample, Settings(**settings)) for sample in samples]
    replies = {reply.asked.sample.id: reply.text for reply in responder.answer(iter(asked))}
    assert len(replies) == len(samples)
    return [(sample, replies[sample.id]) for sample in samples]


def marked(name, answered, compat=None):
    probe = TABLE[name]
    return [Marked(sample, answer, probe.mark(sample, answer, compat=compat)) for sample, answer in answered]


# ---- classification --------------------------------------------------------------------------------------------------


@pytest.fixture
def colours(tmp_path):
    for place, name in enumerate(NAMES):
        for number in range(3):
            picture(tmp_path / "zeroshot-folder" / name / f"{number}.png", 3 * place + number)
    return tmp_path


def test_classification_by_hand(colours, embedder):
    answered = ask("zeroshot-folder", colours, embedder)
    names = sorted(NAMES)
    texts = embedder.texts([template.replace("{c}", name) for name in names for template in TEMPLATES])
    weights = zero_shot_weights(texts.numpy(), len(names))
    files = [colours / "zeroshot-folder" / name / f"{number}.png" for name in names for number in range(3)]
    scores = embedder.images(files).numpy() @ weights
    targets = [place for place in range(len(names)) for _ in range(3)]
    order = np.argsort(-scores, axis=1, kind="stable")
    for (sample, answer), best, target in zip(answered, order, targets, strict=True):
        assert sample.answer == target
        assert json.loads(answer)["ranked"] == best[:5].tolist()
        assert json.loads(answer)["names"] == [names[label] for label in best[:5]]
    figures = class_figures(marked("zeroshot-folder", answered))
    hits = order[:, 0] == targets
    assert figures.values["acc1"] == pytest.approx(100 * hits.mean())
    assert figures.values["acc5"] == pytest.approx(100 * (order[:, :5] == np.array(targets)[:, None]).any(1).mean())
    assert figures.values["mean_per_class_recall"] == pytest.approx(100 * hits.reshape(len(names), 3).mean(1).mean())
    assert figures.withheld["published templates"].startswith("classes were named with 5, the package's own")


def test_templates_of_clip_benchmark_are_used_where_they_are(colours, embedder):
    lists = colours / "clip_benchmark"
    lists.mkdir()
    (lists / "en_zeroshot_classification_templates.json").write_text(json.dumps({"imagenet1k": ["itap of a {c}."]}))
    answered = ask("zeroshot-folder", colours, embedder)
    best = json.loads(answered[0][1])
    assert best["templates"] == "1, clip_benchmark/en_zeroshot_classification_templates.json, imagenet1k"
    weights = embedder.classifier(sorted(NAMES), ["itap of a {c}."])
    scores = embedder.images([colours / "zeroshot-folder/black/0.png"]) @ weights
    assert best["ranked"] == scores[0].argsort(descending=True)[:5].tolist()
    assert "published templates" not in class_figures(marked("zeroshot-folder", answered)).withheld


def test_the_mean_recall_of_classes_is_not_the_accuracy():
    """Three of class 0, all right; one of class 1, wrong."""
    said = [(Sample(id=str(i), prompt="", answer=int(i == 3)), '{"ranked": [0, 1]}') for i in range(4)]
    found = class_figures([Marked(sample, answer, mark_class(sample, answer, compat=None)) for sample, answer in said])
    assert found.values == {"acc1": 75.0, "mean_per_class_recall": 50.0}
    assert found.withheld == {"acc5": "there are fewer than five classes"}


def test_several_classes_a_picture():
    said = [([0, 1], [0.9, 0.1, 0.0]), ([0], [0.2, 0.8, 0.0])]
    for compat, expected in ((None, 100 * (1 + 1 / 2) / 2), ("original", 100 * (1 + 1 / 2 + 0) / 3)):
        rows = []
        for place, (labels, scores) in enumerate(said):
            sample, answer = Sample(id=str(place), prompt="", answer=labels), json.dumps({"scores": scores})
            rows.append(Marked(sample, answer, mark_classes(sample, answer, compat=compat)))
        assert [row.mark.score for row in rows] == [1.0, 0.0]
        assert classes_figures(rows).values["mean_average_precision"] == pytest.approx(expected)


NO_RANKINGS = [
    "Yes", "", "[1]", "{}", '{"ranked": []}', '{"ranked": 5, "scores": 5}', '{"ranked": {"a": 1}, "scores": "all"}',
    '{"ranked": [[1]], "scores": [[1]]}', '{"ranked": [null], "scores": [null]}', '{"scores": [NaN]}',
    '{"ranked": [true], "scores": [true, false]}', '{"scores": ["1", "0"]}', '{"scores": [1e999, 0]}',
    '{"ranked": [1.5], "scores": [1' + "0" * 400 + "]}", '{"dual_softmax": 5}', "[" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("answer", NO_RANKINGS)
@pytest.mark.parametrize("compat", [None, "original"])
def test_what_is_no_ranking_has_no_mark(answer, compat):
    sample = Sample(id="1", prompt="", answer=[0], facts={"side": "text"})
    for mark in (mark_class, mark_found, mark_classes):
        assert mark(sample, answer, compat=compat).score is None
    for name in ("zeroshot-folder", "zeroshot-voc2007-multilabel", "retrieval-coco"):
        scores = TABLE[name].summarise(marked(name, [(sample, answer)]))
        assert not scores.values
        assert list(scores.withheld.values()) == ["1 of 1 answers are no rankings: 1"]


def test_what_is_no_ranking_is_counted_and_named():
    good, bad = '{"scores": [0.1, 0.9]}', '{"scores": [0.1, 0.9, 0.3]}'
    answers = [(Sample(id=f"q{n}", prompt="", answer=[1]), good if n else bad) for n in range(4)]
    name = "zeroshot-voc2007-multilabel"
    said = TABLE[name].summarise(marked(name, answers)).withheld["mean_average_precision"]
    assert said == "1 of 4 answers have scores for another number of classes than 2: q0"
    answers = [(Sample(id=f"q{n}", prompt="", answer=0), "?" if n else '{"ranked": [0]}') for n in range(9)]
    [said] = TABLE["zeroshot-folder"].summarise(marked("zeroshot-folder", answers)).withheld.values()
    assert said == "8 of 9 answers are no rankings: q1, q2, q3, q4, q5 and 3 more"


def test_a_class_without_a_name(colours, embedder):
    samples = [Sample(id="1", prompt="", answer=6)]
    responder = responder_of(PairResponder(embedder, name="tiny"), TABLE["zeroshot-folder"], colours)
    with pytest.raises(DataError, match="sample 1: its class is number 6, but there are names for 6"):
        list(responder.answer(Asked(sample, Settings()) for sample in samples))


def test_a_damaged_picture_is_named(colours, embedder):
    (colours / "zeroshot-folder/red/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"^zeroshot-folder/red/1.png: this is no picture of a known format"):
        ask("zeroshot-folder", colours, embedder)


# ---- retrieval -------------------------------------------------------------------------------------------------------


@pytest.fixture
def flickr(tmp_path):
    """Three pictures with two captions each, one of which two pictures share."""
    rows = ["image,caption"]
    for place in range(3):
        picture(tmp_path / f"flickr30k/Images/{place}.jpg", place)
        rows += [f"{place}.jpg,{CAPTIONS[2 * place]}", f'{place}.jpg,"{CAPTIONS[2 * place + 1]}, yes"']
    rows.append("0.jpg,a picture")
    (tmp_path / "flickr30k/flickr30k_test_karpathy.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("mode", ["InternVL-C", "InternVL-G"])
def test_retrieval_by_hand(flickr, embedder, mode):
    look = Embedder(embedder.model, embedder.tokenizer, mode=mode, fit="stretch")
    answered = ask("retrieval-flickr30k", flickr, Embedder(embedder.model, embedder.tokenizer, mode=mode))
    texts = [sample for sample, _ in answered if sample.facts["side"] == "text"]
    shown = [sample for sample, _ in answered if sample.facts["side"] == "image"]
    assert [sample.id for sample in shown] == [f"image:flickr30k/Images/{place}.jpg" for place in range(3)]
    assert [len(sample.answer) for sample in shown] == [3, 2, 2]
    assert texts[0].prompt == "a red picture"
    scores = (
        look.texts([sample.prompt for sample in texts])
        @ look.images([flickr / f"flickr30k/Images/{place}.jpg" for place in range(3)]).T
    )
    places = {sample.id: place for place, sample in enumerate(shown)}
    expected = recalls(scores.numpy(), [places[sample.answer[0]] for sample in texts], KS)
    found = TABLE["retrieval-flickr30k"].summarise(marked("retrieval-flickr30k", answered))
    assert next(iter(found.values)) == "text_retrieval_recall@1"
    assert dict(found.values) == pytest.approx({name: 100 * value for name, value in expected.items()})
    assert 0 < found.values["image_retrieval_recall@1"] < 100  # a test of something


def test_a_part_of_the_queries_looks_among_all_candidates(flickr, embedder):
    every = {sample.id: answer for sample, answer in ask("retrieval-flickr30k", flickr, embedder)}
    probe = TABLE["retrieval-flickr30k"]
    samples = list(probe.sources[0].read(Folder(flickr)))
    responder = responder_of(PairResponder(embedder, name="tiny"), probe, flickr)
    part = [Asked(sample, Settings()) for sample in (samples[4], samples[0])]
    found = {reply.asked.sample.id: reply.text for reply in responder.answer(iter(part))}
    assert found == {one.sample.id: every[one.sample.id] for one in part}
    assert list(responder.answer(iter([]))) == []


def test_each_picture_and_text_is_embedded_once(flickr, embedder, monkeypatch):
    seen = {"pictures": 0, "texts": []}
    images, texts = embedder.model.encode_image, embedder.model.encode_text

    def look(pixels, **named):
        seen["pictures"] += len(pixels)
        return images(pixels, **named)

    def read(ids):
        seen["texts"] += [tuple(row.tolist()) for row in ids]
        return texts(ids)

    monkeypatch.setattr(embedder.model, "encode_image", look)
    monkeypatch.setattr(embedder.model, "encode_text", read)
    answered = ask("retrieval-flickr30k", flickr, embedder)
    assert len(answered) == 10
    assert seen["pictures"] == 3
    assert len(seen["texts"]) == len(set(seen["texts"])) == 6  # seven captions, `a picture` twice


def test_figures_of_one_direction_only(flickr, embedder):
    answered = [row for row in ask("retrieval-flickr30k", flickr, embedder) if row[0].facts["side"] == "text"]
    found = TABLE["retrieval-flickr30k"].summarise(marked("retrieval-flickr30k", answered))
    assert set(found.values) == {f"image_retrieval_recall@{k}" for k in KS}
    assert set(found.withheld) == {f"text_retrieval_recall@{k}" for k in KS}


# ---- videos ----------------------------------------------------------------------------------------------------------


def film(path: Path, seed: int, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height = 64, 64
        for _ in range(frames):
            shade = rng.integers(0, 256, (64, 64, 3)) // 2 + rng.integers(0, 128, 3)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(shade.astype(np.uint8))))
        file.mux(stream.encode())


@pytest.fixture
def msrvtt(tmp_path):
    rows = []
    for place in range(4):
        film(tmp_path / f"msrvtt/videos/video{place}.mp4", place, 9 + place)
        rows.append({"video": f"video{place}.mp4", "caption": CAPTIONS[place]})
    (tmp_path / "msrvtt/metadata.json").write_text(json.dumps(rows))
    return tmp_path


def frames_of(path, numbers):
    with av.open(str(path)) as file:
        frames = [frame.to_image() for frame in file.decode(video=0)]
    return [frames[number] for number in numbers]


@pytest.mark.parametrize("count", [1, 4])
def test_videos_by_hand_with_and_without_the_dual_softmax(msrvtt, embedder, count):
    answered = ask("retrieval-msrvtt", msrvtt, embedder, frames=count)
    rows = []
    for place in range(4):
        length = 9 + place
        step = -(-length // count)
        numbers = [start + step // 2 for start in range(0, length, step)]
        if len(numbers) != count or numbers[-1] >= length:
            numbers = frame_numbers(length, 8.0, count=count)
        frames = frames_of(msrvtt / f"msrvtt/videos/video{place}.mp4", numbers)
        tiles = normalise(torch.from_numpy(np.stack([encode_picture(frame, size=56) for frame in frames])))
        with torch.inference_mode():
            rows.append(F.normalize(embedder.model.encode_image(tiles, mode="InternVL-C").mean(0), dim=0))
    scores = (embedder.texts(CAPTIONS[:4]) @ torch.stack(rows).T).numpy()
    own = list(range(4))
    for compat, captions, videos in (
        (None, scores, scores.T),
        ("original", dual_softmax(scores), dual_softmax(scores.T)),
    ):
        found = TABLE["retrieval-msrvtt"].summarise(marked("retrieval-msrvtt", answered, compat)).values
        for k in KS:
            t2v, v2t = (recalls(table, own, [k])[f"image_retrieval_recall@{k}"] for table in (captions, videos))
            assert found[f"t2v_retrieval_recall@{k}"] == pytest.approx(100 * t2v)
            assert found[f"v2t_retrieval_recall@{k}"] == pytest.approx(100 * v2t)
    for sample, answer in answered:
        said, side = json.loads(answer), sample.facts["side"]
        row = int(sample.id.rpartition(":")[2])
        plain = (scores if side == "text" else scores.T)[row]
        other = "video" if side == "text" else "text"
        assert said["ranked"] == [f"{other}:{place}" for place in np.argsort(-plain, kind="stable")]


def test_the_dual_softmax_decides_only_in_the_original():
    sample = Sample(id="text:0", prompt="", answer=["video:0"], facts={"side": "text"})
    answer = '{"ranked": ["video:1", "video:0"], "dual_softmax": ["video:0", "video:1"]}'
    assert mark_found(sample, answer, compat=None).score == 0.0
    assert mark_found(sample, answer, compat="original").score == 1.0


def test_videos_have_classes_too(tmp_path, embedder):
    for place, name in enumerate(NAMES):
        film(tmp_path / f"kinetics400/val/{name}/clip.mp4", place, 10)
    answered = ask("zeroshot-kinetics400-8frames", tmp_path, embedder, frames=8)
    assert [json.loads(answer)["names"][0] in NAMES for _, answer in answered] == [True] * 6
    found = TABLE["zeroshot-kinetics400-8frames"].summarise(marked("zeroshot-kinetics400-8frames", answered)).values
    assert next(iter(found)) == "mean of acc1 and acc5"
    assert found["mean of acc1 and acc5"] == (found["acc1"] + found["acc5"]) / 2


@pytest.mark.parametrize(
    ("frames", "count", "numbers"),
    [(100, 1, [50]), (9, 1, [4]), (1, 1, [0]), (32, 8, [2, 6, 10, 14, 18, 22, 26, 30]), (10, 8, None), (3, 8, None)],
)
def test_which_frames(frames, count, numbers):
    """Where the published program fails (10 frames in 8 parts gives 5), there still is an answer."""
    found = frame_numbers(frames, 8.0, count=count)
    assert found == numbers if numbers else len(found) == count
    assert all(0 <= number < frames for number in found)


def test_a_video_of_no_frames(embedder):
    with pytest.raises(UsageError, match="no frames"):
        embedder.frames([])


# ---- a whole run -----------------------------------------------------------------------------------------------------


def test_a_run_is_resumed_and_scored_like_any_other(flickr, embedder, tmp_path):
    out, probe = tmp_path / "run", TABLE["retrieval-flickr30k"]
    task, responder = plan(probe, flickr), PairResponder(embedder, name="tiny")
    begin(out, {probe.name: task.about}, responder.describe())
    assert answer_all([task], responder, out) == 10
    file = out / probe.name / "answers.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert 0 < answer_all([task], responder, out) < 10
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())
    expected = probe.summarise(marked(probe.name, ask(probe.name, flickr, embedder)))
    [result] = score_run(out).tasks
    assert dict(result.scores.values) == pytest.approx(dict(expected.values))
    assert len(result.rows[0]) == 10


# ---- who answers what ------------------------------------------------------------------------------------------------


def test_a_model_of_pairs_answers_no_questions(embedder, tmp_path):
    pair = PairResponder(embedder, name="InternVL-14B")
    question = Benchmark(name="pope", title="POPE", paper="", group="hallucination", sources=(), mark=mark_class)
    with pytest.raises(UsageError, match="pope asks questions, and a model of pairs answers none"):
        responder_of(pair, question, tmp_path)
    with pytest.raises(UsageError, match="answers a benchmark"):
        pair.answer(iter([]))
    assert pair.describe()["model"] == {
        "kind": "pair",
        "name": "InternVL-14B",
        "fingerprint": None,
        "dtype": "float32",
        "mode": "InternVL-C",
    }


def test_a_chat_model_compares_nothing(embedder, tmp_path):
    class Talker:
        def describe(self):
            return {}

        def answer(self, questions):
            return iter(())

    with pytest.raises(UsageError, match="retrieval-coco compares embeddings and asks no questions"):
        responder_of(Talker(), TABLE["retrieval-coco"], tmp_path)
    talker = Talker()
    assert responder_of(talker, COCO, tmp_path) is talker
    with pytest.raises(UsageError, match="tower has no text side"):
        PairResponder(Embedder.load(golden("checkpoints/internvit-300m")), name="tower")
    with pytest.raises(UsageError, match="batch_size is 0"):
        PairResponder(embedder, name="tiny", batch_size=0)


def test_captions_of_a_model_of_pairs(embedder, tmp_path):
    samples = []
    for place in range(3):
        path = picture(tmp_path / f"{place}.png", place)
        one = Folder(tmp_path).picture(path.name)
        samples.append(Sample(id=str(place), prompt="ignored", pictures=(one,), answer=["a picture"]))
    responder = responder_of(PairResponder(embedder, name="tiny", batch_size=2), COCO, tmp_path)
    replies = list(responder.answer(Asked(sample, COCO.settings) for sample in samples))
    assert [reply.asked.sample.id for reply in replies] == ["0", "1", "2"]
    expected = embedder.captions([tmp_path / f"{place}.png" for place in range(3)], batch=2)
    assert [reply.text for reply in replies] == [caption.strip() for caption in expected]
    assert responder.describe() == {"prompt": "English caption:", "beams": 5}
