"""A real browser walks the page, in both languages, in front of the real API; the model is one that echoes.

echo:   the answer is the question, letter by letter, so a test says what the model says
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

MISSING = [name for name in ("playwright", "gradio") if importlib.util.find_spec(name) is None]
CHROMIUM = os.environ.get("INTERNVL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if MISSING or not CHROMIUM:
    what = ", ".join(MISSING) or "chromium; or say where it is with INTERNVL_CHROMIUM"
    pytest.skip(f"a browser walks the page where there are playwright, gradio and chromium; missing: {what}",
                allow_module_level=True)  # fmt: skip

import uvicorn  # noqa: E402
from playwright.sync_api import Page as Tab  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402

from internvl.serving.page.app import Endpoint, Setup, page_app  # noqa: E402
from internvl.serving.page.words import WORDS, say  # noqa: E402
from internvl.serving.refusal import Refusal, queue_full  # noqa: E402
from tests.data.test_video import film  # noqa: E402
from tests.e2e.served import running as served_for_real  # noqa: E402
from tests.serving.echo import KEY, Echo, listening  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting"),  # of gradio's own, where it counts its events
]
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--no-first-run", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
PATIENCE = 60_000
"""Milliseconds for whatever must happen; the machine may be busy."""
expect.set_options(timeout=PATIENCE)
EXAMPLES = Path(__file__).parents[2] / "src" / "internvl" / "nano" / "examples"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as player:
        launched = player.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    return tmp_path_factory.mktemp("votes") / "votes.jsonl"


@contextmanager
def running(app):
    """An application on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def echo():
    """The API, and what stands behind it."""
    with listening(Echo()) as server:
        yield server


@pytest.fixture(scope="module")
def site(echo, votes):
    """The page alone, in front of that API."""
    setup = Setup(endpoint=lambda scope: Endpoint(f"{echo.address}/v1"), votes=votes)
    with running(page_app(setup)) as address:
        yield address


@contextmanager
def tab(browser, address: str, *, refused: int = 0, **more):
    """A tab of its own; afterwards, that nothing went wrong in it and nothing left this machine.

    refused: the one status that the test is about.
    """
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, "locale": "en", **more})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if is_fault(line, refused) else None)
    page.on("request", lambda one: None if is_near(one.url) else wrong.append(f"outside: {one.url}"))
    page.goto(address)
    yield page
    context.close()
    assert not wrong


def is_fault(line, refused: int) -> bool:
    return line.type == "error" and not (refused and f"status of {refused}" in line.text)


def is_near(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def backend(echo):
    backend = echo.backend
    yield backend
    backend.reply, backend.pause, backend.refuse, backend.breaks_after = None, 0.0, None, None


def ask(page: Tab, text: str) -> None:
    """Type and press Enter, and wait until the answer is complete."""
    page.fill("#iv-question", text)
    page.press("#iv-question", "Enter")
    ended(page)


def ended(page: Tab) -> None:
    expect(page.locator(".iv")).to_have_attribute("data-busy", "false")
    expect(page.locator(".iv-item.model").last.locator(".iv-took, .iv-wrong").first).to_be_visible()


def add(page: Tab, *files: Path | str) -> None:
    page.set_input_files(".iv-pick", [str(file) for file in files])
    expect(page.locator(".iv-files li:not(.iv-loading)")).to_have_count(len(files), timeout=PATIENCE)


def press(page: Tab, act: str) -> None:
    page.locator(f"[data-act={act}]:visible").last.click()


def answers(page: Tab) -> list[str]:
    return [one.strip() for one in page.locator(".iv-item.model .iv-text").all_inner_texts()]


# ---- the whole walk, in both languages -------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_conversation_in_both_languages(browser, site, backend, language):
    def words(word: str, **filled) -> str:
        return say(word, language, **filled)

    with tab(browser, site, locale={"en": "en-GB", "zh": "zh-CN"}[language]) as page:
        expect(page.locator(".iv-welcome h2")).to_have_text(words("welcome"))
        assert page.evaluate("document.documentElement.lang") == {"en": "en", "zh": "zh-CN"}[language]
        expect(page.locator(".iv-example")).to_have_count(3)
        page.locator(".iv-example").nth(2).click()
        ended(page)
        assert page.locator(".iv-shown img").count() == 1
        assert len(answers(page)) == 1
        ask(page, "**one**")
        assert answers(page)[1] == "one"
        press(page, "again")
        ended(page)
        assert len(answers(page)) == 2
        press(page, "undo")
        expect(page.locator(".iv-item.model")).to_have_count(1)
        expect(page.locator("#iv-question")).to_have_value("**one**")
        ask(page, "two")
        page.locator("[data-act=edit]").last.click()
        expect(page.locator(".iv-editing")).to_contain_text(words("editing"))
        expect(page.locator("#iv-question")).to_have_value("two")
        ask(page, "three")
        assert answers(page)[1:] == ["three"]
        page.locator("[data-act=edit]").first.click()
        ask(page, "zero")
        assert answers(page) == ["zero"]
        assert page.locator(".iv-shown img").count() == 1, "an edited question keeps its picture"
        check_labels(page)
        press(page, "language")
        other = {"en": "zh", "zh": "en"}[language]
        expect(page.locator("#iv-question")).to_have_attribute("placeholder", say("placeholder", other))
        expect(page.locator("#iv-set-temperature")).to_contain_text(say("temperature", other))
        expect(page.locator("[data-act=again]")).to_have_attribute("aria-label", say("again", other))
        check_labels(page)
        press(page, "new")
        expect(page.locator(".iv-welcome")).to_be_visible()
        page.reload()
        expect(page.locator(".iv-welcome h2")).to_have_text(say("welcome", other))


def check_labels(page: Tab) -> None:
    """Everything that can be pressed or filled in has a name; everything that is shown has words for it."""
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, [role=button], img, dialog, [role=log]')]
        .filter((one) => one.checkVisibility() && !(one.getAttribute('aria-label') || one.textContent.trim() || one.alt
            || one.title || (one.labels && one.labels.length) || (one.tagName === 'IMG' && one.alt === '')))
        .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert not nameless


# ---- one thing after the other ---------------------------------------------------------------------------------------


def test_a_page_that_was_there_before_its_server_finds_it(browser, echo):
    server = ["http://127.0.0.1:1/v1"]
    setup = Setup(endpoint=lambda scope: Endpoint(server[0]))
    with running(page_app(setup)) as address, tab(browser, address) as page:
        expect(page.locator(".iv-notice")).to_have_text(say("away", "en"))
        notice, card = (page.locator(f".iv-{name}").bounding_box() for name in ("notice", "card"))
        assert notice["x"] == card["x"], "one above the other"
        page.wait_for_timeout(7000)  # it has asked again, and has heard the same
        expect(page.locator(".iv-model")).to_have_text("")
        server[0] = f"{echo.address}/v1"
        expect(page.locator(".iv-model")).to_have_text("echo")
        expect(page.locator(".iv-notice")).to_be_hidden()


def test_an_answer_grows_and_is_stopped_by_button_and_key(browser, site, backend):
    backend.pause = 0.02
    with tab(browser, site) as page:
        for stop in (lambda: press(page, "stop"), lambda: page.keyboard.press("Escape")):
            page.fill("#iv-question", "word " * 200)
            page.press("#iv-question", "Enter")
            expect(page.locator(".iv-growing").last).to_contain_text("word word")
            stop()
            ended(page)
            assert "stopped" in page.locator(".iv-took").last.inner_text()
            assert 0 < len(answers(page)[-1]) < 900
        page.fill("#iv-question", "word " * 200)
        page.press("#iv-question", "Enter")
        expect(page.locator(".iv-growing").last).to_contain_text("word word")
        assert backend.open == 1
    for _ in range(200):
        if not backend.open:
            break
        threading.Event().wait(0.05)
    assert backend.open == 0, "the server lets go of what was stopped, and of whom closed the tab"


def test_shift_enter_is_a_line_and_nothing_is_sent_twice(browser, site, backend):
    before = len(backend.orders)
    with tab(browser, site) as page:
        page.fill("#iv-question", "a")
        page.press("#iv-question", "End")
        page.press("#iv-question", "Shift+Enter")
        page.keyboard.type("b")
        page.evaluate("() => { for (let n = 0; n < 5; n += 1) document.querySelector('.iv-ask').requestSubmit(); }")
        ended(page)
        assert page.locator(".iv-item.user .iv-text").inner_text() == "a\nb"
        page.press("#iv-question", "Enter")
        assert page.locator(".iv-item.user").count() == 1
    assert len(backend.orders) == before + 1


def test_pictures_come_by_upload_paste_drag_and_camera(browser, site, backend):
    with tab(browser, site) as page:
        expect(page.locator(".iv-welcome")).to_be_visible()
        picture = list((EXAMPLES / "shapes.png").read_bytes())
        give = """([bytes, how]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], how + '.png', { type: 'image/png' }));
            const more = { bubbles: true, cancelable: true };
            if (how === 'paste') document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, ...more }));
            else for (const one of ['dragenter', 'dragover', 'drop'])
                document.dispatchEvent(new DragEvent(one, { dataTransfer: data, ...more }));
        }"""
        add(page, EXAMPLES / "flag.png")
        page.evaluate(give, [picture, "paste"])
        page.evaluate(give, [picture, "drag"])
        press(page, "camera")
        page.wait_for_function("document.querySelector('.iv-camera video').videoWidth > 0")
        press(page, "snap")
        expect(page.locator(".iv-files li:not(.iv-loading)")).to_have_count(4)
        names = page.locator(".iv-file-name").all_inner_texts()
        assert names == ["flag.png", "paste.png", "drag.png", "camera.jpg"]
        page.locator("[data-act=remove]").nth(1).click()
        ask(page, "What are these?")
        assert page.locator(".iv-shown img").count() == 3
        page.wait_for_function("[...document.querySelectorAll('.iv-shown img')].every((one) => one.naturalWidth > 0)")
        page.locator(".iv-shown img").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator(".iv-zoom")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".iv-zoom")).to_be_hidden()
    [order, _] = backend.orders[-1]
    assert [one.kind for one in order.references] == ["image"] * 3


def test_pages_and_frames_are_shown_as_they_are_sent(browser, site, backend, tmp_path):
    Image.new("RGB", (60, 80), "ivory").save(
        tmp_path / "d.pdf", save_all=True, append_images=[Image.new("RGB", (80, 60))]
    )
    (tmp_path / "v.mp4").write_bytes(film("mp4", "mpeg4", frames=16, rate=8))
    with tab(browser, site) as page:
        expect(page.locator(".iv-model")).to_have_text("echo")
        press(page, "settings")
        set_number(page, "num_frames", 3)
        set_number(page, "temperature", 0.5)
        set_number(page, "top_k", 7)
        set_number(page, "max_tiles", 4)
        page.locator("#iv-set-seed").locator("input, textarea").fill("11")
        page.locator("#iv-set-system textarea").fill("Be kind.")
        page.keyboard.press("Tab")
        page.locator(".iv-settings-head button").click()
        add(page, tmp_path / "v.mp4", tmp_path / "d.pdf")
        ask(page, "What?")
        assert "2 pages" in page.locator(".iv-strip").first.inner_text()
        assert "3 frames" in page.locator(".iv-strip").last.inner_text()
        assert page.locator(".iv-film img").count() == 5
        page.locator("[data-act=tiles]").click()
        expect(page.locator(".iv-grid")).to_have_count(5)
        assert "one tile" in page.locator(".iv-shown").first.inner_text()
        page.locator("[data-act=tiles]").click()
        expect(page.locator(".iv-grid")).to_have_count(0)
    order, _ = backend.orders[-1]
    assert len(order.references) == 5
    sampling = order.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, order.max_tiles) == (0.5, 7, 11, 4)
    assert order.unopened[0].parts[0].text == "Be kind."


def set_number(page: Tab, name: str, value: float) -> None:
    field = page.locator(f"#iv-set-{name} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def test_what_a_model_says_is_drawn_and_never_run(browser, site, backend):
    backend.reply = (
        "<script>window.hit = 1</script><img src=x onerror='window.hit=1'> ![x](http://evil.example/x) "
        "[l](javascript:window.hit=1)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThe "
        "<ref>green star</ref><box>[[320, 805, 440, 930]]</box>"
    )
    with tab(browser, site) as page:
        add(page, EXAMPLES / "shapes.png")
        ask(page, "Where?")
        assert page.evaluate("window.hit") is None
        assert page.locator(".iv-item.model table").count() == 1
        polygon = page.locator(".iv-marked polygon")
        assert polygon.count() == 1
        picture, box = page.locator(".iv-marked img").bounding_box(), polygon.bounding_box()
        assert abs((box["x"] - picture["x"]) / picture["width"] - 0.320) < 0.02
        assert abs((box["y"] - picture["y"]) / picture["height"] - 0.805) < 0.02
        assert abs(box["width"] / picture["width"] - 0.120) < 0.03
        expect(page.locator(".iv-name")).to_have_text("green star")
        page.locator(".iv-chip").hover()
        expect(page.locator("polygon.iv-lit")).to_have_count(1)
        with page.expect_download() as waited:
            press(page, "share")
        text = Path(waited.value.path()).read_text(encoding="utf-8")
        assert waited.value.suggested_filename.endswith(".html")
        assert "<script" not in text
        assert text.count('src="data:image/png;base64,') == 2
        alone = page.context.new_page()
        alone.set_content(text)
        assert alone.locator(".iv-marked polygon").count() == 1
        assert alone.evaluate("window.hit") is None


def test_thumbs_and_reports_are_written_down(browser, site, votes, backend):
    with tab(browser, site) as page:
        ask(page, "fine")
        page.locator("[data-word=up]").click()
        expect(page.locator("[data-word=up]")).to_have_attribute("aria-pressed", "true")
        ask(page, "bad")
        page.locator("[data-word=flag]").last.click()
        page.fill("#iv-reason", "It is rude.")
        press(page, "reason")
        expect(page.locator(".iv-thanks")).to_have_count(2)
    lines = [json.loads(line) for line in votes.read_text(encoding="utf-8").splitlines()]
    assert [(one["vote"], one["answer"], one["reason"]) for one in lines] == [
        ("up", "fine", ""), ("flag", "bad", "It is rude.")
    ]  # fmt: skip


def test_what_goes_wrong_is_told_in_one_line_and_can_be_tried_again(browser, site, backend, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with tab(browser, site) as page:
        add(page, tmp_path / "bad.png")
        ask(page, "What?")
        assert "bad.png cannot be used" in page.locator(".iv-wrong").inner_text()
        backend.refuse = queue_full(7)
        ask(page, "busy")
        assert "Try again in 7 s" in page.locator(".iv-wrong").last.inner_text()
        said = page.locator(".iv-said").inner_text()
        assert "Try again in 7 s" in said
        assert say("answered", "en") not in said, "a screen reader is told what was refused"
        backend.refuse = Refusal("n is 99, at most 8 are answered")
        press(page, "again")
        ended(page)
        expect(page.locator(".iv-wrong").last).to_contain_text("at most 8 are answered")
        backend.refuse, backend.breaks_after = Refusal("the model fell", status=500), 2
        press(page, "again")
        ended(page)
        expect(page.locator(".iv-wrong").last).to_contain_text("the model fell")
        backend.refuse = backend.breaks_after = None
        press(page, "again")
        ended(page)
        expect(page.locator(".iv-item.model .iv-text").last).to_have_text("busy")
        expect(page.locator(".iv-wrong")).to_have_count(1)


def test_a_server_that_is_away_is_told_at_once(browser):
    with (
        running(page_app(Setup(endpoint=lambda scope: Endpoint("http://127.0.0.1:9/v1")))) as address,
        tab(browser, address, locale="zh-CN") as page,
    ):
        expect(page.locator(".iv-notice")).to_contain_text(say("away", "zh"))
        ask(page, "在吗")
        expect(page.locator(".iv-wrong")).to_contain_text(say("away", "zh"))


def test_settings_that_a_server_is_not_known_to_take_are_told(browser, monkeypatch):
    from internvl.serving.page import talk

    monkeypatch.setattr(talk, "TAKEN", {})
    with listening(Echo()) as server:
        setup = Setup(endpoint=lambda scope: Endpoint(f"{server.address}/v1"))
        with running(page_app(setup)) as address, tab(browser, address) as page:
            expect(page.locator(".iv-model")).to_have_text("echo")
            press(page, "settings")
            set_number(page, "max_tiles", 4)
            ask(page, "Hi")
            expect(page.locator(".iv-notice")).to_contain_text(WORDS["max_tiles"][0])
        assert server.backend.orders[-1][0].max_tiles is None


def test_a_phone_and_the_dark(browser, site, backend):
    with tab(browser, site, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True) as page:
        add(page, EXAMPLES / "photo.jpg")
        ask(page, "long " * 100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert is_dark(page)
        press(page, "theme")
        assert not is_dark(page)
        page.reload()
        expect(page.locator(".iv-welcome")).to_be_visible()
        assert not is_dark(page), "the choice is remembered"
        press(page, "settings")
        page.wait_for_function("document.getElementById('iv-settings').getAnimations().length === 0")
        panel = page.locator("#iv-settings").bounding_box()
        assert panel["x"] >= 0
        assert panel["x"] + panel["width"] <= 361
        page.keyboard.press("Escape")
        expect(page.locator("#iv-settings")).not_to_be_visible()


def is_dark(page: Tab) -> bool:
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", ground)[:3])) < 200


def test_with_the_keyboard_alone(browser, site, backend):
    with tab(browser, site) as page:
        expect(page.locator(".iv-welcome")).to_be_visible()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "iv-skip"
        page.keyboard.press("Enter")
        page.keyboard.type("hello")
        page.keyboard.press("Enter")
        ended(page)
        assert answers(page) == ["hello"]
        assert "hello" in page.locator(".iv-said").inner_text(), "what a screen reader is told"
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.dataset?.act || document.activeElement.id"))
        assert {"new", "share", "language", "theme", "settings", "edit", "copy", "again", "undo", "attach"} <= reached
        assert not {one for one in reached if one.startswith("iv-set-")}, "what is hidden is not reached"


def test_in_a_server_one_signs_in_with_a_key(browser):
    with (
        listening(Echo(), ui=True, keys=(KEY,)) as server,
        tab(browser, f"{server.address}/ui", refused=401) as page,
    ):
        expect(page.get_by_label(WORDS["key_label"][0])).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(say("wrong_key", "en"))
        page.get_by_label(WORDS["key_label"][0]).fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator(".iv-welcome")).to_be_visible()
        add(page, EXAMPLES / "flag.png")
        ask(page, "Whose flag?")
        assert answers(page) == ["Whose flag?"]
        assert page.evaluate("document.cookie") == ""
        press(page, "sign_out")
        expect(page.get_by_label(WORDS["key_label"][0])).to_be_visible()


def test_the_embedded_model_answers(browser):
    """`internvl serve` as people start it: reading, tiles and figures are the real ones."""
    with served_for_real() as server, tab(browser, f"http://127.0.0.1:{server.port}/ui/") as page:
        page.locator(".iv-example").first.click()
        ended(page)
        assert answers(page)[0]
        assert re.search(r"question \d+ · of which pictures \d+", page.locator(".iv-took").inner_text())
        page.locator("[data-act=tiles]").click()
        expect(page.locator(".iv-shown figcaption")).to_have_text(say("tile_said", "en"))
