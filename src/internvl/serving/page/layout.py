"""The page as Gradio draws it: our component, the settings beside it, and which event does what.

Gradio is imported when a page is made: whoever serves without one need not have it.
"""

# pyright: reportMissingImports=false, reportUnnecessaryTypeIgnoreComment=false
# Gradio is of the extra `ui`, which is not everywhere.
from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from internvl.errors import MediaError
from internvl.serving.page.ask import Endpoint, Failed
from internvl.serving.page.desk import Page, asked_of, language_from, notice
from internvl.serving.page.guard import PERSON
from internvl.serving.page.talk import Json, Talk, Wishes, seed_of, whole
from internvl.serving.page.words import Language, say

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from gradio.themes import Base

log = logging.getLogger("internvl.page")
FILES = Path(__file__).parent / "files"
GLANCE = 0.02
"""Seconds between two looks of Gradio at its queue; its own thousand a second keep a core from the model."""
Sliders = Sequence[tuple[str, float, float, float, float]]
# fmt: off
ANSWERING: Sliders = (
    #  word           from   to    step  at first
    ("temperature",   0,     2,    0.05, 0),
    ("top_p",         0.05,  1,    0.05, 1),
    ("top_k",         0,     100,  1,    0),
    ("repetition",    1,     2,    0.05, 1),
    ("max_tokens",    16,    4096, 16,   512),
)
SIGHT: Sliders = (
    ("max_tiles",     0,     40,   1,    0),
    ("num_frames",    1,     32,   1,    8),
)
# fmt: on


@dataclass(frozen=True)
class Layout:
    """The components of the page."""

    talk: Any
    """Our own: the conversation and the question."""
    model: Any
    settings: tuple[Any, ...]
    """What an event is told, in the order of `wishes_of`."""
    named: tuple[tuple[Any, str], ...]
    """Components with words, and which."""
    groups: tuple[tuple[Any, str], ...]


def blocks_of(page: Page) -> gr.Blocks:
    """Everything on the page, and what happens to it."""
    import gradio as gr

    with gr.Blocks(title="InternVL", analytics_enabled=False, fill_width=True) as blocks:
        layout = _layout()
        _events(blocks, page, layout)
    return blocks


def mounted(outer: FastAPI, blocks: gr.Blocks, page: Page, place: str) -> FastAPI:
    """Gradio's application inside `outer`. All files lie in the page's own folder."""
    import gradio as gr
    from gradio.routes import App

    folder = str(page.desk.folder)
    blocks.queue(default_concurrency_limit=None, max_size=1000, api_open=False)
    queue: Any = vars(blocks)["_queue"]
    queue.sleep_when_free = queue.progress_update_sleep_when_free = GLANCE
    gr.mount_gradio_app(
        outer, blocks, path="/", root_path=None if place == "/" else place, footer_links=[], run_history=False,
        allowed_paths=[folder], max_file_size=page.most, show_error=False, ssr_mode=False, enable_monitoring=False,
        pwa=False, mcp_server=False, theme=_theme(),
    )  # fmt: skip
    for block in blocks.blocks.values():
        block.GRADIO_CACHE = folder
    for route in outer.routes:
        inner = getattr(route, "app", None)
        if isinstance(inner, App):
            inner.uploaded_file_dir = folder  # pyright: ignore[reportOptionalMemberAccess]
    return outer


def _theme() -> Base:
    """Quiet greys and one blue; fonts of the machine only."""
    from gradio.themes import Base

    letters = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "PingFang SC", "Noto Sans CJK SC",
               "Microsoft YaHei", "sans-serif")  # fmt: skip
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    return Base(primary_hue="blue", neutral_hue="slate", font=list(letters), font_mono=list(mono))


# ---- what is where ---------------------------------------------------------------------------------------------------


def _layout() -> Layout:
    import gradio as gr

    talk = gr.HTML(
        {},
        html_template=(FILES / "talk.html").read_text(encoding="utf-8"),
        js_on_load=(FILES / "talk.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="iv-talk",
    )
    with gr.Column(elem_id="iv-settings"):
        model = gr.Dropdown([], value=None, label=say("model_label", "en"), elem_id="iv-set-model")
        system = gr.Textbox(
            "", lines=2, max_lines=8, label=say("system", "en"), info=say("system_info", "en"), elem_id="iv-set-system"
        )
        answering = gr.Markdown(_group("group_answer", "en"), elem_classes="iv-group")
        drawn = [_slider(*row) for row in ANSWERING]
        seed = gr.Textbox("", max_lines=1, label=say("seed", "en"), info=say("seed_info", "en"), elem_id="iv-set-seed")
        sight = gr.Markdown(_group("group_sight", "en"), elem_classes="iv-group")
        seen = [_slider(*row) for row in SIGHT]
    words = [row[0] for row in (*ANSWERING, *SIGHT)]
    sliders = list(zip([*drawn, *seen], words, strict=True))
    named = ((model, "model_label"), (system, "system"), *sliders, (seed, "seed"))
    settings = (model, system, *drawn, seed, *seen)
    return Layout(talk, model, settings, named, ((answering, "group_answer"), (sight, "group_sight")))


def _group(word: str, language: Language) -> str:
    return f"### {say(word, language)}"


def _slider(word: str, low: float, high: float, step: float, first: float) -> Any:
    import gradio as gr

    return gr.Slider(
        low, high, first, step=step, label=say(word, "en"), info=say(f"{word}_info", "en"), elem_id=f"iv-set-{word}"
    )


def wishes_of(values: Sequence[Any], owners: dict[str, str | None]) -> Wishes:
    """The settings as the page has them. What is no number, or out of range, is the default."""
    model, system, *numbers = values
    drawn, seed, seen = numbers[: len(ANSWERING)], numbers[len(ANSWERING)], numbers[len(ANSWERING) + 1 :]
    rows = (*ANSWERING, *SIGHT)
    temperature, top_p, top_k, repetition, max_tokens, max_tiles, num_frames = (
        _inside(value, low, high, first) for value, (_, low, high, _, first) in zip((*drawn, *seen), rows, strict=True)
    )
    name = str(model) if model else next(iter(owners), "")
    return Wishes(
        model=name, owner=owners.get(name), system=str(system or ""), temperature=temperature, top_p=top_p,
        top_k=int(top_k), repetition_penalty=repetition, max_tokens=int(max_tokens),
        seed=seed_of(seed), max_tiles=int(max_tiles),
        num_frames=int(num_frames),
    )  # fmt: skip


def _inside(value: object, low: float, high: float, first: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(max(float(cast(float, value)), low), high) if number and value == value else first


WORD_OF = {"max_tiles": "max_tiles", "repetition_penalty": "repetition", "top_k": "top_k"}
"""What the page calls fields that are not OpenAI's."""
EVENTS = ("ask", "again", "example", "stop", "undo", "new", "vote", "save", "tiles", "speak", "leave")
"""Methods of `Wiring`, by the names under which the component says them."""

# ---- what happens ----------------------------------------------------------------------------------------------------


class Wiring:
    """From Gradio's events to the page, and back."""

    def __init__(self, page: Page, layout: Layout) -> None:
        self.page, self.layout = page, layout

    def who(self, request: gr.Request) -> tuple[Talk, Endpoint]:
        """The conversation, and the server as this person reaches it."""
        scope = _scope(request)
        talk = self.page.talk_of(request.session_hash or "", scope.get(PERSON, ""))
        return talk, self.page.endpoint(scope)

    async def sight(self, talk: Talk, **more: Any) -> Json:
        """What the browser shows."""
        return await self.page.desk.aside(self.page.sight, talk, **more)

    async def wishes(self, talk: Talk, endpoint: Endpoint, values: Sequence[Any]) -> Wishes:
        try:
            owners = await self.page.models(endpoint)
        except Failed:
            owners = {}  # the question itself will say what is wrong
        wishes = wishes_of(values, owners)
        talk.model = wishes.model
        return wishes

    async def growing(self, talk: Talk, wishes: Wishes, steps: AsyncGenerator[None]) -> AsyncGenerator[Json]:
        """The page at each step, and at the end."""
        more: Json = {}
        if wishes.left_out:
            names = ", ".join(say(WORD_OF[name], talk.language) for name in wishes.left_out)
            more = {"notice": {"id": names, "text": say("left_out", talk.language, names=names)}}
        try:
            async for _ in steps:
                yield await self.sight(talk, **more)
        except Exception:
            log.exception("an answer ended with a fault")
        finally:
            await steps.aclose()
        yield await self.sight(talk)

    async def ask(self, event: gr.EventData, request: gr.Request, *values: Any) -> AsyncGenerator[Json]:
        talk, endpoint = self.who(request)
        asked = asked_of(_told(event), self.page.desk.folder)
        if asked.text or asked.files or asked.kept:
            wishes = await self.wishes(talk, endpoint, values)
            async for sight in self.growing(talk, wishes, self.page.ask(talk, asked, wishes, endpoint)):
                yield sight

    async def again(self, event: gr.EventData, request: gr.Request, *values: Any) -> AsyncGenerator[Json]:
        talk, endpoint = self.who(request)
        wishes = await self.wishes(talk, endpoint, values)
        async for sight in self.growing(talk, wishes, self.page.again(talk, wishes, endpoint)):
            yield sight

    async def example(self, event: gr.EventData, request: gr.Request, *values: Any) -> AsyncGenerator[Json]:
        talk, endpoint = self.who(request)
        number = whole(_told(event).get("number")) or 0
        wishes = await self.wishes(talk, endpoint, values)
        async for sight in self.growing(talk, wishes, self.page.example(talk, number, wishes, endpoint)):
            yield sight

    async def stop(self, request: gr.Request) -> None:
        self.who(request)[0].stopping.set()

    async def undo(self, request: gr.Request) -> Json:
        talk, _ = self.who(request)
        return await self.sight(talk, **self.page.undo(talk))

    async def new(self, request: gr.Request) -> Json:
        talk, _ = self.who(request)
        self.page.clear(talk)
        return await self.sight(talk)

    async def vote(self, event: gr.EventData, request: gr.Request) -> Json:
        talk, _ = self.who(request)
        told = _told(event)
        self.page.vote(talk, told.get("turn"), told.get("vote"), told.get("reason"))
        return await self.sight(talk)

    async def save(self, request: gr.Request) -> Json:
        talk, _ = self.who(request)
        try:
            more = await self.page.desk.aside(self.page.share, talk)
        except MediaError:
            more = notice(talk.language, Failed("expired"))
        return await self.sight(talk, **more)

    async def tiles(self, event: gr.EventData, request: gr.Request, *values: Any) -> Json:
        talk, endpoint = self.who(request)
        wishes = await self.wishes(talk, endpoint, values)
        try:
            more = await self.page.tiles(talk, _told(event).get("turn"), wishes, endpoint)
        except MediaError:
            more = notice(talk.language, Failed("expired"))
        return await self.sight(talk, **more)

    async def speak(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        """In which language everything is; also what a browser asks first."""
        talk, endpoint = self.who(request)
        talk.language = language_from(_told(event))
        more: Json = {}
        try:
            models = await self.page.models(endpoint)
        except Failed as error:
            models, more = {}, notice(talk.language, error)
            more["notice"]["id"] = error.word  # the browser asks until somebody answers, and says this once
        names = list(models)
        talk.model = talk.model if talk.model in names else next(iter(names), "")
        updates = [_renamed(component, word, talk.language) for component, word in self.layout.named]
        updates[0] |= {"choices": [(name, name) for name in names], "value": talk.model or None}
        groups = [_update(value=_group(word, talk.language)) for _, word in self.layout.groups]
        return [await self.sight(talk, **more), *updates, *groups]

    async def leave(self, request: gr.Request) -> None:
        self.page.leave(request.session_hash or "", _scope(request).get(PERSON, ""))


def _told(event: gr.EventData) -> Json:
    """What the browser said with an event; it may be anything."""
    said: object = event._data  # pyright: ignore[reportPrivateUsage]  # by attribute, only what is in it can be had
    return cast(Json, said) if isinstance(said, dict) else {}


def _scope(request: gr.Request) -> Json:
    return cast(Any, request.request).scope


def _renamed(component: Any, word: str, language: Language) -> Json:
    info: Json = {} if word == "model_label" else {"info": say(f"{word}_info", language)}
    return _update(label=say(word, language), **info)


def _update(**changed: Any) -> Json:
    """What changes of a component."""
    import gradio as gr

    return gr.update(**changed)


def _events(blocks: gr.Blocks, page: Page, layout: Layout) -> None:
    """Which event does what."""
    import gradio as gr

    wiring = Wiring(page, layout)
    for name in EVENTS:  # Gradio sees by types what it is to hand over
        getattr(Wiring, name).__annotations__.update(event=gr.EventData, request=gr.Request)
    talk, settings = layout.talk, list(layout.settings)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

    def on(event: str, do: Callable[..., Any], inputs: Sequence[Any] = (), outputs: Sequence[Any] = (talk,)) -> None:
        getattr(talk, event)(do, list(inputs), list(outputs), trigger_mode="multiple", **quiet)

    on("ask", wiring.ask, settings)
    on("again", wiring.again, settings)
    on("example", wiring.example, settings)
    on("stop", wiring.stop, outputs=())
    on("undo", wiring.undo)
    on("new", wiring.new)
    on("vote", wiring.vote)
    on("save", wiring.save)
    on("tiles", wiring.tiles, settings)
    words = [component for component, _ in (*layout.named, *layout.groups)]
    on("speak", wiring.speak, outputs=(talk, *words))
    blocks.unload(wiring.leave)
