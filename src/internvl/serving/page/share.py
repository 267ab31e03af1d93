"""A conversation as one HTML file that stands alone: pictures inside, nothing fetched, no script."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path

from internvl.serving.page.talk import Shown, Talk, address_of
from internvl.serving.page.view import items
from internvl.serving.page.words import say

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Even if something in it were a script, no browser would run it, or fetch anything for it."""
STYLE = Path(__file__).parent / "files" / "talk.css"


def html_of(talk: Talk, *, now: float | None = None) -> str:
    """The whole conversation. Raises MediaRefused where a picture's file is gone."""

    def link(shown: Shown) -> str:
        return address_of(shown.file)

    model = next((turn.model for turn in reversed(talk.turns) if turn.model), "")
    title = escape(say("saved", talk.language, model=model))
    date = escape(say("saved_on", talk.language, date=time.strftime("%Y-%m-%d", time.gmtime(now))))
    messages = "\n".join(
        f'<article class="iv-item {one["role"]}">{one["html"]}</article>' for one in items(talk, link, alone=True)
    )
    language = "zh-CN" if talk.language == "zh" else "en"
    return f"""<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{STYLE.read_text(encoding="utf-8")}
</style>
</head>
<body class="iv-alone">
<main class="iv">
<header><h1>{title}</h1><p>{date}</p></header>
<div class="iv-log">
{messages}
</div>
</main>
</body>
</html>
"""
