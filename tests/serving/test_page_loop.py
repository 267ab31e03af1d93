"""The page lives in the event loop of the API: a long conversation, and what it shows, hold no other stream up."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from internvl.data.limits import Limits
from internvl.serving.page import ask, desk, view
from internvl.serving.page.answering import ASIDE, Desk
from internvl.serving.page.ask import Endpoint
from internvl.serving.page.desk import Page, link_of
from internvl.serving.page.opening import opened
from internvl.serving.page.talk import Shown, Talk, Took, Turn, Upload
from internvl.serving.page.view import items
from internvl.serving.page.words import say
from tests.serving.test_page_ask import server


def page(folder: Path) -> Page:
    limits = Limits(bytes=2**20, local=False)
    return Page(
        lambda _: Endpoint("http://127.0.0.1:9/v1"), Desk(folder=folder, limits=limits, opening=asyncio.Semaphore(1))
    )


def long_talk(turns: int = 20) -> Talk:
    talk = Talk()
    for number in range(turns):
        turn = talk.begin(f"question {number}")
        turn.state, turn.answer = "done", f"*answer* {number}"
    return talk


@pytest.fixture
def drawn(monkeypatch):
    """Texts that are made HTML."""
    texts: list[str] = []
    made = view.markdown
    monkeypatch.setattr(view, "markdown", lambda text: texts.append(text) or made(text))
    return texts


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_a_piece_of_an_answer_draws_that_answer_only(drawn):
    talk = long_talk()
    first = items(talk, link_of)
    turn = talk.begin("and now?")
    items(talk, link_of)  # the one that was last has fewer buttons now
    drawn.clear()
    for text in ("to", "today", "today is"):
        turn.answer, turn.state = text, "growing"
        last = items(talk, link_of)
    assert drawn == ["to", "today", "today is"]
    turn.state = "done"
    drawn.clear()
    assert items(talk, link_of)[:38] == last[:38] == first[:38]
    assert drawn == ["today is"]


@pytest.mark.parametrize(
    "change",
    [
        {"text": "other"}, {"answer": "other"}, {"state": "stopped"}, {"state": "failed", "failure": ("away", {})},
        {"finish": "length"}, {"took": Took(first=1.0, answer=3)}, {"vote": "up"}, {"tiles": (7,)},
        {"sent": ("a.png",)}, {"uploads": ()},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_changes_is_drawn_again(tmp_path, change):
    def talk_with(turn: Turn) -> Talk:
        return Talk(turns=[turn])

    shown = Shown("picture", tmp_path / "a.png", (40, 30))
    turn = Turn(1, "What?", (Upload("a.png", (shown,)),), answer="That.", state="done")
    before = items(talk_with(turn), link_of)
    for name, value in change.items():
        setattr(turn, name, value)
    after = items(talk_with(turn), link_of)
    assert after != before
    assert after == items(talk_with(replace(turn)), link_of), "as if it had never been drawn"


def test_another_language_and_a_saved_file_are_drawn_for_themselves(drawn):
    talk = long_talk(2)
    english = items(talk, link_of)
    talk.language = "zh"
    assert say("copy", "zh") in items(talk, link_of)[1]["html"]
    talk.language = "en"
    assert "button" not in "".join(one["html"] for one in items(talk, link_of, alone=True))
    assert items(talk, link_of) == english
    drawn.clear()
    items(talk, link_of, alone=True)
    drawn.clear()
    items(talk, link_of)
    assert drawn == [], "saving does not make the page draw all again"


# ---- where it is done ------------------------------------------------------------------------------------------------


@pytest.fixture
def where(monkeypatch):
    """Threads in which something was done, by its name."""
    found: dict[str, set[int]] = {}

    def watch(owner: object, name: str) -> None:
        done = getattr(owner, name)

        def noting(*given, **named):
            found.setdefault(name, set()).add(threading.get_ident())
            return done(*given, **named)

        monkeypatch.setattr(owner, name, noting)

    return SimpleNamespace(found=found, watch=watch, here={threading.get_ident()})


def check_aside(where: SimpleNamespace, *names: str) -> None:
    assert where.found.keys() == set(names)
    for name, threads in where.found.items():
        assert not threads & where.here, f"{name} held the event loop up"


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page's events need gradio")
def test_the_page_is_drawn_and_saved_and_cut_in_threads(tmp_path, where):
    from internvl.serving.page.layout import Wiring

    wiring = Wiring(page(tmp_path), None)
    request = SimpleNamespace(session_hash="a", request=SimpleNamespace(scope={}))
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    talk, _ = wiring.who(request)
    turn = talk.begin("What?")
    turn.uploads = (Upload("a.png", (Shown("picture", tmp_path / "a.png", (40, 30)),)),)
    turn.answer, turn.state = "That.", "done"
    where.watch(desk, "items")
    where.watch(desk.share, "html_of")
    where.watch(desk, "messages_of")
    event = SimpleNamespace(_data={"turn": 1})
    with server(body=b'{"images": [{"tiles": 3}]}') as (endpoint, _, _):
        wiring.page.endpoint = lambda _: endpoint
        saved = asyncio.run(wiring.save(request))
        asyncio.run(wiring.tiles(event, request, None, "", 0, 1, 0, 1, 512, "", 0, 8))
        assert turn.tiles == (3,)
    assert "<html" in (tmp_path / saved["download"]["url"].rpartition("/")[2]).read_text(encoding="utf-8")
    check_aside(where, "items", "html_of", "messages_of")


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page's events need gradio")
@pytest.mark.parametrize("event", ["save", "tiles"])
def test_a_picture_that_is_gone_is_told_on_the_page(tmp_path, event):
    from internvl.serving.page.layout import Wiring

    wiring = Wiring(page(tmp_path), None)
    request = SimpleNamespace(session_hash="a", request=SimpleNamespace(scope={}))
    talk, _ = wiring.who(request)
    turn = talk.begin("What?")
    turn.uploads = (Upload("a.png", (Shown("picture", tmp_path / "gone.png", (40, 30)),)),)
    turn.answer, turn.state = "That.", "done"
    told = SimpleNamespace(_data={"turn": 1})
    given = () if event == "save" else (told,)
    values = () if event == "save" else (None, "", 0, 1, 0, 1, 512, "", 0, 8)
    sight = asyncio.run(getattr(wiring, event)(*given, request, *values))
    assert sight["notice"]["text"] == say("expired", "en")


def test_a_file_is_read_and_its_pictures_written_in_threads(tmp_path, where):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "shown").mkdir()
    where.watch(Path, "read_bytes")
    where.watch(Path, "write_bytes")
    upload = asyncio.run(opened(tmp_path / "a.png", "a.png", tmp_path / "shown", Limits(local=False), frames=4))
    assert upload.shown[0].size == (40, 30)
    check_aside(where, "read_bytes", "write_bytes")


def test_a_body_with_pictures_is_written_in_a_thread(where):
    class Told(list):
        def __iter__(self):
            return super().__iter__()

    where.watch(Told, "__iter__")
    body = {"model": "m", "messages": Told([{"role": "user", "content": "图"}])}
    done = b'data: {"choices": [{"delta": {"content": "ok"}}]}\n\ndata: [DONE]\n\n'

    async def heard(endpoint: Endpoint) -> list[object]:
        return [one async for one in ask.answers(endpoint, body)]

    with server(body=done) as (endpoint, asked, _):
        assert asyncio.run(heard(endpoint)) == [ask.Part("ok")]
    assert asked == [{"model": "m", "messages": [{"role": "user", "content": "图"}]}]
    check_aside(where, "__iter__")


def test_only_so_many_threads_work_for_the_page(tmp_path):
    lock, running, most, all_in = threading.Lock(), [0], [0], threading.Barrier(ASIDE)

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        all_in.wait(30)  # so many do work at the same time
        with lock:
            running[0] -= 1

    async def run() -> None:
        aside = page(tmp_path).desk.aside
        await asyncio.gather(*(aside(work) for _ in range(ASIDE * 3)))

    asyncio.run(run())
    assert most[0] == ASIDE
