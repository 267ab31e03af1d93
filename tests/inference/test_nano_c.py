"""The embedded nano-c: it is there, small, and searches and classifies without a network."""

import json
import shutil
import socket

import numpy as np
import pytest
import torch

from internvl.cli.main import run
from internvl.errors import CheckpointError, UsageError
from internvl.inference.embed import Embedder
from internvl.models.pair import PairModel
from internvl.nano import form_c
from internvl.weights import hub
from internvl.weights.load import resolve
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "src" / "internvl" / "nano" / "examples"
SAID = {
    "flag.png": "the flag of India",
    "shapes.png": "two pink stars and a green star",
    "photo.jpg": "a photo of motorbikes",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("nano-c", fit="stretch", dtype="float32", device="cpu")


def test_it_is_of_its_form_and_at_most_eight_megabytes(embedder):
    assert isinstance(embedder.model, PairModel)
    assert embedder.model.config == form_c.CONFIG
    assert sum(file.stat().st_size for file in hub.NANO_C.iterdir()) <= form_c.MOST_BYTES
    assert b"/tmp" not in (hub.NANO_C / "tokenizer.model").read_bytes()


def test_the_name_is_the_folder_unless_one_is_here(tmp_path, monkeypatch):
    assert resolve("nano-c") == hub.NANO_C
    monkeypatch.chdir(tmp_path)
    shutil.copytree(hub.NANO_C, tmp_path / "nano-c")
    assert resolve("nano-c").resolve() == tmp_path / "nano-c"


def test_what_cannot_be_is_told(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="with the embedded model"):
        resolve("nano-c", revision="main")
    with pytest.raises(UsageError, match="mode must be InternVL-C"):
        Embedder.load("nano-c", mode="InternVL-G").images([EXAMPLES / "flag.png"])
    monkeypatch.setattr(hub, "NANO_C", tmp_path / "gone")
    with pytest.raises(CheckpointError, match="no embedded model in this installation"):
        resolve("nano-c")


def test_pictures_and_texts_find_each_other(embedder):
    scores = embedder.images([EXAMPLES / name for name in SAID]) @ embedder.texts(list(SAID.values())).T
    assert scores.argmax(dim=0).tolist() == [0, 1, 2]
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]


def test_capitals_and_full_stops_do_not_matter(embedder):
    one, other, third = embedder.texts(["a photo of a cat", "A photo of a CAT.", "a photo of a dog"])
    assert torch.equal(one, other)
    assert not torch.allclose(one, third, atol=1e-3)


def test_search_names_the_best_pictures_first(tmp_path, capsys):
    for name in SAID:
        shutil.copy(EXAMPLES / name, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert run(["search", "the flag of India", str(tmp_path), "--top", "2"]) == 0
    shown = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == 2
    assert shown[0][1] == str(tmp_path / "flag.png")
    assert float(shown[0][0]) >= float(shown[1][0])


def test_search_as_json_is_the_cosines_of_the_embedder(embedder, capsys):
    pictures = [str(EXAMPLES / name) for name in SAID]
    assert run(["search", "a flag", *pictures, "--json", "--dtype", "float32", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = (embedder.images(pictures) @ embedder.texts("a flag").T)[:, 0].tolist()
    assert {row["image"]: row["cosine"] for row in rows} == {
        picture: pytest.approx(cosine, abs=1e-5) for picture, cosine in zip(pictures, expected, strict=True)
    }


def test_search_where_there_is_nothing(tmp_path, capsys):
    assert run(["search", "a flag", str(tmp_path)]) == 2
    assert f"there is no picture in {tmp_path}" in capsys.readouterr().err
    assert run(["search", "a flag", str(EXAMPLES / "flag.png"), "--model", "nano"]) == 2
    assert "no text side" in capsys.readouterr().err


def test_embed_writes_unit_vectors_of_both_sides(tmp_path, capsys):
    out = tmp_path / "vectors.npy"
    command = ["embed", str(EXAMPLES / "flag.png"), "--text", "a flag", "--model", "nano-c", "--out", str(out)]
    assert run(command) == 0
    vectors = np.load(out)
    assert vectors.shape == (2, form_c.EMBED)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_zero_shot_classification_of_a_folder(tmp_path, capsys):
    """Two kinds of pictures, each in the folder of its name."""
    for name, kind in (("flag.png", "flag_of_India"), ("photo.jpg", "motorbikes")):
        (tmp_path / "data" / "zeroshot-folder" / kind).mkdir(parents=True)
        shutil.copy(EXAMPLES / name, tmp_path / "data" / "zeroshot-folder" / kind / name)
    command = ["eval", "zeroshot-folder", "--model", "nano-c", "--data", str(tmp_path / "data")]
    assert run([*command, "--out", str(tmp_path / "out")]) == 0
    answers = [
        json.loads(line) for path in (tmp_path / "out").rglob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(answers) == 2
    assert "100" in capsys.readouterr().out
