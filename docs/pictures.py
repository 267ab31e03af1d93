"""Takes the pictures of the page that docs/ui.md shows: docs/ui_*.webp.

    PYTHONPATH=. python docs/pictures.py    # needs playwright and chromium (INTERNVL_CHROMIUM says where)

The embedded model answers; boxes, at which it is bad, are a scripted answer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import av
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.serving.echo import KEY, Echo, listening

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "src" / "internvl" / "nano" / "examples"
PORT = 7861
BOXES = (
    "There are three: the <ref>green star</ref><box>[[320, 805, 440, 930]]</box> and two pink ones, "
    "<ref>above</ref><box>[[265, 20, 455, 210]]</box> and <ref>on the right</ref><box>[[780, 545, 950, 710]]</box>."
)
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@contextmanager
def page_served(*more: str, place: str = "/ui/", **environment: str) -> Generator[str]:
    """The address of a page that answers."""
    command = [sys.executable, "-m", "internvl", "ui", "--no-browser", "--port", str(PORT), *more]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | environment)
    address = f"http://127.0.0.1:{PORT}{place}"
    try:
        while server.poll() is None:
            with suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def tab(browser: Browser, address: str, viewport: dict[str, int], **more: object) -> Generator[Page]:
    context = browser.new_context(**{"viewport": viewport, "locale": "en", **more})  # pyright: ignore[reportArgumentType]
    page = context.new_page()
    page.goto(address)
    expect(page.locator(".iv-model")).not_to_have_text("", timeout=120_000)
    yield page
    context.close()


def ask(page: Page, text: str, *files: Path) -> None:
    """A question with files, until it is answered."""
    if files:
        page.set_input_files(".iv-pick", [str(file) for file in files])
        expect(page.locator(".iv-files li:not(.iv-loading)")).to_have_count(len(files), timeout=60_000)
    page.fill("#iv-question", text)
    page.press("#iv-question", "Enter")
    answered(page)


def answered(page: Page) -> None:
    expect(page.locator(".iv-item.model").last.locator(".iv-took")).to_be_visible(timeout=60_000)
    page.mouse.move(0, 0)


def take(page: Page, name: str, size: tuple[int, int] | None = None) -> None:
    page.wait_for_timeout(800)  # what moves comes to rest
    with Image.open(BytesIO(page.screenshot())) as shot:
        (shot if size is None else shot.resize(size)).convert("RGB").save(DOCS / f"ui_{name}.webp", quality=82)
    print(f"docs/ui_{name}.webp", flush=True)


def moving(path: Path) -> None:
    """A film of three seconds: a red square goes from left to right."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for at in range(24):
            image = Image.new("RGB", (320, 240), "white")
            ImageDraw.Draw(image).rectangle((10 + 10 * at, 80, 70 + 10 * at, 140), fill="red")
            out.mux(stream.encode(av.VideoFrame.from_image(image)))  # pyright: ignore[reportUnknownMemberType]
        out.mux(stream.encode())


def boxes(browser: Browser) -> None:
    with listening(Echo()) as server:
        server.backend.reply = BOXES
        at = "--endpoint", f"{server.address}/v1"
        with page_served(*at, place="/", OPENAI_API_KEY=KEY) as address, tab(browser, address, WIDE) as page:
            ask(page, "Where are the stars?", EXAMPLES / "shapes.png")
            take(page, "boxes")


def with_nano(browser: Browser, address: str, folder: Path) -> None:
    with tab(browser, address, WIDE) as page:
        take(page, "welcome")
    with tab(browser, address, WIDE, locale="zh-CN") as page:
        page.locator("[data-act=theme]:visible").click()
        page.locator(".iv-example").nth(1).click()
        answered(page)
        page.locator("[data-act=tiles]:visible").last.click()
        page.locator("[data-act=settings]:visible").click()
        take(page, "dark")
    moving(folder / "clip.mp4")
    with tab(browser, address, PHONE, device_scale_factor=2, has_touch=True, is_mobile=True) as page:
        ask(page, "What happens?", folder / "clip.mp4")
        take(page, "phone", (546, 1182))


def main() -> None:
    chromium = os.environ.get("INTERNVL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as player, tempfile.TemporaryDirectory() as name:
        browser, folder = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"]), Path(name)
        with page_served() as address:
            with_nano(browser, address, folder)
        boxes(browser)
        browser.close()


if __name__ == "__main__":
    main()
