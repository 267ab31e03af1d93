"""Dataset records: what is accepted, what is refused and how it is named, and where pictures end up."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from internvl.data.prompts import Image, ImageSlot, Video, bind
from internvl.data.records import Conversation, Labelled, Pair, Preference, messages, read
from internvl.data.records import record as make
from internvl.errors import DataError, InternVLError, NoSuchName
from tests.conftest import golden

PHOTO = Pillow.new("RGB", (4, 4))
HI = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def conversation(*values, **fields):
    said = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return read(json.dumps({"id": "r1", "conversations": said, **fields}), "conversation", origin="set.jsonl:7")


def test_golden_records_are_read():
    for line in golden("conversation/records.jsonl").read_text(encoding="utf-8").splitlines():
        raw, record = json.loads(line), read(line, "conversation", origin="records.jsonl")
        assert [value for _, value in record.turns] == [turn["value"] for turn in raw["conversations"]]
        listed = raw.get("image", [])
        assert list(record.images) == ([listed] if isinstance(listed, str) else listed)
        assert record.video == raw.get("video")


def test_the_other_kinds():
    pair = read('{"image": "a.jpg", "caption": "A bus.", "image_id": 3}', "pair", origin="x:1")
    assert pair == Pair("x:1", "a.jpg", "A bus.", 3)
    for wrong in ("true", '""', "[3]"):
        with pytest.raises(DataError, match="x:1: `image_id` is"):
            read(f'{{"image": "a.jpg", "caption": "A bus.", "image_id": {wrong}}}', "pair", origin="x:1")
    assert read('{"id": 5, "image": "a.jpg", "label": "bus"}', "label", origin="x:1") == Labelled(
        "x:1, id 5", "a.jpg", "bus"
    )
    line = json.dumps({"image": ["a.jpg", "b.jpg"], "question": "Which?", "chosen": "This.", "rejected": "That."})
    preference = read(line, "preference", origin="x:1")
    assert isinstance(preference, Preference)
    assert preference.chosen.turns == (("user", "Which?"), ("assistant", "This."))
    assert preference.rejected.turns == (("user", "Which?"), ("assistant", "That."))
    assert preference.chosen.images == preference.rejected.images == ("a.jpg", "b.jpg")


def test_video_with_a_clip():
    record = conversation("<video>\nWhat?", "x", video="v.mp4", clip=[1, 2.5])
    assert (record.video, record.clip) == ("v.mp4", (1, 2.5))
    [question, _] = messages(record, [PHOTO] * 3, times=[1.0, 1.5, 2.0])
    assert question.parts == (Video((PHOTO,) * 3, (1.0, 1.5, 2.0)), "<video>\nWhat?")


def test_tools_and_texts_to_pretrain_on():
    said = [{"from": speaker, "value": speaker} for speaker in ("human", "gpt", "function", "gpt")]
    record = read(json.dumps({"conversations": said}), "conversation", origin="x")
    assert [role for role, _ in record.turns] == ["user", "assistant", "tool", "assistant"]
    assert [message.role for message in messages(record)] == ["user", "assistant", "tool", "assistant"]
    text = {"conversations": [{"from": "pretrain", "value": "Left: <image> Right: <image>"}], "image": ["a", "b"]}
    assert slots(read(json.dumps(text), "conversation", origin="x"), 2) == [[0, 1]]
    text["conversations"][0]["value"] = "Nothing marked."
    assert slots(read(json.dumps(text), "conversation", origin="x"), 2) == [[0, 1]]


def test_pictures_as_bytes():
    for value in (
        b"bytes",
        {"bytes": b"bytes", "path": None},
        {"bytes": b"bytes", "path": "a.jpg"},
        {"bytes": b"bytes"},
    ):
        assert make({"image": value, "label": 1}, "label", origin="t:1") == Labelled("t:1", b"bytes", 1)
        assert make({"image": value, "caption": "x"}, "pair", origin="t:1") == Pair("t:1", b"bytes", "x")
        said = make({"id": None, "image": [value, "b.jpg"], "conversations": HI}, "conversation", origin="t:1")
        assert (said.id, said.images) == ("t:1", (b"bytes", "b.jpg"))
        assert make({"video": value, "conversations": HI}, "conversation", origin="t:1").video == b"bytes"
    assert make({"image": {"bytes": None, "path": "a.jpg"}, "label": 1}, "label", origin="t").image == "a.jpg"
    for value in (b"", {}, {"bytes": None, "path": None}, {"bytes": b"x", "colour": 1}):
        with pytest.raises(DataError, match="expected a path or address"):
            make({"image": value, "label": 1}, "label", origin="t:1")
    with pytest.raises(DataError, match=r"`caption` is 3000000 bytes; expected text"):
        make({"image": b"x", "caption": b"x" * 3_000_000}, "pair", origin="t:1")
    with pytest.raises(DataError, match=r"t:1: no frames of 5 bytes"):
        messages(make({"video": b"bytes", "conversations": HI}, "conversation", origin="t:1"))


def test_empty_media_are_none():
    record = conversation("Hi", "x", image="", video=None)
    assert record == Conversation("set.jsonl:7, id 'r1'", (("user", "Hi"), ("assistant", "x")))


GOOD = {"conversations": HI}


@pytest.mark.parametrize(("kind", "line", "said"), [
    ("conversation", "{", "not JSON"),
    ("conversation", "[" * 100_000, "not JSON"),
    ("conversation", "9" * 5_000, "not JSON"),
    ("conversation", "[]", "is a JSON list"),
    ("conversation", {}, "`conversations` is missing"),
    ("conversation", {"conversations": []}, "`conversations` is []"),
    ("conversation", {"conversation": HI}, "did you mean `conversations`"),
    ("conversation", {"conversations": ["Hi"]}, """turn 1 is 'Hi'; expected {"from": "human", "value": "..."}"""),
    ("conversation", {"conversations": json.dumps(HI)}, "that is text, expected a list of turns; store the list"),
    ("conversation", {"messages": [{"role": "user", "content": "Hi"}]}, "`messages` are another layout: write each"),
    ("conversation", {"conversations": [{"from": "user", "value": "Hi"}]},
     "turn 1 is from 'user'; expected one of human, gpt, system, function, pretrain; write 'human'"),
    ("conversation", {"conversations": [HI[0], {"from": "Assistant", "value": "Hi"}]}, "'Assistant'; expected one"),
    ("conversation", {"conversations": [HI[0], {"from": "Assistant", "value": "Hi"}]}, "pretrain; write 'gpt'"),
    ("conversation", {"conversations": [HI[0], {"from": "tool", "value": "Hi"}]}, "write 'function'"),
    ("conversation", {"conversations": [{"from": "me", "value": "Hi"}]}, "system, function, pretrain"),
    ("conversation", {"conversations": [{"from": None, "value": "Hi"}]}, "turn 1 is from missing; expected one of"),
    ("conversation", {"conversations": [{"role": "user", "content": "Hi"}]},
     "turn 1 has `content` and `role`; expected {"),
    ("conversation", {"conversations": [{"role": "user", "content": "Hi"}]}, "the role user is from 'human' here"),
    ("conversation", {"conversations": [{"text": "Hi"}]}, "turn 1 has `text`; expected {"),
    ("conversation", {"conversations": [{}]}, "turn 1 has nothing; expected {"),
    ("conversation", GOOD | {"img": "a.jpg"}, "a key `img`, which nothing reads; did you mean `image`?"),
    ("pair", {"img": "a.jpg", "caption": "x"}, "did you mean `image`?"),
    ("conversation", {"conversations": [{"from": "human"}]}, "turn 1: `value` is missing"),
    ("conversation", {"conversations": [{"from": "human", "value": 3}]}, "turn 1: `value` is 3"),
    ("conversation", {"conversations": [*HI, {"from": "system", "value": "x"}]}, "turn 3 is from 'system'"),
    ("conversation", {"conversations": [{"from": "pretrain", "value": "x"}, *HI]}, "turn 1 is from 'pretrain'; such a"),
    ("conversation", GOOD | {"images": "a.jpg"}, "a key `images`, which nothing reads; did you mean `image`"),
    ("conversation", GOOD | {"image": 3}, "`image` is 3"),
    ("conversation", GOOD | {"image": ["a.jpg", ""]}, "`image` is ''"),
    ("conversation", GOOD | {"image": "a.jpg", "video": "v.mp4"}, "both `image` and `video`"),
    ("conversation", GOOD | {"clip": [0, 1]}, "`clip` is [0, 1]"),
    ("conversation", GOOD | {"video": "v.mp4", "clip": [2, 1]}, "start < end"),
    ("preference", {"question": "Q", "chosen": "A"}, "`rejected` is missing"),
    ("pair", {"image": "a.jpg"}, "`caption` is missing"),
    ("pair", {"caption": "x"}, "`image` is missing"),
    ("label", {"image": "a.jpg", "label": True}, "`label` is True"),
    ("label", {"image": "a.jpg"}, "`label` is missing"),
], ids=lambda value: str(value)[:60])  # fmt: skip
def test_what_is_refused(kind, line, said):
    with pytest.raises(DataError) as error:
        read(line if isinstance(line, str) else json.dumps({"id": "r9"} | line), kind, origin="set.jsonl:7")
    assert said in str(error.value)
    assert "set.jsonl:7" in str(error.value)
    assert "\n" not in str(error.value)
    assert not isinstance(line, dict) or "id 'r9'" in str(error.value)


def test_a_short_key_beside_the_known_one_is_left_alone():
    assert read(json.dumps(GOOD | {"img": "raw", "image": "a.jpg"}), "conversation", origin="x").images == ("a.jpg",)


def test_an_unknown_kind():
    with pytest.raises(NoSuchName, match="Did you mean 'preference'"):
        read("{}", "preferences", origin="x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["id", "conversations", "from", "value", "image", "video", "clip", "label", "caption", "question"]), inner),
)  # fmt: skip


@given(json_values, st.sampled_from(["conversation", "preference", "pair", "label"]))
def test_no_json_is_a_crash(value, kind):
    with contextlib.suppress(InternVLError):
        read(json.dumps(value), kind, origin="x")


# ---- where pictures end up -------------------------------------------------------------------------------------------


def slots(record, count, **options):
    """Numbers of the pictures in each turn."""
    turns, _ = bind(messages(record, [PHOTO] * count, **options), compat=options.get("compat"))
    return [[piece.index for piece in turn.pieces if isinstance(piece, ImageSlot)] for turn in turns]


def test_placeholders_in_any_human_turn():
    assert slots(conversation("Hi", "x", "<image>\nWhat?", "y", image="a"), 1) == [[], [], [0], []]
    assert slots(conversation("<image> and <image>?", "x", "And <image>?", "y", image=["a", "b", "c"]), 3) == [
        [0, 1],
        [],
        [2],
        [],
    ]


def test_without_placeholders_pictures_come_first():
    assert slots(conversation("What?", "x", "More?", "y", image="a"), 1) == [[0], [], [], []]
    assert slots(conversation("What?", "x", image=["a", "b"]), 2) == [[0, 1], []]
    assert slots(conversation("What?", "x", video="v"), 2) == [[0, 1], []]


def test_what_the_assistant_says_is_text():
    assert slots(conversation("What?", "An <image> of <video>.", image="a"), 1) == [[0], []]


def test_the_first_code_base_looked_at_the_first_turn_only():
    second = conversation("Hi", "x", "<image>\nWhat?", "y", image="a")
    assert slots(second, 1, compat="original") == [[0], [], [], []]
    assert slots(conversation("<image> <image>", "x", image="a"), 1, compat="original") == [[0], []]
    listed = conversation("Hi", "x", "<image>\nWhat?", "y", image=["a"])
    assert slots(listed, 1, compat="original") == slots(listed, 1) == [[], [], [0], []]
    with pytest.raises(DataError, match=r"0 <image> placeholder\(s\) but 1"):
        slots(conversation("What?", "x", image=["a"]), 1, compat="original")
    spoken = read(json.dumps({"video": "v", "conversations": [
        {"from": "gpt", "value": "Hello."}, {"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "x"},
    ]}), "conversation", origin="x")  # fmt: skip
    assert slots(spoken, 2) == [[], [0, 1], []]
    with pytest.raises(DataError, match=r"0 <video> placeholder\(s\) but 1"):
        slots(spoken, 2, compat="original")
    with pytest.raises(DataError, match=r"0 <image> placeholder\(s\) but 2"):
        slots(conversation("What?", "x", image=["a", "b"]), 2, compat="original")


@pytest.mark.parametrize(("values", "fields", "count", "said"), [
    (("<image> <image>", "x"), {"image": "a"}, 1, "2 <image> placeholder(s) but 1 image(s)"),
    (("<image>", "x"), {"image": ["a", "b"]}, 2, "1 <image> placeholder(s) but 2 image(s)"),
    (("<image>", "x"), {}, 0, "1 <image> placeholder(s) but 0 image(s)"),
    (("<video>", "x"), {"image": "a"}, 1, "1 placeholder(s) of the other kind"),
    (("<image>", "x"), {"video": "v"}, 2, "1 placeholder(s) of the other kind"),
    (("<video> <video>", "x"), {"video": "v"}, 2, "2 <video> placeholder(s) but 1 video(s)"),
    (("Hi", "x"), {"video": "v"}, 0, "no frames of 'v'"),
    (("Hi", "x"), {"image": "a"}, 0, "names 1 image(s) but 0 were opened"),
])  # fmt: skip
def test_counts_that_differ(values, fields, count, said):
    with pytest.raises(DataError) as error:
        messages(conversation(*values, **fields), [PHOTO] * count)
    assert said in str(error.value)
    assert "id 'r1'" in str(error.value)


def test_pictures_need_a_human():
    line = json.dumps({"conversations": [{"from": "gpt", "value": "x"}], "image": "a"})
    with pytest.raises(DataError, match="no turn from a human"):
        messages(read(line, "conversation", origin="x"), [PHOTO])


def test_a_budget_is_shared_by_the_whole_record():
    record = conversation("<image> <image>", "x", "<image>", "y", image=["a", "b", "c"])
    tiles = [part.max_tiles for message in messages(record, [PHOTO] * 3, max_tiles=7)
             for part in message.parts if isinstance(part, Image)]  # fmt: skip
    assert tiles == [2, 2, 2]
    [image, _] = messages(conversation("Hi", image="a"), [PHOTO], max_tiles=7)[0].parts
    assert image.max_tiles == 7
