"""The report: it stands alone, says what it must, and takes nothing that a model or a dataset wrote for markup."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from internvl.errors import MissingExtra
from internvl.evaluation import report
from internvl.evaluation.benchmark import Footage, Mark, Marked, Picture, Sample, Scores
from internvl.evaluation.report import Bounds, report_html, shown_figure, write_report
from tests.evaluation.finished import PUBLISHED, picture, rows, run, task

VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and the text inside each."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    def all(self, tag, **attributes):
        return [given for name, given in self.elements
                if name == tag and all(given.get(key) == value for key, value in attributes.items())]  # fmt: skip

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page(*tasks, bounds=None, **manifest) -> Page:
    return Page(report_html(run(*tasks, **manifest), bounds=bounds))


def cards(found: Page) -> list[dict[str, str | None]]:
    return [given for given in found.all("li") if given.get("class") == "card"]


def marked(count: int, right: int, withheld: int = 0, **sample) -> list[Marked]:
    """The first so many right, the last so many without a mark."""
    return rows({f"q{n}": None if n >= count - withheld else float(n < right) for n in range(count)}, **sample)


# ---- it stands alone -------------------------------------------------------------------------------------------------


def test_nothing_comes_from_outside():
    found = page(task(marked(4, 2, pictures=(picture("a.png"),)), published=PUBLISHED))
    for tag, given in found.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "video", "audio", "source")
        assert not any(name.startswith("on") for name in given)
        for name in ("src", "href", "srcset", "data", "action"):
            address = given.get(name) or ""
            assert address.startswith(("data:image/webp;base64,", "#")) or name not in given
    html = report_html(run(task(marked(4, 2))))
    [style] = re.findall(r"<style>(.*?)</style>", html, flags=re.S)
    assert "url(" not in style
    assert "@import" not in style


def test_the_browser_is_told_to_run_this_script_only():
    html = report_html(run(task(marked(2, 1))))
    [policy] = [given["content"] for given in Page(html).all("meta", **{"http-equiv": "Content-Security-Policy"})]
    [script] = re.findall(r"<script>(.*?)</script>", html, flags=re.S)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src '{report.csp_hash(script)}'" in policy
    assert html.startswith("<!doctype html>")
    assert "fetch(" not in script
    assert "innerHTML" not in script


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}"


def test_what_was_written_is_text():
    sample = Sample(id=HOSTILE, prompt=HOSTILE, answer=[HOSTILE, HOSTILE], facts={"category": HOSTILE},
                    pictures=(picture(HOSTILE), Picture(HOSTILE, lambda: b"no picture")))  # fmt: skip
    row = Marked(sample, HOSTILE, Mark(1.0, HOSTILE + "!", {HOSTILE: 0.5}))
    score = dataclasses.replace(PUBLISHED[0], model=HOSTILE, source=HOSTILE, options=HOSTILE)
    given = task([row, dataclasses.replace(row, sample=dataclasses.replace(sample, facts={"category": "other"}))],
                 title=HOSTILE, note=HOSTILE, asked={HOSTILE: HOSTILE}, judge={HOSTILE: HOSTILE},
                 published=(score,))  # fmt: skip
    given = dataclasses.replace(given, scores=dataclasses.replace(given.scores, withheld={HOSTILE: HOSTILE}))
    found = page(given, name=HOSTILE.replace("/", ""), model={"name": HOSTILE.replace("/", "")})
    assert len(found.all("script")) == 1
    assert len(found.all("img")) == 2
    assert all("onerror" not in given for given in found.all("img"))
    assert found.text.count(HOSTILE) >= 12
    assert "49" not in found.text
    assert cards(found)[0]["data-category"] == HOSTILE


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_the_figures_stand_beside_published_ones():
    found = page(task(marked(100, 60), title="ChartQA", published=PUBLISHED))
    assert "ChartQA accuracy 60.0 " in found.text
    assert "100 83.3 InternVL2-8B" in found.text
    assert "InternVL2-2B accuracy 76.2" in found.text
    assert found.text.count("not run by us") >= 3
    assert "\N{CHECK MARK} 60 right" in found.text
    other = page(task(marked(10, 6), published=PUBLISHED), model={"name": "OpenGVLab/InternVL2-2B"})
    assert "10 76.2 InternVL2-2B" in other.text


def test_what_was_run_is_said():
    found = page(task(marked(2, 1)), device="cuda", machine={"gpus": ["H100"]}, begun="2024-12-01")
    for told in ("InternVL2-8B", "sha256:12ab", "torch 2.13", "cuda", "H100", "2024-12-01", '"max_tiles": 6', "monday"):
        assert told in found.text


def test_withheld_scores_say_why():
    found = page(task(marked(3, 2, withheld=1)))
    assert "withheld: 1 of 3 answers have no mark" in found.text
    assert [card["data-verdict"] for card in cards(found)] == ["right", "right", "withheld"]


def test_how_it_was_scored_is_said():
    fallback = page(task(marked(2, 1), marked_by="fallback", compat="original"))
    assert "a rule that stands in for a judge" in fallback.text
    assert "(rule instead of a judge)" in fallback.text
    assert 'compat="original"' in fallback.text
    judged = page(task(marked(2, 1), marked_by="judge", judge={"judge": "gpt-4", "version": "2", "unreadable": 1}))
    assert "judge: judge gpt-4, version 2, unreadable 1" in judged.text
    assert "60 of 2078 samples" in page(task(marked(2, 1), asked={"samples": 60, "of": 2078})).text
    plain = page(task(marked(2, 1)))
    assert "stands in" not in plain.text
    assert " samples" not in plain.text
    assert "compat" not in plain.text


def test_several_seeds():
    given = task({0: marked(10, 5), 7: marked(10, 7)})
    given = dataclasses.replace(given, intervals={"accuracy": (30, 80), "accuracy, over seeds": (47.3, 72.7)})
    found = page(given)
    assert "over seeds seed 0 seed 7" in found.text
    assert "47.3 \N{EN DASH} 72.7 50.0 70.0" in found.text
    assert "means over the seeds 0, 7" in found.text
    assert len(cards(found)) == 10


def test_groups_are_bars():
    given = [Marked(row.sample, row.answer, row.mark) for row in marked(8, 6)]
    given = [dataclasses.replace(row, sample=dataclasses.replace(row.sample, facts={"category": "ab"[n % 2] * 3}))
             for n, row in enumerate(given)]  # fmt: skip
    given[0] = dataclasses.replace(given[0], mark=Mark(0.0))
    found = page(task(given))
    widths = [bar["style"] for bar in found.all("span", **{"class": "bar"})]
    assert widths == ["width:50.0%", "width:75.0%"]
    assert "By category" in found.text
    assert "aaa 50.0" in found.text
    few = page(task(given), bounds=Bounds(groups=1))
    assert len(few.all("span", **{"class": "bar"})) == 1
    assert "and 1 more, in scores.json" in few.text


def test_answers_are_shown_with_everything_that_was_compared():
    sample = Sample(id="q", prompt="How many?", answer=["two", "two", "2"], facts={"category": "count"})
    found = page(task([Marked(sample, "It is two.", Mark(0.9, "two", {"distance": 0.25}))]))
    assert (
        "right 0.90 q count asked How many? answer It is two. read as two truth two (2), 2 distance 0.25" in found.text
    )
    assert "truth not known here" in page(task([Marked(Sample(id="q", prompt=""), "x", Mark(None))])).text
    assert "answer (nothing)" in page(task([Marked(sample, "", Mark(0.0))])).text


@pytest.mark.parametrize(("value", "text"), [
    (71.25, "71.2"), (0.0, "0.0"), (1648.14, "1648.1"), (0.7934, "0.793"), (0.5, "0.5"), (-3.25, "-3.25"), (None, "-"),
])  # fmt: skip
def test_numbers_as_papers_print_them(value, text):
    assert shown_figure(value) == text


# ---- people ----------------------------------------------------------------------------------------------------------


def test_it_can_be_used_by_everyone():
    found = page(task(marked(4, 2, pictures=(picture("a.png"),)), published=PUBLISHED))
    assert found.all("html", lang="en")
    assert found.all("meta", name="viewport")
    assert all(given.get("alt") == "a.png" for given in found.all("img"))
    labelled = {given.get("for") for given in found.all("label")}
    for tag in ("select", "input"):
        for given in found.all(tag):
            assert given.get("type") == "checkbox" or given.get("aria-label") or given.get("id") in labelled
    ids = {given["id"] for _, given in found.elements if "id" in given}
    for _, given in found.elements:
        assert set((given.get("aria-labelledby") or "").split()) <= ids
        assert not (given.get("href") or "#").removeprefix("#") or given["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert found.all("span", role="status")


def test_without_script_everything_is_there():
    """The tools need it, and are hidden until it runs; no answer is."""
    found = page(task(marked(4, 2)))
    [tools] = [given for given in found.all("div") if given.get("class") == "tools"]
    assert "hidden" in tools
    assert not any("hidden" in card for card in cards(found))


def test_the_filter_can_tell_answers_apart():
    facts = {"facts": {"category": "ocr"}}
    found = page(task(marked(3, 1, **facts)), task(marked(3, 1), name="other"))
    assert {given["value"] for given in found.all("input", type="checkbox")} == {"right", "wrong", "withheld"}
    assert {given.get("value") for given in found.all("option")} >= {"colours", "other"}
    assert {card["data-task"] for card in cards(found)} == {"colours", "other"}
    assert {card["data-category"] for card in cards(found)} == {"ocr", ""}
    seen = page(task(marked(2, 1, facts={"category": True})))
    assert {card["data-category"] for card in cards(seen)} == {"category: True"}


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_some_answers_of_each_kind_evenly_from_all():
    found = page(task(marked(1000, 300, withheld=100)), bounds=Bounds(answers=5))
    shown = [(card["data-verdict"]) for card in cards(found)]
    assert [shown.count(verdict) for verdict in ("right", "wrong", "withheld")] == [5, 5, 5]
    ids = [int(text[1:]) for text in found.texts if re.fullmatch(r"q\d+", text)]
    assert ids == [0, 60, 120, 180, 240, 300, 420, 540, 660, 780, 900, 920, 940, 960, 980]
    assert len(cards(page(task(marked(1000, 300)), bounds=Bounds(answers=0)))) == 0


def test_long_texts_are_cut():
    sample = Sample(id="q", prompt="p" * 5000, answer="t" * 5000)
    found = page(task([Marked(sample, "a" * 5000, Mark(0.0, "r" * 5000))]), bounds=Bounds(characters=100))
    assert all(len(text) < 200 for text in found.texts)
    assert found.text.count("(5,000 characters)") == 4


def sizes(found: Page) -> list[tuple[int, int]]:
    opened = [Image.open(io.BytesIO(base64.b64decode(given["src"].partition(",")[2]))) for given in found.all("img")]
    assert [f"{photo.format} {photo.width} {photo.height}" for photo in opened] == [
        f"WEBP {given['width']} {given['height']}" for given in found.all("img")
    ]
    return [photo.size for photo in opened]


def test_pictures_are_small_and_few():
    many = tuple(picture(f"{n}.png", size=(2000, 1000)) for n in range(7))
    found = page(task(marked(1, 1, pictures=many)), bounds=Bounds(pictures=3, side=100))
    assert sizes(found) == [(100, 50)] * 3
    assert "and 4 more" in found.text


def noise(name: str) -> Picture:
    data = io.BytesIO()
    Image.effect_noise((300, 300), 90).save(data, "PNG")
    return Picture(name, data.getvalue)


def test_the_page_has_a_size_that_benchmarks_share():
    one, other = (task(marked(20, 10, pictures=(noise(f"{name}.png"),)), name=name) for name in ("one", "other"))
    bounds = Bounds(bytes=200_000)
    html = report_html(run(one, other), bounds=bounds)
    addresses = re.findall(r'src="data:image/webp;base64,([^"]*)"', html)
    assert 100_000 < sum(len(base64.b64decode(address)) for address in addresses) <= 200_000
    assert "the page holds no more pictures" in html
    assert {"one.png", "other.png"} == {given["alt"] for given in Page(html).all("img")}


def test_a_picture_that_is_gone_is_said():
    def gone() -> bytes:
        raise FileNotFoundError("a.png is not there")

    found = page(task(marked(1, 1, pictures=(Picture("a.png", gone), Picture("b.png", lambda: b"nothing")))))
    assert "a.png: cannot be shown: a.png is not there" in found.text
    assert "b.png: cannot be shown: " in found.text
    assert not found.all("img")


def test_a_video_is_shown_by_one_frame(tmp_path):
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height = 160, 120
        for _ in range(16):
            file.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (160, 120), "gold"))))
        file.mux(stream.encode())
    found = page(task(marked(1, 1, footage=Footage("clip.mp4", path))))
    assert sizes(found) == [(160, 120)]
    gone = page(task(marked(1, 1, footage=Footage("clip.mp4", tmp_path / "gone.mp4"))))
    assert "clip.mp4: cannot be shown: " in gone.text


# ---- where it goes ---------------------------------------------------------------------------------------------------


def test_it_is_written_into_the_run(tmp_path):
    result = dataclasses.replace(run(task(marked(2, 1))), folder=tmp_path)
    assert write_report(result) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report_html(result)
    assert write_report(result, tmp_path / "other.html") == tmp_path / "other.html"


def test_an_empty_run_has_a_page():
    assert not cards(page())
    assert not cards(page(task([])))
    nothing = dataclasses.replace(task([]), scores=Scores(values={}), rows={}, by_seed={})
    assert "withheld: there is no figure" in page(nothing).text


def test_without_jinja(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"jinja2 \(pip install 'internvl\[eval\]'\)"):
        report_html(run())
