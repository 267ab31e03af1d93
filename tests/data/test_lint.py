"""`internvl lint`: each rule is broken and found alone; what it lets pass, training takes, with the same sizes."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl.data.encode import Encoder
from internvl.data.lint import lint
from internvl.data.lint_report import report_html
from internvl.data.lint_row import Examiner, Look, Seen
from internvl.data.lint_rules import RULES, conversation_faults, region_faults, repeated_share
from internvl.data.lint_tally import Twice, spread
from internvl.data.mixture import Source
from internvl.data.prepare import PrepareChat
from internvl.data.records import record
from internvl.errors import ConfigError, InternVLError, UsageError
from internvl.weights.load import load_encoder, load_tokenizer
from tests.conftest import golden


@pytest.fixture(scope="module")
def encoder():
    """nano's, with tiles."""
    encoder = load_encoder()
    encoder.config = replace(encoder.config, dynamic=True, max_tiles=6)
    return encoder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for place, size in enumerate([(60, 50), (224, 112), (90, 300), (300, 301)]):
        noise = np.random.default_rng(place).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{place}.png")
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "huge.png").write_bytes((folder / "1.png").read_bytes())
    Image.new("RGB", (10, 90)).save(folder / "thin.png")
    return folder


def said(*turns, **media):
    """A conversation row: human and gpt in turn."""
    speakers = ("human", "gpt") * len(turns)
    return {
        "conversations": [{"from": who, "value": text} for who, text in zip(speakers, turns, strict=False)],
        **media,
    }


def looked(tmp_path, lines, pictures, kind="conversation", look=None, **options):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in lines), encoding="utf-8"
    )
    source = Source(annotation=str(file), name="rows", root=str(pictures), kind=kind)
    return lint([source], look or Look(), **options), [source]


CLEAN = said("<image>\nWhat is it?", "A picture of noise.", image="0.png")
LONG = " ".join(map(str, range(3000)))
PAIR, LABEL = {"image": "0.png", "caption": "A bus."}, {"image": "0.png", "label": "bus"}
ASK = {"question": "What?", "chosen": "A bus, because it is red.", "rejected": "A car."}

TOOL = said("What?", "f()")
TOOL["conversations"] += [{"from": "function", "value": "4"}, {"from": "gpt", "value": "4"}]

BROKEN = {  # rule -> (kind of rows, rows of which the last is at fault)
    "schema": ("conversation", [CLEAN, '{"conversations": 5}']),
    "media-missing": ("conversation", [said("What?", "It.", image="none.png")]),
    "media-unreadable": ("conversation", [said("What?", "It.", image="broken.png")]),
    "media-refused": ("conversation", [said("What?", "It.", image="https://example.org/a.png")]),
    "placeholders": ("conversation", [said("<image> <image> What?", "It.", image="0.png")]),
    "nothing-learnt": ("conversation", [said("What?")]),
    "conversation": ("conversation", [TOOL]),
    "overlong": ("conversation", [said("Count: " + " ".join(map(str, range(4000))), "Done.")]),
    "empty-answer": ("conversation", [said("What?", " ")]),
    "empty-question": ("conversation", [said(" ", "It.")]),
    "turn-order": ("conversation", [said("What?", "It.", "And?")]),
    "system-empty": (
        "conversation",
        [{"conversations": [{"from": "system", "value": ""}, *said("What?", "It.")["conversations"]]}],
    ),
    "slot-in-text": ("conversation", [said("<IMG_CONTEXT> What?", "It.")]),
    "template-in-text": ("conversation", [said("What?<|im_end|>", "It.")]),
    "placeholder-in-answer": ("conversation", [said("What?", "<image> It.")]),
    "region-tags": ("conversation", [said("Where?", "<ref>a<ref>")]),
    "region-pixels": ("conversation", [said("Where?", "<box>[[1, 2, 1300, 4]]</box>")]),
    "region-fractions": ("conversation", [said("Where?", "<box>[[0.1, 0.2, 0.3, 1]]</box>")]),
    "region-form": ("conversation", [said("Where?", "<box>[[x1, y1, x2, y2]]</box>")]),
    "region-decimals": ("conversation", [said("Where?", "<box>[[1.5, 2, 3, 4]]</box>")]),
    "answer-repeats": ("conversation", [said("Sing.", "la le li lo lu " * 30)]),
    "answer-long": ("conversation", [said("Count.", LONG)]),
    "small-picture": ("conversation", [said("What?", "It.", image="thin.png")]),
    "duplicate-row": ("conversation", [{"id": 1, **CLEAN}, {"id": 2, **CLEAN}]),
    "contradiction": ("conversation", [said("What?", "It."), said("What?", "Not it.")]),
    "duplicate-picture": ("conversation", [CLEAN, said("Another?", "Yes.", image="again.png")]),
    "system-mixed": (
        "conversation",
        [
            said("What?", "It."),
            CLEAN | {"conversations": [{"from": "system", "value": "Be."}, *CLEAN["conversations"]]},
        ],
    ),
    "same-answers": ("preference", [{**ASK, "rejected": ASK["chosen"]}]),
    "empty-caption": ("pair", [PAIR, {"image": "1.png", "caption": " "}]),
    "caption-long": ("pair", [{"image": "1.png", "caption": "bus " * 90}]),
    "label-mixed": ("label", [LABEL, {"image": "1.png", "label": 3}]),
    "rare-label": ("label", [LABEL, {"image": "1.png", "label": "bus"}, {"image": "2.png", "label": "car"}]),
    "source-empty": ("conversation", []),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_found_and_no_other(rule, tmp_path, pictures, encoder):
    kind, rows = BROKEN[rule]
    look = Look(encoder=encoder, max_length=20_000 if rule == "answer-long" else 8192)
    if kind == "pair":
        look = Look(tokenizer=load_tokenizer(golden("checkpoints/internvl-14b")))
    report, _ = looked(tmp_path, rows, pictures, kind, look)
    assert [finding.rule for finding in report.findings] == [rule]
    [example] = report.findings[0].examples
    assert example.row in (len(rows) - 1, -1)
    if example.row >= 0:
        assert example.origin == f"{tmp_path / 'rows.jsonl'}:{len(rows)}" or example.origin == f"rows.jsonl:{len(rows)}"


def test_every_rule_is_broken_above():
    assert set(RULES) - set(BROKEN) == {"source-tiles"}  # which is a source's, see below


def test_a_budget_of_tiles_that_training_refuses(tmp_path, pictures, encoder):
    """Of a source, for a model of one tile: both say so."""
    fixed = Encoder(encoder.tokenizer, replace(encoder.config, dynamic=False))
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(CLEAN) + "\n")
    source = Source(annotation=str(file), name="rows", root=str(pictures), max_tiles=4)
    report = lint([source], Look(encoder=fixed))
    assert [(one.rule, one.examples[0].origin) for one in report.findings] == [("source-tiles", "rows")]
    prepare = PrepareChat(fixed, max_length=100)
    with pytest.raises(ConfigError):
        prepare(record(CLEAN, "conversation", origin="x"), source, 0, index=0, seed=0)
    assert not lint([replace(source, max_tiles=1)], Look(encoder=fixed)).findings


@pytest.mark.parametrize("clip", [None, [0.2, 0.8], [90.0, 95.0]])
def test_videos(tmp_path, encoder, clip):
    """As many frames as training takes at most; a part after the end is an error for both."""
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    row = said("<video>\nWhat happens?", "It grows brighter.", video="clip.mp4") | ({"clip": clip} if clip else {})
    report, [source] = looked(tmp_path, [row], tmp_path, look=Look(encoder=encoder, frames=5))
    prepare = PrepareChat(encoder, max_length=8192, frames=(5, 5))
    if clip and clip[0] > 2:
        assert [one.rule for one in report.findings] == ["media-unreadable"]
        with pytest.raises(InternVLError):
            prepare(record(row, "conversation", origin="x"), source, 0, index=0, seed=0)
        return
    assert not report.findings
    sample = prepare(record(row, "conversation", origin="x"), source, 0, index=0, seed=0)
    assert {one.name: one.total for one in report.spreads if one.name in ("tokens", "tiles")} == {
        "tokens": sample.tokens, "tiles": 5,
    }  # fmt: skip


def test_pictures_that_are_in_the_file(tmp_path, pictures, encoder):
    """A Parquet file that holds its pictures: looked at, compared and shown like any other."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    held = [(pictures / name).read_bytes() for name in ("0.png", "1.png", "broken.png", "0.png")]
    rows = [
        {"image": {"bytes": data, "path": None}, "conversations": said(f"What {place}?", "It.")["conversations"]}
        for place, data in enumerate(held)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = Source(annotation=str(tmp_path / "rows.parquet"), name="rows")
    report = lint([source], Look(encoder=encoder))
    assert [(one.rule, one.count) for one in report.findings] == [("media-unreadable", 1)]
    page = report_html(report, [source], Look(encoder=encoder), facts={"data": "rows", "seed": "0"})
    assert "a picture in the file" in page


def test_clean_rows_have_no_findings(tmp_path, pictures, encoder):
    for kind, rows in (
        ("conversation", [CLEAN]),
        (
            "conversation",
            [CLEAN, {"conversations": [{"from": "pretrain", "value": "<image> A bus."}], "image": "1.png"}],
        ),
        ("preference", [ASK]),
        ("pair", [PAIR]),
        ("label", [LABEL, LABEL | {"image": "1.png"}]),
    ):
        report, _ = looked(tmp_path, rows, pictures, kind, Look(encoder=encoder))
        assert report.findings == (), kind
        assert report.looked == report.of == len(rows)


texts = st.text(st.sampled_from("ab \n<>"), max_size=12) | st.sampled_from(
    ["<image>", "<video>", "<box>[[1, 2, 3, 4]]</box>"]
)
turns = st.lists(
    st.tuples(
        st.sampled_from(["human", "gpt", "system", "function", "pretrain"]), st.lists(texts, max_size=3).map(" ".join)
    ),
    max_size=4,
)
names = st.sampled_from(["0.png", "1.png", "2.png", "3.png", "none.png", "broken.png"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns, st.lists(names, max_size=3), st.integers(20, 700))
def test_training_takes_what_has_no_error_and_nothing_else(tmp_path, pictures, encoder, turns, images, max_length):
    """A row without an error, and not too long, becomes a sample of exactly the sizes that were counted."""
    row = {"conversations": [{"from": who, "value": text} for who, text in turns], "image": images}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    source = Source(annotation=str(file), root=str(pictures))
    seen = Examiner([source], Look(encoder=encoder, max_length=max_length)).examine(0, 0)
    rules = {fault.rule for fault in seen.faults}
    refused = "overlong" in rules or any(RULES[rule].severity == "error" for rule in rules)
    prepare = PrepareChat(encoder, max_length=max_length)
    if refused:
        with pytest.raises(InternVLError):
            prepare(record(row, "conversation", origin="here"), source, 0, index=0, seed=0)
        return
    sample = prepare(record(row, "conversation", origin="here"), source, 0, index=0, seed=0)
    assert (seen.tokens, seen.tiles, seen.learnt) == (sample.tokens, sample.tile_count, sample.segments[0].learnt)


def test_a_preference_counts_both_answers(tmp_path, pictures, encoder):
    row = ASK | {"image": ["1.png", "2.png"]}
    report, [source] = looked(tmp_path, [row], pictures, "preference", Look(encoder=encoder))
    sample = PrepareChat(encoder, max_length=8192)(record(row, "preference", origin="x"), source, 0, index=0, seed=0)
    figures = {one.name: one.total for one in report.spreads}
    assert (figures["tokens"], figures["tiles"]) == (sample.tokens, sample.tile_count)


@pytest.mark.parametrize(("own", "told"), [(None, None), (None, 4), (12, 4), (1, 12)])
def test_pictures_of_all_turns_share_their_tiles(tmp_path, pictures, encoder, own, told):
    row = said("<image> this?", "A.", "And <image> this?", "B.", image=["3.png", "3.png"])
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    source = Source(annotation=str(file), root=str(pictures), max_tiles=own)
    seen = Examiner([source], Look(encoder=encoder, max_tiles=told)).examine(0, 0)
    prepare = PrepareChat(encoder, max_length=8192, max_tiles=told)
    sample = prepare(record(row, "conversation", origin="x"), source, 0, index=0, seed=0)
    assert (seen.tokens, seen.tiles) == (sample.tokens, sample.tile_count)
    assert seen.tiles == {None: {None: 2, 4: 2}, 12: {4: 10}, 1: {12: 2}}[own][told]


# ---- what is counted -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_bars_hold_every_number_once(numbers):
    found = spread("tokens", "tokens", numbers, limit=100)
    assert sum(bar.count for bar in found.bars) == len(numbers)
    for bar in found.bars:
        assert bar.count == sum(bar.low <= number < (bar.high or 10**9) for number in numbers)
    assert (found.least, found.most, found.over) == (min(numbers), max(numbers), sum(n > 100 for n in numbers))
    assert found.percentiles[50] == sorted(numbers)[(len(numbers) - 1) // 2]
    assert len(found.bars) <= 50


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2)),
        max_size=12,
    )
)
def test_rows_that_repeat_each_other_are_those_of_a_search(rows):
    twice = Twice()
    for number, (key, question, answer, name, content) in enumerate(rows):
        twice.add(
            Seen(source=0, row=number, origin="", key=key, question=question, answer=answer, media=((name, content),))
        )
    found = Counter(rule for rule, _, _ in twice.faults())
    keys = [row[0] for row in rows]
    assert found["duplicate-row"] == len(keys) - len(set(keys))
    assert found["duplicate-picture"] == sum(
        len({row[3] for row in rows if row[4] == content}) - 1 for content in {row[4] for row in rows} - {0}
    )
    first = [row for number, row in enumerate(rows) if row[0] not in keys[:number]]
    if len(first) == len(rows):
        answers = {
            question: {row[2] for row in rows if row[1] == question} for question in {row[1] for row in rows} - {0}
        }
        assert found["contradiction"] == sum(len(given) - 1 for given in answers.values())
    for rule, later, earlier in twice.faults():
        assert earlier < later, rule


def test_some_rows_drawn_by_chance(tmp_path, pictures):
    rows = [said(f"{number}?", "Yes.") for number in range(50)] + [CLEAN | {"image": "none.png"}] * 50
    report, sources = looked(tmp_path, rows, pictures, rows=20, seed=3)
    again, _ = looked(tmp_path, rows, pictures, rows=20, seed=3)
    assert (report.looked, report.of) == (20, 100)
    assert report == again
    heard = []
    lint(sources, Look(), rows=20, seed=4, heard=lambda seen, fault: heard.append((seen.row, fault.rule)))
    missing = [row for row, rule in heard if rule == "media-missing"]
    assert len(missing) == len(set(missing))
    assert 0 < len(missing) < 20
    with pytest.raises(UsageError, match="rows is 0"):
        lint(sources, Look(), rows=0)


def test_all_faults_are_heard_and_few_are_kept(tmp_path, pictures):
    heard = []
    rows = [said("Where?", f"<box>[[0.1, 0.2, 0.3, 0.{number}]]</box>") for number in range(1, 40)]
    report, _ = looked(tmp_path, rows, pictures, examples=2, heard=lambda seen, fault: heard.append(seen.row))
    [finding] = [one for one in report.findings if one.rule == "region-fractions"]
    assert finding.count == 39
    assert len(finding.examples) == 2
    assert heard[:39] == list(range(39))


def test_processes_find_what_one_finds(tmp_path, pictures, encoder):
    generator = random.Random(0)
    rows = [said(f"{number}?", "Yes.", image=generator.choice(["0.png", "none.png"])) for number in range(70)]
    alone, sources = looked(tmp_path, rows, pictures, look=Look(encoder=encoder))
    assert lint(sources, Look(encoder=encoder), workers=1) == alone


def test_rows_of_several_sources(tmp_path, pictures):
    for name, count in (("a", 3), ("empty", 0), ("b", 2)):
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(CLEAN) + "\n") * count)
    sources = [
        Source(annotation=str(tmp_path / f"{name}.jsonl"), name=name, root=str(pictures))
        for name in ("a", "empty", "b")
    ]
    report = lint(sources, Look())
    assert [(part.rows, part.looked, part.warnings, part.errors) for part in report.parts] == [
        (3, 3, 2, 0),
        (0, 0, 0, 1),
        (2, 2, 2, 0),
    ]
    assert [(one.rule, one.count) for one in report.findings] == [("source-empty", 1), ("duplicate-row", 4)]


# ---- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("<ref>a</ref><box>[[0, 0, 1000, 1000]]</box>", []),
        ("<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", []),
        ("<quad>[[1, 2, 3, 4, 5, 6, 7, 8]]</quad>", []),
        ("<quad>[[1, 2, 3, 4]]</quad>", ["region-form"]),
        ("<box>[[1, 2, 3]]</box>", ["region-form"]),
        ("<box>[[3, 2, 1, 4]]</box>", ["region-form"]),
        ("<box>[[-1, 2, 3, 4]]</box>", ["region-form"]),
        ("<box></box>", ["region-form"]),
        ("</ref>", ["region-tags"]),
        ("a < b and <i>c</i>", []),
    ],
)  # fmt: skip
def test_regions(text, rules):
    assert [fault.rule for fault in region_faults(text, "turn 2")] == rules


def test_a_question_may_explain_the_form_of_a_box():
    asked = ("user", "Answer in the form <box>[[x1, y1, x2, y2]]</box>.")
    assert not list(conversation_faults([asked, ("assistant", "<box>[[1, 2, 3, 4]]</box>")], 0))


@given(st.lists(st.integers(), min_size=11, max_size=40, unique=True))
def test_what_is_said_once_does_not_repeat(numbers):
    text = " ".join(map(str, numbers))
    assert repeated_share(text) == 0.0
    assert repeated_share(f"{text} {text} {text}") > 0.4


def test_a_text_that_is_made_to_cost_time_does_not():
    """Quadratic in 200,000 characters would take minutes."""
    for text in ("<box>" * 40_000, "<box>[" + "1, " * 60_000, "<" * 200_000, "a" * 200_000):
        list(region_faults(text, "turn 2"))
    repeated_share("a" * 20_000)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_shows_text_as_text(tmp_path, pictures, encoder):
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>"
    rows = [
        said(evil, ""),
        said("What?", "", image="0.png"),
        said("What?", "It.", image="none.png"),
        "{no json",
        said("Count.", "1", image=["0.png", "1.png", "2.png", "3.png", "again.png"]),
        said("Where?", "<box>[[1, 2, 1300, 4]]</box>"),
    ]
    report, sources = looked(tmp_path, rows, pictures, look=Look(encoder=encoder, max_length=50))
    page = report_html(report, sources, Look(encoder=encoder), facts={"data": evil, "seed": "0"})
    assert "<script" not in page
    assert "onerror=alert" not in page.replace("onerror=alert(1)&gt;", "")
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("data:image/webp;base64,") >= 2
    assert "default-src 'none'" in page
    anchors = {part.split('"')[0] for part in page.split('id="')[1:]}
    links = {part.split('"')[0] for part in page.split('href="#')[1:]}
    assert links
    assert links <= anchors
    assert "<svg" in page
    for finding in report.findings:
        assert finding.rule in page
