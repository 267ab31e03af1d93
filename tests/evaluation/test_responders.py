"""Who answers, and how a checkpoint is told from another."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image as Pillow

from internvl.data.encode import Encoder
from internvl.data.prompts import Image
from internvl.errors import UsageError
from internvl.evaluation import responders
from internvl.evaluation.ask import conversation
from internvl.evaluation.benchmark import Picture, Sample, Settings
from internvl.evaluation.planning import plan
from internvl.evaluation.responders import Asked, LocalResponder, fingerprint, sampling_of, seed_of
from internvl.inference.chat import Chat
from tests.conftest import golden
from tests.evaluation.asker import BENCHMARK, png, tiny


@pytest.fixture(scope="module")
def chat() -> Chat:
    return tiny()


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    task = plan(BENCHMARK, Path("data"))
    return [Asked(sample, task.settings) for sample in task.samples]


def test_answers_are_those_of_one_question_at_a_time(chat, asked):
    replies = list(LocalResponder(chat, name="tiny", batch_size=4).answer(asked))
    assert sorted(reply.asked.sample.id for reply in replies) == sorted(one.sample.id for one in asked)
    for reply in replies:
        [alone] = chat.batch(
            [conversation(reply.asked.sample, reply.asked.settings)], sampling=sampling_of(reply.asked)
        )
        assert (reply.text, reply.finish, reply.tokens, reply.tiles) == (
            alone.text, alone.finish, alone.usage.completion, alone.tiles,
        )  # fmt: skip


def test_questions_are_drawn_as_they_are_needed(chat, asked):
    drawn: list[Asked] = []
    endless = (drawn.append(one) or one for _ in range(1000) for one in asked)
    replies = LocalResponder(chat, name="tiny", batch_size=1).answer(endless)
    assert len(list(islice(replies, 5))) == 5
    assert len(drawn) == 2 * responders.WINDOW


def test_large_pictures_are_not_all_opened_at_once(chat, monkeypatch):
    monkeypatch.setattr(responders, "PIXELS", 100)
    drawn: list[int] = []

    def questions():
        for number in range(6):
            drawn.append(number)
            picture = Picture(f"{number}.png", lambda: png(0))
            yield Asked(Sample(id=str(number), prompt="?", pictures=(picture,)), Settings(max_new_tokens=2))

    next(LocalResponder(chat, name="tiny", batch_size=3).answer(questions()))
    assert drawn == [0]


def test_questions_of_similar_length_share_a_batch(chat, asked, monkeypatch):
    lengths: list[list[int]] = []
    batch = chat.batch

    def watched(conversations, **options):
        answers = batch(conversations, **options)
        lengths.append([answer.usage.prompt for answer in answers])
        return answers

    monkeypatch.setattr(chat, "batch", watched)
    list(LocalResponder(chat, name="tiny", batch_size=3).answer(asked[:12]))
    flat = [length for some in lengths for length in some]
    assert flat == sorted(flat, reverse=True)


def test_a_checkpoint_without_tiling_sees_one_tile(chat, asked):
    encoder = Encoder(chat.encoder.tokenizer, replace(chat.encoder.config, dynamic=False))
    fixed = Chat(chat.model, encoder)
    replies = list(LocalResponder(fixed, name="fixed").answer(asked[:3]))
    assert {tiles for reply in replies for tiles in reply.tiles or ()} == {1}


def test_a_question_without_room_fails_alone(chat):
    """What shares a batch with it is answered as ever."""
    settings = Settings(max_new_tokens=4)
    asked = [Asked(Sample(id=f"s{n}", prompt="word " * (5000 if n in (1, 3) else n + 1)), settings) for n in range(6)]
    found = {reply.asked.sample.id: reply for reply in LocalResponder(chat, name="tiny").answer(asked)}
    assert {id for id, reply in found.items() if reply.failed} == {"s1", "s3"}
    assert found["s1"].text == ""
    assert found["s1"].failed.kind == "context"
    assert "the conversation has" in found["s1"].failed.why
    fitting = [one for one in asked if one.sample.id not in ("s1", "s3")]
    for reply in LocalResponder(chat, name="tiny").answer(fitting):
        assert found[reply.asked.sample.id].text == reply.text


def test_what_is_written_down(chat):
    path = golden("checkpoints/qwen2-v2_5-bf16")
    found = LocalResponder(chat, name="tiny", path=path).describe()
    assert found["model"] == {
        "kind": "local",
        "name": "tiny",
        "fingerprint": fingerprint(path),
        "dtype": "float32",
        "template": chat.encoder.config.template,
        "tiling": True,
    }
    assert found["device"] == "cpu"
    with pytest.raises(UsageError, match="batch_size is 0"):
        LocalResponder(chat, name="tiny", batch_size=0)


def test_seeds_differ_between_samples_and_runs():
    settings = Settings(temperature=1.0, top_p=0.5)
    seeds = [seed_of(Asked(Sample(id=id, prompt=""), settings, seed)) for id in "abc" for seed in range(3)]
    assert len(set(seeds)) == 9
    assert all(0 <= seed < 2**31 for seed in seeds)
    drawn, greedy = (Asked(Sample(id="a", prompt=""), s) for s in (settings, Settings(top_p=0.5)))
    assert (sampling_of(drawn).seed, sampling_of(drawn).top_p) == (seeds[0], 0.5)
    assert (sampling_of(greedy).seed, sampling_of(greedy).top_p) == (None, None)


def test_a_fingerprint_tells_checkpoints_apart(tmp_path, monkeypatch):
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(bytes(5000))
    config.write_text("{}")
    (tmp_path / "README.md").write_text("not part of it")
    first = fingerprint(tmp_path)
    assert first.startswith("sampled-sha256:")
    (tmp_path / "README.md").write_text("changed")
    assert fingerprint(tmp_path) == first
    weights.write_bytes(bytes(4999) + b"1")
    assert fingerprint(tmp_path) != first
    weights.write_bytes(bytes(5000))
    config.write_text("{ }")
    assert fingerprint(tmp_path) != first
    config.write_text("{}")
    assert fingerprint(tmp_path) == first
    assert fingerprint(weights) not in (first, fingerprint(config))


def test_a_large_file_is_looked_into_all_over(tmp_path, monkeypatch):
    monkeypatch.setattr(responders, "WHOLE", 2**20)
    file = tmp_path / "model.safetensors"
    size, step = 2**23, 2**23 // responders.BLOCKS
    file.write_bytes(bytes(size))
    seen = {fingerprint(file)}
    for place in range(0, size - step, size // 7):
        content = bytearray(size)
        content[place : place + step] = b"1" * step  # as long as the gap between two blocks
        file.write_bytes(content)
        seen.add(fingerprint(file))
    assert len(seen) == 1 + len(range(0, size - step, size // 7))


def test_tiles_for_the_estimate_are_those_of_the_encoder(chat):
    """The order of batches needs only about the length; this says that about is near."""
    responder = LocalResponder(chat, name="tiny")
    picture = Picture("wide.png", lambda: png(1))
    ready = responder._ready(Asked(Sample(id="1", prompt="What?", pictures=(picture,)), Settings(max_tiles=4)))
    [answer] = chat.batch([ready.messages], sampling=sampling_of(ready.asked))
    thumbnail = int(answer.tiles[0] > 1)
    assert ready.length - len("What?") // 3 == (answer.tiles[0] - thumbnail) * chat.encoder.config.slots_per_tile
    assert ready.pixels == Pillow.new("1", (224, 112)).width * 112
    assert isinstance(ready.messages[0].parts[0], Image)
