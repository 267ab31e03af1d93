"""A conversation as HTML: everything that was typed or answered is text, whatever it spells.

    question --> escaped text, its pictures, the grid they were cut into
    answer   --> Markdown without HTML and outside pictures, its regions drawn on the picture, what it took

Regions are drawn in thousandths of the picture, as the model writes them: no picture is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from internvl.data.boxes import Box, parse
from internvl.serving.page.talk import Shown, Talk, Turn, Upload
from internvl.serving.page.words import Language, say

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

Link = Callable[[Shown], str]
"""Where a browser finds a picture."""
THOUSANDTHS = (1000, 1000)
COLOURS = 8
"""Of regions; the stylesheet has them."""
OVER = 'viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true"'
"""Of what is drawn over a picture, in thousandths of it."""
MOST_REGIONS = 100
"""That are drawn; an answer of thousands would only hide the picture."""
REGION = re.compile(
    r"(?:<ref>(?P<ref>(?:(?!</?ref>).)*)</ref>\s*)?<(?P<tag>box|quad)>[^<]*</(?P=tag)>|<ref>(?P<only>(?:(?!</?ref>).)*)</ref>",
    re.DOTALL,
)
OPEN, CLOSE = "\ue000", "\ue001"
"""Stand for a region while Markdown is read; they are taken out of what was answered."""


@dataclass(frozen=True)
class View:
    """How a conversation is drawn."""

    language: Language
    link: Link
    alone: bool = False
    """A saved file: nothing to press."""

    def say(self, word: str, **filled: object) -> str:
        """One of the words, as HTML."""
        return escape(say(word, self.language, **filled))


# ---- text ------------------------------------------------------------------------------------------------------------


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True}).enable(
        ["table", "strikethrough"]
    )
    # A picture of another place would be fetched by whoever reads the answer, and tell that place so.
    return reader.disable(["image", "html_block", "html_inline", "entity"])


def markdown(text: str) -> str:
    """Markdown as HTML that holds no HTML of the text's own.

    >>> markdown("*a* <b>")
    '<p><em>a</em> &lt;b&gt;</p>\\n'
    """
    reader = _markdown()
    tokens = reader.parse(text)
    for token in (inner for outer in tokens for inner in (outer, *(outer.children or ()))):
        if token.type == "link_open":
            where = str(token.attrGet("href") or "")
            token.attrSet("href", where if re.match(r"(https?|mailto):", where, re.IGNORECASE) else "#")
            token.attrSet("rel", "noopener noreferrer nofollow")
            token.attrSet("target", "_blank")
    return reader.renderer.render(tokens, reader.options, {})


def answer_text(text: str, view: View) -> str:
    """An answer with its regions as words that are the colour of their box."""
    plain = text.replace(OPEN, "").replace(CLOSE, "")
    chips: list[str] = []
    shades = shades_of(parse(plain, THOUSANDTHS))
    drawn = read = 0

    def chip(match: re.Match[str]) -> str:
        nonlocal drawn, read
        drawn += len(parse(plain[read : match.start()], THOUSANDTHS))  # regions without tags
        read = match.end()
        label = match["ref"] if match["ref"] is not None else match["only"]
        count = len(parse(match[0], THOUSANDTHS))
        shade = shades[drawn] if drawn < len(shades) else 0
        chips.append(_chip(label, range(drawn, drawn + count), shade, view))
        drawn += count
        return f"{OPEN}{len(chips) - 1}{CLOSE}"

    marked = REGION.sub(chip, plain)
    html = markdown(marked)
    return re.sub(f"{OPEN}(\\d+){CLOSE}", lambda match: chips[int(match[1])], html)


def _chip(label: str | None, numbers: Sequence[int], shade: int, view: View) -> str:
    if not numbers:
        return escape(label or "")
    words = escape(label) if label else view.say("region", number=numbers[0] + 1)
    places = " ".join(map(str, numbers))
    return f'<span class="iv-chip c{shade}" data-regions="{places}">{words}</span>'


# ---- pictures --------------------------------------------------------------------------------------------------------


def regions(turn: Turn) -> list[Box]:
    """What an answer points at, in thousandths of the picture."""
    return parse(turn.answer, THOUSANDTHS)[:MOST_REGIONS]


def shades_of(boxes: Sequence[Box]) -> list[int]:
    """A colour for each region: the same for those of one name.

    >>> shades_of(parse("<ref>a</ref><box>[[1,2,3,4],[5,6,7,8]]</box><ref>b</ref><box>[[1,2,3,4]]</box>", THOUSANDTHS))
    [0, 0, 1]
    """
    names: dict[str | int, int] = {}
    return [names.setdefault(box.label or place, len(names)) % COLOURS for place, box in enumerate(boxes)]


def marked(shown: Shown, boxes: Sequence[Box], alt: str, view: View) -> str:
    """A picture with regions drawn on it, and their names."""
    shapes: list[str] = []
    names: list[str] = []
    for place, (box, shade) in enumerate(zip(boxes, shades_of(boxes), strict=True)):
        left, top, right, bottom = box.xyxy
        points = box.corners or ((left, top), (right, top), (right, bottom), (left, bottom))
        written = " ".join(f"{x:g},{y:g}" for x, y in points)
        label = escape(box.label) if box.label else view.say("region", number=place + 1)
        shapes.append(f'<polygon class="c{shade}" data-region="{place}" points="{written}"/>')
        high = "" if top > 60 else " low"
        side = " right" if left > 600 else ""
        at = f"right:{(1000 - right) / 10:g}%" if side else f"left:{left / 10:g}%"
        names.append(
            f'<span class="iv-name c{shade}{high}{side}" data-region="{place}" '
            f'style="{at};top:{top / 10:g}%">{label}</span>'
        )
    return (
        f'<figure class="iv-marked"><div class="iv-on"><img src="{escape(view.link(shown))}" alt="{escape(alt)}" '
        f'width="{shown.size[0]}" height="{shown.size[1]}"><svg {OVER}>{"".join(shapes)}</svg>{"".join(names)}</div>'
        "</figure>"
    )


def grid_of(tiles: int, size: tuple[int, int]) -> tuple[int, int]:
    """The (columns, rows) of a picture that became so many tiles, its thumbnail counted.

    Of the grids of one number of tiles the family takes that whose form is nearest to the picture's.

    >>> grid_of(9, (1920, 1080)), grid_of(1, (500, 400))
    ((4, 2), (1, 1))
    """
    count = tiles - 1 if tiles > 2 else 1
    grids = [(columns, count // columns) for columns in range(1, count + 1) if count % columns == 0]
    return min(grids, key=lambda grid: abs(size[0] / size[1] - grid[0] / grid[1]))


def _grid(tiles: int, shown: Shown, view: View) -> tuple[str, str]:
    """The lines along which a picture was cut, and how many tiles that makes."""
    columns, rows = grid_of(tiles, shown.size)
    down = (f"M{1000 * x / columns:g} 0V1000" for x in range(1, columns))
    across = (f"M0 {1000 * y / rows:g}H1000" for y in range(1, rows))
    lines = "".join((*down, *across))
    said = view.say("tiles_said", columns=columns, rows=rows) if lines else view.say("tile_said")
    line = f'<path d="{lines}"/>'
    return f'<svg class="iv-grid" {OVER}>{line * 2}</svg>', said  # the wider one below shows on dark pictures


def alt_of(upload: Upload, shown: Shown, number: int, language: Language) -> str:
    match shown.kind:
        case "page":
            return say("page", language, number=shown.number, name=upload.name)
        case "frame":
            return say("frame", language, seconds=f"{shown.seconds:g}", name=upload.name)
        case _:
            return say("picture", language, number=number, name=upload.name)


def _figure(upload: Upload, shown: Shown, number: int, tiles: int | None, view: View) -> str:
    alt = escape(alt_of(upload, shown, number, view.language))
    svg, said = ("", "") if tiles is None else _grid(tiles, shown, view)
    under = {"page": str(shown.number), "frame": f"{shown.seconds:g} s"}.get(shown.kind, "")
    caption = " · ".join(one for one in (under, said) if one)
    pressed = "" if view.alone else ' tabindex="0" role="button"'
    return (
        f'<figure class="iv-shown {shown.kind}"><div class="iv-on"><img src="{escape(view.link(shown))}" alt="{alt}" '
        f'title="{alt}" width="{shown.size[0]}" height="{shown.size[1]}"{pressed}>{svg}</div>'
        + (f"<figcaption>{caption}</figcaption>" if caption else "")
        + "</figure>"
    )


def pictures(turn: Turn, view: View) -> str:
    """What was sent with a question: pictures side by side, pages and frames in a strip under their file's name."""
    parts: list[str] = []
    place = 0
    for upload in turn.uploads:
        figures = ""
        for shown in upload.shown:
            tiles = turn.tiles[place] if turn.tiles and place < len(turn.tiles) else None
            figures += _figure(upload, shown, place + 1, tiles, view)
            place += 1
        kind = upload.shown[0].kind if upload.shown else "picture"
        if kind == "picture":
            parts.append(figures)
        else:
            said = view.say(f"{kind}s", name=upload.name, count=len(upload.shown))
            film = f'<div class="iv-film" tabindex="0" role="group" aria-label="{said}">{figures}</div>'
            parts.append(f'<div class="iv-strip"><p>{said}</p>{film}</div>')
    return f'<div class="iv-pictures">{"".join(parts)}</div>' if parts else ""


# ---- messages --------------------------------------------------------------------------------------------------------


def question(turn: Turn, view: View) -> str:
    """What a person asked."""
    text = f'<div class="iv-text">{escape(turn.text)}</div>' if turn.text else ""
    names = "".join(f"<li>{escape(name)}</li>" for name in turn.sent)
    sent = f'<ul class="iv-sent">{names}</ul>' if names else ""
    tools = ""
    if not view.alone:
        tools = _button("edit", turn, view)
        if turn.shown:
            tools += _button("tiles_off" if turn.tiles else "tiles", turn, view, act="tiles", pressed=bool(turn.tiles))
    row = f'<div class="iv-tools">{tools}</div>' if tools else ""
    return f'<h3 class="iv-sr">{view.say("you")}</h3>{pictures(turn, view)}{sent}{text}{row}'


def answer(turn: Turn, view: View, *, seen: Shown | None, last: bool) -> str:
    """What was answered; seen: the picture that its regions are on; last: it may be asked for again."""
    head = f'<h3 class="iv-sr">{view.say("model")}</h3>'
    if turn.is_running:
        return head + _growing(turn, view)
    body = f'<div class="iv-text">{answer_text(turn.answer, view)}</div>' if turn.answer.strip() else ""
    if turn.state in ("done", "stopped") and not body:
        body = f'<p class="iv-quiet">{view.say("empty")}</p>'
    found = regions(turn)
    if found and seen:
        body += marked(seen, found, say("found", view.language), view)
    if turn.failure:
        word, filled = turn.failure
        again = "" if view.alone or not last or turn.sent else _button("retry", turn, view, act="again", label=True)
        body += f'<div class="iv-wrong"><p>{view.say(word, **filled)}</p>{again}</div>'
    if took := took_of(turn, view):
        body += f'<p class="iv-took" aria-label="{view.say("usage")}">{took}</p>'
    return head + body + ("" if view.alone else _answer_tools(turn, view, last))


def _growing(turn: Turn, view: View) -> str:
    if turn.state == "growing":
        return f'<div class="iv-text iv-growing">{answer_text(turn.answer, view)}</div>'
    word = "reading" if turn.state == "reading" else "thinking"
    return (
        f'<p class="iv-wait"><span class="iv-dots" aria-hidden="true"><i></i><i></i><i></i></span>{view.say(word)}</p>'
    )


def _answer_tools(turn: Turn, view: View, last: bool) -> str:
    tools = _button("copy", turn, view) if turn.answer else ""
    if last:
        tools += _button("again", turn, view) if not turn.failure and not turn.sent else ""
        tools += _button("undo", turn, view)
    if turn.answer:
        votes = ("up", "down", "flag")
        tools += "".join(_button(vote, turn, view, act="vote", pressed=turn.vote == vote) for vote in votes)
    thanks = f'<span class="iv-thanks" role="status">{view.say("noted")}</span>' if turn.vote else ""
    return f'<div class="iv-tools">{tools}{thanks}</div>'


def _button(
    word: str, turn: Turn, view: View, *, act: str = "", pressed: bool | None = None, label: bool = False
) -> str:
    said = view.say(word)
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    told = f'data-act="{act or word}" data-word="{word}" data-turn="{turn.number}" title="{said}" aria-label="{said}"'
    return (
        f'<button type="button" class="iv-act{" iv-labelled" if label else ""}" {told}{state}>'
        f'<span class="iv-icon i-{word}" aria-hidden="true"></span>{said if label else ""}</button>'
    )


def took_of(turn: Turn, view: View) -> str:
    """The line under an answer: what it took, and whether it ended early."""
    said: list[str] = []
    took = turn.took
    if took:
        if took.first is not None:
            said.append(view.say("first_token", seconds=f"{took.first:.1f}"))
        growing = took.seconds - (took.first or 0)
        if took.answer and growing > 0.05 and took.answer > 1:
            said.append(view.say("answer_tokens", count=f"{took.answer:,}", speed=f"{(took.answer - 1) / growing:.0f}"))
        elif took.answer:
            said.append(view.say("answer_token", count=f"{took.answer:,}"))
        for word, count in (
            ("prompt_tokens", took.prompt),
            ("image_tokens", took.image),
            ("cached_tokens", took.cached),
        ):
            said += [view.say(word, count=f"{count:,}")] if count else []
    said += [view.say("stopped")] if turn.state == "stopped" else []
    said += [view.say("cut")] if turn.finish == "length" else []
    return " · ".join(said)


def items(talk: Talk, link: Link, *, alone: bool = False) -> list[dict[str, Any]]:
    """The conversation, message by message: {id, role, html}."""
    view = View(talk.language, link, alone)
    turns = tuple(talk.turns)  # one may begin, or all go, while they are drawn in a thread
    found: list[dict[str, Any]] = []
    seen: Shown | None = None
    for turn in turns:
        seen = turn.shown[-1] if turn.shown else seen
        asked, answered = _drawn(turn, view, seen=seen, last=turn is turns[-1])
        found.append({"id": f"q{turn.number}", "role": "user", "html": asked})
        found.append({"id": f"a{turn.number}", "role": "model", "html": answered})
    return found


def _drawn(turn: Turn, view: View, *, seen: Shown | None, last: bool) -> tuple[str, str]:
    """Question and answer. The whole conversation is seen anew at each piece of an answer; most of it is as it was."""
    source = (view, seen, last, *(value for name, value in vars(turn).items() if name != "drawn"))
    if not view.alone and turn.drawn is not None and turn.drawn[0] == source:
        return turn.drawn[1]
    html = question(turn, view), answer(turn, view, seen=seen, last=last)
    if not view.alone:
        turn.drawn = source, html
    return html
