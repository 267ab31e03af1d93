"""Templates and messages: the published prompts to the letter, and where pictures may stand."""

from __future__ import annotations

import json

import pytest
from PIL import Image as Pillow

from internvl.data.prompts import TEMPLATES, Image, ImageSlot, Message, Structure, Text, Turn, Video, bind
from internvl.errors import NoSuchName, PlaceholderMismatch, PromptError, find
from tests.conftest import GOLDEN_ROOTS, golden

FILE = "conversation/prompts.jsonl"
ROWS = [json.loads(line) for root in GOLDEN_ROOTS[::-1] if (root / FILE).exists()
        for line in (root / FILE).read_text(encoding="utf-8").splitlines()]  # fmt: skip
ROWS = list({(row["template"], row["case"]): row for row in ROWS}.values())
PHOTO = Pillow.new("RGB", (4, 4))


def conversation(row):
    """A golden row as messages: its pictures go to the first placeholders, turn by turn."""
    left = [Image(PHOTO) for _ in row.get("num_patches_list", ())]
    for turn, (question, answer) in enumerate(row["turns"]):
        count = question.count("<image>")
        yield Message("user", (question, *left[:count]))
        del left[:count]
        if turn < len(row["turns"]) - 1 or not row["generation_prompt"]:
            yield Message("assistant", (answer,))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['template']}: {row['case']}")
def test_prompts_are_the_published_ones(row):
    template = TEMPLATES[row["template"]]
    turns, pictures = bind(list(conversation(row)), compat="original")
    rendered = template.render(
        turns, system_message=row["system_override"], generate=row["generation_prompt"], compat="original"
    )
    tiles = row.get("num_patches_list", [])
    assert len(pictures) == len(tiles)
    slots = [row.get("num_image_token", 0) * count for count in tiles]
    assert "".join(template.spell(one.pieces, slots=slots) for one in rendered) == row["prompt"]


def test_forms_and_stops_are_the_published_ones():
    published = json.loads(golden("conversation/templates_and_stops.json").read_text(encoding="utf-8"))
    for name, row in published.items():
        template = TEMPLATES[name]
        assert template.assistant.end + template.assistant.tail == row["sep"]
        assert template.stops == (row["stop_at"],)
        assert template.system_message == row["system_message"]
        heads = [template.user.head, template.assistant.head]
        assert [head.removesuffix(":") for head in heads] == row["roles"]
        if row["sep2"] is not None:
            assert template.user.end == row["sep2"]
        assert template.system.head == row["system_template"].removesuffix("{system_message}")


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_that_the_forms_spell(name):
    template = TEMPLATES[name]
    spelt = "".join(f"{form.head}{form.lead}{form.end}{form.tail}" for form in
                    (template.system, template.user, template.assistant)) + (template.last_end or "")  # fmt: skip
    assert all(token in spelt for token in template.tokens)
    assert set(template.stops) <= set(template.tokens)


def spelt(name, *messages, **options):
    turns, pictures = bind(messages)
    rendered = TEMPLATES[name].render(turns, **options)
    return "".join(TEMPLATES[name].spell(one.pieces, slots=[1] * len(pictures)) for one in rendered)


def test_gpt_oss_names_its_channel_and_returns_at_the_end():
    talk = [Message("user", ("Hi",)), Message("assistant", ("Hello",))]
    said = "<|start|>assistant<|channel|>final<|message|>Hello"
    assert spelt("internvl3_5_gpt_oss", *talk).endswith(f"<|start|>user<|message|>Hi<|end|>{said}<|return|>")
    more = spelt("internvl3_5_gpt_oss", *talk, Message("user", ("More",)), generate=True)
    assert more.endswith(f"{said}<|end|><|start|>user<|message|>More<|end|><|start|>assistant")
    assert TEMPLATES["internvl3_5_gpt_oss"].stops == ("<|return|>", "<|end|>")


def test_what_a_tool_answers():
    talk = [Message(role, (role,)) for role in ("user", "assistant", "tool", "assistant")]
    said = "<|start|>assistant<|channel|>final<|message|>assistant"
    assert spelt("internvl3_5_gpt_oss", *talk).endswith(
        f"<|start|>user<|message|>user<|end|>{said}<|end|><|start|>tool<|message|>tool<|end|>{said}<|return|>"
    )
    for name in TEMPLATES:
        if name != "internvl3_5_gpt_oss":
            with pytest.raises(PromptError, match="role tool, for which this template has no form"):
                spelt(name, *talk)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_text_to_pretrain_on_stands_alone(name):
    text = Message("pretrain", (Image(PHOTO), "Left <image> and <video>, right."))
    opening, slot, closing = TEMPLATES[name].image
    picture = f"{opening}{slot or '<image>'}{closing}"
    with pytest.raises(PlaceholderMismatch):
        spelt(name, text)
    assert spelt(name, Message("pretrain", (Image(PHOTO), "a <image> b"))) == f"a {picture} b"
    assert spelt(name, Message("pretrain", (Image(PHOTO), "a"))) == f"{picture}\na"
    for turns, options in (([Message("user", ("Hi",))], {}), ([], {"generate": True})):
        with pytest.raises(PromptError, match="stands alone, and is not answered"):
            spelt(name, Message("pretrain", ("a",)), *turns, **options)


def test_vicuna():
    talk = [Message("user", (Image(PHOTO), "Hi")), Message("assistant", ("Hello",)), Message("user", ("More",))]
    told = spelt("vicuna_v1", *talk, generate=True)
    assert told.endswith(
        "polite answers to the user's questions. USER: <image>\nHi ASSISTANT: Hello</s>USER: More ASSISTANT:"
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_system_message_replaces_the_configured_one(name):
    talk = spelt(name, Message("system", ("Be brief.",)), Message("user", ("Hi",)), system_message="Be long.")
    assert "Be brief." in talk
    assert "Be long." not in talk


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if template.image[1]])
def test_by_default_an_empty_message_is_a_message(name):
    empty = TEMPLATES[name].render([Turn("user", ()), Turn("assistant", ())])
    assert [one.body[-1] for one in empty[1:]] == [
        Structure(TEMPLATES[name].user.end),
        Structure(TEMPLATES[name].last_end or TEMPLATES[name].assistant.end),
    ]


# ---- where pictures stand --------------------------------------------------------------------------------------------


def placed(*parts):
    """The pieces of one user message, with slots written as their number."""
    [turn], _ = bind([Message("user", parts)])
    return "".join(f"({piece.index})" if isinstance(piece, ImageSlot) else str(piece) for piece in turn.pieces)


def test_pictures_without_placeholders_come_first():
    one, video = Image(PHOTO), Video((PHOTO, PHOTO))
    assert placed(one, "What?") == "(0)\nWhat?"
    assert placed("What?", one) == "(0)\nWhat?"
    assert placed(one, one, "What?") == "Image-1: (0)\nImage-2: (1)\nWhat?"
    assert placed(video, "What?") == "Frame-1: (0)\nFrame-2: (1)\nWhat?"
    assert placed(one) == "(0)\n"


def test_placeholders_are_filled_in_order():
    one, video = Image(PHOTO), Video((PHOTO, PHOTO))
    assert placed(one, one, "left <image> right <image>.") == "left (0) right (1)."
    assert placed("<video>\nWhat?", video) == "Frame-1: (0)\nFrame-2: (1)\nWhat?"
    assert placed(Text("Is <image> "), "<image>", Text(" this? <image>"), one) == "Is <image> (0) this? <image>"


def test_text_is_never_a_placeholder():
    assert placed(Text("What is <image>?")) == "What is <image>?"
    assert placed(Image(PHOTO), Text("What is <image>?")) == "(0)\nWhat is <image>?"


@pytest.mark.parametrize(("text", "images", "counts"), [
    ("<image> <image>", 1, "2 <image> placeholder(s) but 1 image(s)"),
    ("<image>", 2, "1 <image> placeholder(s) but 2 image(s)"),
    ("<image>", 0, "1 <image> placeholder(s) but 0 image(s)"),
    ("<video>", 1, "0 <image> placeholder(s) but 1 image(s)"),
])  # fmt: skip
def test_a_mismatch_says_both_counts(text, images, counts):
    with pytest.raises(PlaceholderMismatch) as error:
        placed(text, *[Image(PHOTO)] * images)
    assert counts in str(error.value)


def test_every_picture_stays_with_its_turn():
    photos = [Pillow.new("RGB", (n, n)) for n in (1, 2, 3)]
    turns, pictures = bind([
        Message("user", (Image(photos[0]), "One")),
        Message("assistant", ("Fine. <image>",)),
        Message("user", (Image(photos[1], max_tiles=2), Image(photos[2]), "Two")),
    ])  # fmt: skip
    assert [(picture.photo.width, picture.turn, picture.max_tiles) for picture in pictures] == [
        (1, 0, None), (2, 2, 2), (3, 2, None),
    ]  # fmt: skip
    assert [piece.index for turn in turns for piece in turn.pieces if isinstance(piece, ImageSlot)] == [0, 1, 2]


def test_what_cannot_be_a_message():
    with pytest.raises(PromptError, match="role 'robot'"):
        Message("robot", ("x",))
    with pytest.raises(PromptError, match="tuple of parts"):
        Message("user", "x")
    with pytest.raises(PromptError, match="message 2 is a system message"):
        bind([Message("user", ("x",)), Message("system", ("y",))])
    with pytest.raises(PromptError, match="only user messages"):
        bind([Message("assistant", (Image(PHOTO),))])


def test_a_wrong_template_name_is_answered_with_the_right_one():
    with pytest.raises(NoSuchName, match="Did you mean 'Hermes-2'"):
        find("template", "hermes2", TEMPLATES)
