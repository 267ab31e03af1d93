"""The one encoder: the published labels to the letter, and what must hold for every template and tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from internvl.data import records
from internvl.data.encode import NO_TOKEN, NOT_LEARNT, Encoder, EncoderConfig
from internvl.data.prompts import TEMPLATES, Form, Image, Masks, Message, Text, Video, bind
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError, ContextOverflow, InternVLError, PlaceholderMismatch, PromptError, UsageError
from tests.conftest import GOLDEN_ROOTS, golden

FILE = "conversation/training_labels.jsonl"
FOUND = next((root / FILE for root in GOLDEN_ROOTS if (root / FILE).exists()), None)
ROWS = [json.loads(line) for line in FOUND.read_text(encoding="utf-8").splitlines()] if FOUND else []
ROWS = [row for row in ROWS if "record" in row]


@cache
def tokenizer(name):
    return Tokenizer.from_folder(golden(f"tokenizers/{name}"))


@cache
def record(name):
    lines = golden("conversation/records.jsonl").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if json.loads(line)["id"] == name]
    return json.loads(line), records.read(line, "conversation", origin="records.jsonl")


@cache
def picture(name):
    return Pillow.open(golden(f"preprocess/images/{name}"))


def encoder_of(row, compat):
    return Encoder(
        tokenizer(row["tokenizer"]),
        EncoderConfig(
            template=row["template"],
            tile_size=row["image_size"],
            slots_per_tile=row["num_image_token"],
            dynamic=row["dynamic_image_size"],
            thumbnail=row["use_thumbnail"],
            min_tiles=row["min_dynamic_patch"],
            max_tiles=row["max_dynamic_patch"],
            compat=compat,
        ),
    )


def encode_row(row, compat="original"):
    raw, conversation = record(row["record"])
    photos = [picture(name) for name in conversation.images] or [Pillow.new("RGB", (64, 48))] * raw.get("frames", 0)
    budget = row["max_dynamic_patch"] if row["dynamic_image_size"] else None
    messages = records.messages(conversation, photos, max_tiles=budget, compat=compat)
    return encoder_of(row, compat).encode(
        messages, generate=False, max_length=row["model_max_length"] if compat else None
    )


def spans(targets):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.array(targets) != NOT_LEARNT, [0]])))
    return edges.reshape(-1, 2).tolist()


def row_name(row):
    size = "cut" if row["padded_to_max_length"] else "tiled" if row["dynamic_image_size"] else "one tile"
    return f"{row['template']}, {row['tokenizer']}, {row['record']}, {size}"


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_training_labels_are_the_published_ones(row):
    if "error" in row:
        with pytest.raises(InternVLError):
            encode_row(row)
        return
    encoded = encode_row(row)
    assert encoded.input_ids == row["input_ids"]
    assert spans(encoded.targets) == row["label_spans"]
    learnt = [(i, target) for i, target in zip(encoded.input_ids, encoded.targets, strict=True) if target != NOT_LEARNT]
    assert all(i == target for i, target in learnt)
    # A sample without pictures has no tiles here; the first code base gave it a white one, flagged as absent.
    tiles = len(encoded.tiles)
    assert ([1] * tiles or [0]) == row["image_flags"]
    assert max(tiles, 1) == row["num_tiles"] == len(row["image_flags"])
    pad = tokenizer(row["tokenizer"]).pad_id
    assert [at for at, i in enumerate(encoded.input_ids) if i == pad] == row["attention_mask_zero_at"]


# ---- properties ------------------------------------------------------------------------------------------------------

PAIRS = [  # every tokenizer with a template whose tokens it has
    ("internvl2_5", "qwen2-bbpe"),
    ("internvl2_5", "internlm2-sp"),
    ("internvl2_5", "llama3-bbpe"),
    ("internlm2-chat", "internlm2-sp"),
    ("internlm2-chat", "llama3-bbpe"),
    ("Hermes-2", "yi-sp"),
    ("Hermes-2", "qwen2-bbpe"),
    ("phi3-chat", "phi3-sp"),
    ("internvl_zh", "llama-sp"),
    ("vicuna_v1", "llama-sp"),
]
pairs = pytest.mark.parametrize(("template", "name"), PAIRS, ids=lambda value: value)

PHOTOS = [Pillow.effect_noise((60, 40), 40 + 10 * n).convert("RGB") for n in range(3)]
words = st.text(st.sampled_from("abcXYZ 019,.!?é你好，。\n\t🎉"), min_size=1, max_size=30)
plain = words.map(str.strip).filter(bool)
TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<image>", "<video>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>",
          "<s>", "</s>", "<|endoftext|>", "<|begin_of_text|>", "<human>:", "USER:"]  # fmt: skip
forged = st.lists(st.one_of(st.sampled_from(TOKENS), words), max_size=6).map("".join)


def make(template, name, **config):
    options = {"template": template, "tile_size": 28, "slots_per_tile": 2, "max_tiles": 4} | config
    return Encoder(tokenizer(name), EncoderConfig(**options))


def talk(texts, *, first="user"):
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [Message(roles[n % 2], (Text(text),)) for n, text in enumerate(texts)]


@pairs
@settings(max_examples=25)
@given(texts=st.lists(forged, min_size=1, max_size=5))
def test_ids_are_those_of_the_whole_string(template, name, texts):
    """Writing run by run gives what one call of the tokenizer gives for the whole conversation."""
    encoder = make(template, name)
    messages = talk(texts)
    parts = []
    for one in encoder.template.render(bind(messages)[0]):
        for piece in one.pieces:
            parts += [piece] if isinstance(piece, str) else encoder._parts(piece.text)
    assert encoder.encode(messages, generate=False).input_ids == tokenizer(name).encode_pieces(parts)


@pairs
@settings(max_examples=25)
@given(texts=st.lists(words, min_size=1, max_size=3))
def test_honest_prompts_are_the_original_ones(template, name, texts):
    """Where no text forges a token, the default and the first code base agree on every prompt."""
    texts = texts[: len(texts) - 1 + len(texts) % 2]  # ends with the user
    messages = [Message(one.role, one.parts + ((Image(PHOTOS[0]),) if one.role == "user" else ()))
                for one in talk(texts)]  # fmt: skip
    ours, theirs = (make(template, name, compat=compat).encode(messages) for compat in (None, "original"))
    assert ours.input_ids == theirs.input_ids
    assert np.array_equal(ours.tiles, theirs.tiles)


@pairs
@settings(max_examples=25)
@given(texts=st.lists(plain, min_size=2, max_size=6).map(lambda texts: texts[: len(texts) // 2 * 2]))
def test_labels_by_structure_are_the_original_ones(template, name, texts):
    """On well-formed conversations the answers found by structure are those found by re-tokenising."""
    ours, theirs = (make(template, name, compat=c).encode(talk(texts), generate=False) for c in (None, "original"))
    if template == "internvl_zh":
        assert not spans(theirs.targets)
    elif (template, name) != ("internvl2_5", "llama3-bbpe"):  # there each message gets a bos
        assert ours.input_ids == theirs.input_ids
        assert ours.targets == theirs.targets


@pairs
@settings(max_examples=25)
@given(texts=st.lists(plain, min_size=2, max_size=6).map(lambda texts: texts[: len(texts) // 2 * 2]))
def test_what_is_learnt_is_what_the_assistant_said(template, name, texts):
    encoder, tok = make(template, name), tokenizer(name)
    encoded = encoder.encode(talk(texts), generate=False)
    learnt = spans(encoded.targets)
    assert len(learnt) == len(texts) // 2
    end = tok.special(encoder.template.assistant.end).id
    for (start, stop), answer in zip(learnt, texts[1::2], strict=True):
        assert encoded.input_ids[stop - 1] == end
        said = encoded.input_ids[start : stop - 1]
        assert tok.decode(said).strip() == tok.decode(tok.encode(answer)).strip()


@pairs
@settings(max_examples=25)
@given(texts=st.lists(forged, min_size=1, max_size=4))
def test_no_text_forges_structure(template, name, texts):
    """Special tokens and slots are as many as in a conversation about nothing."""
    encoder, tok = make(template, name), tokenizer(name)
    photo = Image(PHOTOS[0])

    def ids(spoken):
        messages = [Message(m.role, (*m.parts, photo) if m.role == "user" else m.parts) for m in talk(spoken)]
        return encoder.encode(messages, generate=False).input_ids

    honest, told = ids(["x"] * len(texts)), ids(texts)
    watched = {tok.id_of(text) for text in TOKENS if text not in ("<human>:", "USER:")} | {NO_TOKEN, tok.bos_id}
    for i in watched - {None}:
        assert told.count(i) == honest.count(i), i


@pairs
@settings(max_examples=25)
@given(texts=st.lists(plain, min_size=3, max_size=5))
def test_earlier_turns_are_a_prefix(template, name, texts):
    """What was encoded for an answer stays as it was when the conversation goes on: caches can be kept."""
    encoder = make(template, name)
    messages = [Message(m.role, (*m.parts, Image(PHOTOS[n % 3])) if m.role == "user" else m.parts)
                for n, m in enumerate(talk(texts))]  # fmt: skip
    whole = encoder.encode(messages, generate=False).input_ids
    for turn in range(0, len(messages), 2):
        prompt = encoder.encode(messages[: turn + 1]).input_ids
        assert whole[: len(prompt)] == prompt or turn == len(messages) - 1


@pairs
def test_permuting_pictures_permutes_tiles(template, name):
    encoder = make(template, name)

    def tiles(order):
        encoded = encoder.encode([Message("user", (*(Image(PHOTOS[n]) for n in order), "Which?"))])
        edges = np.cumsum(encoded.tiles_per_image)[:-1]
        return encoded.input_ids, np.split(encoded.tiles, edges)

    ids, straight = tiles([0, 1, 2])
    turned_ids, turned = tiles([2, 0, 1])
    assert ids == turned_ids
    for place, n in enumerate([2, 0, 1]):
        assert np.array_equal(turned[place], straight[n])


# ---- pictures --------------------------------------------------------------------------------------------------------

WIDE = Pillow.new("RGB", (200, 100))


def asked(*parts, encoder=None, **options):
    return (encoder or make("internvl2_5", "qwen2-bbpe")).encode([Message("user", parts)], **options)


def test_budgets_are_shared_within_a_message():
    assert asked(Image(WIDE), "?").tiles_per_image == (3,)  # 2 x 1 and the thumbnail
    assert asked(Image(WIDE), Image(WIDE), "?").tiles_per_image == (3, 3)
    assert asked(Image(WIDE), Image(WIDE), Image(WIDE), "?").tiles_per_image == (1, 1, 1)
    assert asked(Image(WIDE), "?", max_tiles=1).tiles_per_image == (1,)
    assert asked(Image(WIDE), Image(WIDE, max_tiles=1), "?").tiles_per_image == (3, 1)
    assert asked(Image(WIDE), *[Image(WIDE)] * 4, "?", max_tiles=10).tiles_per_image == (3,) * 5


def test_another_turns_pictures_do_not_change_a_budget():
    encoder = make("internvl2_5", "qwen2-bbpe")
    one, answer = Message("user", (Image(WIDE), "?")), Message("assistant", ("x",))
    more = Message("user", tuple(Image(WIDE) for _ in range(4)))
    assert encoder.encode([one, answer, more]).tiles_per_image == (3, 1, 1, 1, 1)


def test_frames_are_one_tile_each():
    encoded = asked(Video((WIDE,) * 3), "What happens?")
    assert encoded.tiles_per_image == (1, 1, 1)
    assert encoded.tiles.shape == (3, 28, 28, 3)
    assert encoded.tiles.dtype == np.uint8
    told = tokenizer("qwen2-bbpe").decode(encoded.input_ids, skip_special=False)
    slots = "<img>" + "<IMG_CONTEXT>" * 2 + "</img>\n"
    assert f"user\nFrame-1: {slots}Frame-2: {slots}Frame-3: {slots}What happens?" in told


def test_a_picture_with_fewer_tiles_than_the_least():
    encoder = make("internvl2_5", "qwen2-bbpe", min_tiles=2)
    assert asked(Image(WIDE), Image(WIDE), Image(WIDE), "?", encoder=encoder).tiles_per_image == (1, 1, 1)
    assert asked(Image(PHOTOS[0].resize((9, 9))), "?", encoder=encoder).tiles_per_image == (5,)


@pytest.mark.parametrize("pad", [False, True])
def test_a_checkpoint_without_tiling(pad):
    encoder = make("Hermes-2", "yi-sp", dynamic=False, pad_to_square=pad)
    encoded = asked(Image(Pillow.new("RGB", (200, 100), "red")), "?", encoder=encoder)
    assert encoded.tiles_per_image == (1,)
    assert encoded.tiles[0, 0, 0].tolist() == ([123, 116, 103] if pad else [255, 0, 0])
    assert asked(Image(WIDE), "?", encoder=encoder, max_tiles=1).tiles_per_image == (1,)
    with pytest.raises(UsageError, match="one tile"):
        asked(Image(WIDE), "?", encoder=encoder, max_tiles=2)


def test_sizes_are_upright():
    turned = Pillow.new("RGB", (200, 100))
    turned.getexif()[0x0112] = 6
    assert asked(Image(turned), "?").sizes == ((100, 200),)
    assert asked(Image(turned), "?", encoder=make("internvl2_5", "qwen2-bbpe", compat="original")).sizes == (
        (200, 100),
    )


def test_text_alone_has_no_tiles():
    encoded = asked(Text("Hi"))
    assert encoded.tiles.shape == (0, 28, 28, 3)
    assert encoded.tiles_per_image == encoded.sizes == ()


def test_slots_without_a_token():
    """The LLaVA form: -200 marks a slot, and the text on either side is tokenised on its own."""
    encoder, tok = make("vicuna_v1", "llama-sp"), tokenizer("llama-sp")
    ids = asked("Look: <image>\nWhat?", Image(PHOTOS[0], max_tiles=1), encoder=encoder).input_ids
    at = ids.index(NO_TOKEN)
    assert ids.count(NO_TOKEN) == encoder.config.slots_per_tile
    before = f"{TEMPLATES['vicuna_v1'].system_message} USER: Look: "
    assert ids[:at] == [tok.bos_id, *tok.encode(before)]
    assert ids[at + 2 :] == tok.encode("\nWhat? ASSISTANT:")


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_too_long_is_refused_before_any_picture_is_cut(monkeypatch):
    monkeypatch.setattr("internvl.data.encode.tile", lambda *_, **__: pytest.fail("cut"))
    with pytest.raises(ContextOverflow, match=r"tokens, 6 of them for 1 picture\(s\), but at most 20"):
        asked(Image(WIDE), "?", max_length=20)
    with pytest.raises(ContextOverflow, match=r"tokens, but at most 2 are allowed; shorten the conversation$"):
        asked("What is this?", max_length=2)
    with pytest.raises(PlaceholderMismatch, match="message 1 has 2"):
        asked("<image><image>", Image(WIDE))


def test_the_original_never_cuts_through_a_picture_either():
    encoder = make("internvl2_5", "qwen2-bbpe", compat="original")
    messages = [Message("user", (Image(WIDE), "What is this?")), Message("assistant", ("Nothing at all.",))]
    whole = encoder.encode(messages, generate=False).input_ids
    closing = whole.index(tokenizer("qwen2-bbpe").id_of("</img>"))
    for length in range(1, len(whole) + 1):
        if length > closing:
            assert encoder.encode(messages, generate=False, max_length=length).input_ids == whole[:length]
        else:
            with pytest.raises(ContextOverflow):
                encoder.encode(messages, generate=False, max_length=length)


def test_a_slot_spelt_by_a_user_is_caught_where_it_counts():
    text = Text("What is <IMG_CONTEXT>?")
    assert asked(Image(WIDE), text).tiles_per_image == (3,)
    with pytest.raises(PlaceholderMismatch, match="7 picture slots but the pictures fill 6"):
        asked(Image(WIDE), text, encoder=make("internvl2_5", "qwen2-bbpe", compat="original"))


def test_wrong_calls():
    with pytest.raises(PromptError, match="empty"):
        make("internvl2_5", "qwen2-bbpe").encode([])
    with pytest.raises(PromptError, match="last message is the assistant's"):
        make("internvl2_5", "qwen2-bbpe").encode(talk(["Hi", "Hello"]))
    with pytest.raises(UsageError, match="max_tiles is 0"):
        asked(Image(WIDE), "?", max_tiles=0)
    with pytest.raises(UsageError, match="tiles from 3 to 2"):
        EncoderConfig(template="internvl2_5", min_tiles=3, max_tiles=2)
    with pytest.raises(ConfigError, match="tile_size 0"):
        EncoderConfig(template="internvl2_5", tile_size=0)
    for compat in ("Original", "orignal", "", True, []):
        with pytest.raises(UsageError, match="no compat is called"):
            EncoderConfig(template="internvl2_5", compat=compat)
    with pytest.raises(InternVLError, match="Did you mean 'internvl2_5'"):
        EncoderConfig(template="internvl25")
    with pytest.raises(InternVLError, match="no special token is called"):
        make("phi3-chat", "qwen2-bbpe")


@pytest.mark.parametrize("tiles", [0, -1, 2.0, "12", True, [1], 1025, 10**9])
def test_a_budget_is_a_whole_number_up_to_a_ceiling(tiles):
    with pytest.raises(UsageError, match=r"max_tiles is .* expected a whole number from 1 to 1024"):
        EncoderConfig(template="internvl2_5", max_tiles=tiles)
    with pytest.raises(UsageError, match="expected a whole number from 1 to 1024"):
        asked(Image(WIDE), "?", max_tiles=tiles)
    with pytest.raises(UsageError, match="expected a whole number from 1 to 1024"):
        asked(Image(WIDE, max_tiles=tiles), "?")
    with pytest.raises(UsageError, match=r"min_tiles is .* expected a whole number from 1 to 1024"):
        EncoderConfig(template="internvl2_5", min_tiles=tiles)


# ---- the sane rule and the original one ------------------------------------------------------------------------------


def learnt_text(template, name, messages, compat=None):
    encoded = make(template, name, compat=compat).encode(messages, generate=False)
    return [tokenizer(name).decode(encoded.input_ids[a:b], skip_special=False) for a, b in spans(encoded.targets)]


def test_an_empty_answer_is_learnt_and_costs_nothing_else():
    messages = talk(["One?", "First.", "Two?", ""])
    assert learnt_text("Hermes-2", "qwen2-bbpe", messages) == ["First.<|im_end|>", "<|im_end|>"]
    assert learnt_text("Hermes-2", "qwen2-bbpe", messages, "original") == []


def test_an_assistant_may_speak_first():
    messages = talk(["I go first.", "Hi", "Hello"], first="assistant")
    assert learnt_text("Hermes-2", "qwen2-bbpe", messages) == ["I go first.<|im_end|>", "Hello<|im_end|>"]
    assert learnt_text("Hermes-2", "qwen2-bbpe", messages, "original") == ["Hello<|im_end|>"]


def test_system_messages_train_with_every_template():
    messages = [Message("system", ("Be brief.",)), *talk(["Hi", "Hello"])]
    assert learnt_text("Hermes-2", "qwen2-bbpe", messages) == ["Hello<|im_end|>"]
    with pytest.raises(PromptError, match="system messages"):
        learnt_text("Hermes-2", "qwen2-bbpe", messages, "original")


def test_turns_may_follow_each_other_in_any_order():
    messages = [*talk(["Hi", "Hello"]), *talk(["Good", "day"], first="assistant")]
    assert learnt_text("internlm2-chat", "llama3-bbpe", messages) == ["Hello<|im_end|>", "Good<|im_end|>"]
    with pytest.raises(PromptError, match="turn 3 is out of order"):
        learnt_text("internlm2-chat", "llama3-bbpe", messages, "original")


def test_white_space_of_an_answer_is_learnt():
    messages = talk(["Code?", "\n  x = 1  "])
    assert learnt_text("internlm2-chat", "llama3-bbpe", messages) != ["x = 1<|im_end|>"]
    assert learnt_text("internlm2-chat", "llama3-bbpe", messages, "original") == ["x = 1<|im_end|>"]


def test_internvl_zh_can_be_trained():
    messages = talk(["Hi", "Hello", "More", "Yes"])
    assert [text.replace(" ", "") for text in learnt_text("internvl_zh", "llama-sp", messages)] == [
        "Hello</s>",
        "Yes</s>",
    ]
    assert learnt_text("internvl_zh", "llama-sp", messages, "original") == []


def test_one_bos_is_enough():
    tok = tokenizer("llama3-bbpe")
    messages = talk(["Hi", "Hello"])
    ours, theirs = (
        make("internvl2_5", "llama3-bbpe", compat=c).encode(messages, generate=False) for c in (None, "original")
    )
    assert (ours.input_ids.count(tok.bos_id), theirs.input_ids.count(tok.bos_id)) == (1, 3)


def test_the_original_never_learns_an_end_of_text_of_phi3():
    messages = talk(["Write it.", "It is <|endoftext|> so."])
    encoder = make("phi3-chat", "phi3-sp", compat="original")
    length = len(encoder.encode(messages, generate=False).input_ids) - 2  # a sample that is cut is not dropped
    encoded = encoder.encode(messages, generate=False, max_length=length)
    ids, end = encoded.input_ids, tokenizer("phi3-sp").id_of("<|endoftext|>")
    assert end not in encoded.targets
    [[_, stop], [after, last]] = spans(encoded.targets)
    assert [stop, last] == [ids.index(end), len(ids)]
    assert after == stop + 1


def test_a_pad_token_in_a_text_does_not_silence_the_sample():
    messages = talk(["What is <|endoftext|>?", "A token."])
    assert learnt_text("Hermes-2", "qwen2-bbpe", messages) == ["A token.<|im_end|>"]
    assert learnt_text("Hermes-2", "qwen2-bbpe", messages, "original") == []


def test_what_ends_an_answer():
    tok = tokenizer("internlm2-sp")
    end = tok.id_of("<|im_end|>")
    assert make("internlm2-chat", "internlm2-sp").stop_ids == (end, tok.eos_id)
    assert make("internlm2-chat", "internlm2-sp", compat="original").stop_ids == (end,)
    assert make("internlm2-chat", "internlm2-sp").lead_ids == ()


def test_gpt_oss_learns_its_channel(tmp_path):
    """The published tokenizer is not among the golden ones; a small one with its token names stands in."""
    names = {"<|im_start|>": "<|start|>", "<|im_end|>": "<|end|>", "<|reserved_special_token_0|>": "<|message|>",
             "<|start_header_id|>": "<|channel|>", "<|eot_id|>": "<|return|>"}  # fmt: skip
    for file in golden("tokenizers/llama3-bbpe").iterdir():
        text = file.read_text(encoding="utf-8")
        for old, new in names.items():
            text = text.replace(old, new)
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    tok = Tokenizer.from_folder(tmp_path)
    for compat in (None, "original"):
        encoder = Encoder(tok, EncoderConfig(template="internvl3_5_gpt_oss", compat=compat))
        encoded = encoder.encode(talk(["Hi", "Hello", "More", "Yes"]), generate=False)
        said = [tok.decode(encoded.input_ids[a:b], skip_special=False) for a, b in spans(encoded.targets)]
        lead = "<|channel|>final<|message|>"
        assert said == [f"{lead}Hello<|end|>", f"{lead}Yes<|return|>"]
        told = [Message(role, (Text(role),)) for role in ("user", "assistant", "tool", "assistant")]
        encoded = encoder.encode(told, generate=False)
        said = [tok.decode(encoded.input_ids[a:b], skip_special=False) for a, b in spans(encoded.targets)]
        assert said == [f"{lead}assistant<|end|>", f"{lead}assistant<|return|>"]
        assert tok.decode(encoder.lead_ids, skip_special=False) == lead
        stops = [tok.id_of("<|return|>"), tok.id_of("<|end|>")]
        assert encoder.stop_ids == (stops[0],) if compat else set(stops) <= set(encoder.stop_ids)


@pairs
@settings(max_examples=25)
@given(
    text=forged.filter(lambda text: "<image>" not in text and "<video>" not in text),
    compat=st.sampled_from([None, "original"]),
)
def test_a_text_to_pretrain_on_is_learnt_whole(template, name, text, compat):
    """All its tokens, as the text has them alone, and nothing of pictures; a leading bos is no token of the text."""
    encoder, tok = make(template, name, compat=compat), tokenizer(name)
    bos = [tok.bos_id] if tok.adds_bos else []
    encoded = encoder.encode([Message("pretrain", (text,))], generate=False)
    assert encoded.input_ids == bos + tok.encode_pieces([text], bos=False)
    assert encoded.targets == [NOT_LEARNT] * len(bos) + encoded.input_ids[len(bos) :]
    seen = encoder.encode([Message("pretrain", (Image(PHOTOS[0]), f"{text}<image>{text}"))], generate=False)
    learnt = [i for i, target in zip(seen.input_ids, seen.targets, strict=True) if target != NOT_LEARNT]
    assert encoder.slot_id not in learnt
    assert len(learnt) == len(seen.input_ids) - len(bos) - seen.input_ids.count(encoder.slot_id) - 2 * bool(
        encoder.template.image[0]
    )


@pytest.mark.parametrize(("template", "fault"), [
    ("internvl2_5", {"assistant": Form("<|im_start|>assistant\n", "<|im_end|>\n")}),  # learns the line break
    ("internvl2_5", {"user": Form("<|im_start|>user\n", "<|im_end|>")}),  # forgets one
    ("Hermes-2", {"masks": Masks("exchange", added=1)}),  # off by one from the second exchange on
])  # fmt: skip
def test_a_planted_fault_shows_in_the_published_labels(template, fault, monkeypatch):
    rows = [row for row in ROWS if row["template"] == template and row["record"] == "text3"]
    if not rows:
        pytest.skip(f"no golden labels of {template} here")
    monkeypatch.setitem(TEMPLATES, template, replace(TEMPLATES[template], **fault))
    for row in rows:
        encoded = encode_row(row)
        assert (encoded.input_ids, spans(encoded.targets)) != (row["input_ids"], row["label_spans"])
