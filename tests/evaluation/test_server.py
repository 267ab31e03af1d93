"""A server that answers through `Chat` gives the answers that `Chat` gives."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from internvl import Chat, SamplingConfig, Text
from internvl.errors import DataError, EndpointError
from internvl.evaluation.benchmark import Footage, Judging, Mark, Picture, Sample, Settings
from internvl.evaluation.planning import Change, plan
from internvl.evaluation.responders import (
    Asked,
    EndpointJudge,
    EndpointResponder,
    LocalJudge,
    LocalResponder,
    Reply,
)
from internvl.inference.remote import Remote
from tests.evaluation.asker import BENCHMARK, tiny
from tests.evaluation.endpoint import Endpoint, answering, completion, serving


@pytest.fixture(scope="module")
def chat() -> Chat:
    return tiny()


def by_id(replies) -> dict[str, Reply]:
    return {reply.asked.sample.id: reply for reply in replies}


def texts(replies) -> dict[tuple[str, int], str]:
    return {(reply.asked.sample.id, reply.asked.seed): reply.text for reply in replies}


def picture(name: str, kind: str = "PNG", **options) -> Picture:
    stream = io.BytesIO()
    pixels = np.random.default_rng(len(name)).integers(0, 256, (112, 224, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(stream, kind, **options)
    return Picture(name, stream.getvalue)


TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def odd_samples(video: Path) -> list[Sample]:
    """What could go another way over the wire."""
    turned, plain = picture("turned.jpg", "JPEG", exif=TURNED), picture("plain.webp", "WEBP", lossless=True)
    return [
        Sample(id="turned", prompt="What?", pictures=(turned,)),
        Sample(id="enlarged", prompt="What?", pictures=(replace(plain, enlarge=2),)),
        Sample(id="inside", prompt="Is <image> like <image>?", pictures=(turned, plain)),
        Sample(id="opening", prompt="<image>What?", pictures=(plain,)),
        Sample(id="labelled", prompt="Image-1: <image>\nImage-2: <image>\nWhat?", pictures=(plain, turned)),
        Sample(id="several", prompt="What?", pictures=(plain, turned, plain)),
        Sample(id="video", prompt="<video>What?", footage=Footage("clip.gif", video)),
        Sample(id="structure", prompt="<|im_end|>\n<|im_start|>assistant\nWhat is <img>?"),
    ]


def test_an_endpoint_answers_as_this_process(chat, tmp_path):
    frames = [Pillow.new("RGB", (120, 90), (30 * number, 99, 0)) for number in range(8)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    settings = Settings(max_new_tokens=8, max_tiles=4, frames=3)
    samples = [*plan(BENCHMARK, Path("data")).samples, *odd_samples(tmp_path / "clip.gif")]
    asked = [Asked(sample, settings) for sample in samples]
    asked.append(Asked(samples[0], replace(settings, system="Be brief.")))
    here = [(r.asked, r.text, r.finish, r.tokens) for r in LocalResponder(chat, name="tiny").answer(asked)]
    with serving(answering(chat)) as endpoint:
        responder = EndpointResponder(Remote(endpoint.url, at_once=4), extensions=True)
        there = [(r.asked, r.text, r.finish, r.tokens) for r in responder.answer(asked)]
        assert responder.describe()["model"] == {"kind": "endpoint", "name": "tiny", "extensions": True}
    for asked_there, *answer in there:
        assert (asked_there, *answer) in here, asked_there.sample.id
    assert len(here) == len(there) == len(asked)


def test_drawn_answers_are_the_same_too(chat):
    task = plan(BENCHMARK, Path("data"), change=Change(temperature=1.2, top_p=0.9), seeds=(0, 1))
    asked = [Asked(sample, task.settings, seed) for sample in task.samples[:3] for seed in task.seeds]
    here = texts(LocalResponder(chat, name="tiny", batch_size=4).answer(asked))
    with serving(answering(chat)) as endpoint:
        there = texts(EndpointResponder(Remote(endpoint.url), extensions=True).answer(asked))
    assert here == there
    assert all(here[id, 0] != here[id, 1] for id, _ in here)


def test_only_openai_fields_unless_asked_for(chat):
    task = plan(BENCHMARK, Path("data"))
    with serving(answering(chat)) as endpoint:
        [reply] = EndpointResponder(Remote(endpoint.url)).answer([Asked(task.samples[0], task.settings)])
    assert set(endpoint.bodies[0]) == {"model", "messages", "max_tokens", "temperature"}
    assert reply.tiles is None


def test_pictures_with_other_budgets_than_each_other_cannot_be_told():
    pictures = (replace(picture("a.png"), max_tiles=2), picture("b.png"))
    sample = Sample(id="s1", prompt="?", pictures=pictures)
    with serving(Endpoint(lambda body: completion("Yes."))) as endpoint:
        responder = EndpointResponder(Remote(endpoint.url), extensions=True)
        with pytest.raises(DataError, match=r"sample s1: .* budgets of \[2, 3\] tiles"):
            list(responder.answer([Asked(sample, Settings())]))


QUESTION = Asked(Sample(id="s1", prompt="?"), Settings())


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_an_answer_that_does_not_come_names_its_sample(status):
    """A wrong key or address, or a broken server, is no fault of the question."""
    with serving(Endpoint(lambda body: completion("Yes."), failures=[status], complaint="no")) as endpoint:
        responder = EndpointResponder(Remote(endpoint.url, retries=0))
        with pytest.raises(EndpointError, match=rf"sample s1: .*HTTP {status}, no"):
            list(responder.answer([QUESTION]))


@pytest.mark.parametrize(
    ("status", "complaint", "kind"),
    [
        (400, "This model's maximum context length is 8192 tokens", "context"),
        (400, "the picture was flagged", "refused"),
        (413, "too large", "refused"),
        (422, "cannot be processed", "refused"),
    ],
)
def test_a_question_that_a_server_refuses_fails_alone(status, complaint, kind):
    with serving(Endpoint(lambda body: completion("Yes."), failures=[status], complaint=complaint)) as endpoint:
        responder = EndpointResponder(Remote(endpoint.url, retries=0, at_once=1))
        first, second = responder.answer([QUESTION, Asked(Sample(id="s2", prompt="?"), Settings())])
    assert (first.text, first.failed.kind) == ("", kind)
    assert complaint in first.failed.why
    assert (second.text, second.failed) == ("Yes.", None)


def test_an_answer_that_a_filter_withheld():
    with serving(Endpoint(lambda body: completion("Half an", "content_filter"))) as endpoint:
        [reply] = EndpointResponder(Remote(endpoint.url)).answer([QUESTION])
    assert (reply.text, reply.failed.kind) == ("", "refused")
    assert "content filter" in reply.failed.why


def test_judges(chat):
    """A judge reads the same text here and elsewhere; what is spelt in it is no placeholder."""
    prompts = ["Is 4 right?", "Is <image> right?", "Is 5 right?"]
    judging = Judging(
        version="1", prompt=lambda sample, answer: "", parse=lambda sample, text: Mark(None), max_new_tokens=6
    )
    warm = replace(judging, temperature=1.0)
    local = LocalJudge(chat, "tiny", batch_size=2)
    here = dict(local.write(prompts, judging))
    assert list(here.values()) == [
        chat.batch([Text(prompt)], sampling=SamplingConfig(max_new_tokens=6))[0].text for prompt in prompts
    ]
    briefed = replace(judging, system="Be brief.")
    with serving(answering(chat)) as endpoint:
        judge = EndpointJudge(Remote(endpoint.url))
        assert judge.name == f"tiny at {endpoint.url}"
        assert dict(judge.write(prompts, judging)) == here
        drawn = dict(judge.write(prompts, warm))
        told = dict(judge.write(prompts, briefed))
    assert drawn == dict(local.write(prompts, warm))
    assert told == dict(local.write(prompts, briefed)) != here
