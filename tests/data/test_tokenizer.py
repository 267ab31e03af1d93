"""Every tokenizer of the family: golden ids and texts, streaming, and that no text can forge structure."""

from __future__ import annotations

import json
import pickle
import shutil
import unicodedata
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from internvl.data import tokenizer_files
from internvl.data.detokenizer import Spacing, Tidy, _Run
from internvl.data.tokenizer import MARKUP, Special, Tokenizer
from internvl.data.vocabulary import BytePairs, SentencePieces, _processor
from internvl.errors import CheckpointError, DamagedFile, DataError, NoSuchName
from tests.conftest import golden, golden_names
from tests.data import sentencepiece_files as files

NAMES = [name.removesuffix(".vectors.jsonl") for name in golden_names("tokenizers/*.vectors.jsonl")]
SENTENCEPIECE = [name for name in NAMES if not name.endswith("bbpe") and not name.endswith("published")]
BYTE_LEVEL = [name for name in NAMES if name.endswith("bbpe")]
every_tokenizer = pytest.mark.parametrize("name", NAMES)


@cache
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_folder(golden(f"tokenizers/{name}"))


def structure(t: Tokenizer) -> set[int]:
    """Ids that a text must never yield. The unknown piece is what SentencePiece falls back to, so it may."""
    unknown = {t.id_of("<unk>")} if isinstance(t._vocabulary, SentencePieces) else set()
    return {s.id for s in t._by_id.values() if s.text not in MARKUP} - unknown


# ---- golden ----------------------------------------------------------------------------------------------------------


def disagreements(t: Tokenizer, rows: list[dict]) -> list[tuple]:
    """(row, what we give, what was wanted) wherever they differ."""
    found = []
    for row in rows:
        text = row["text"]
        if "prefix" in row:  # the contrastive text of InternVL-14B: bos, the text cut to 80 tokens, eos
            whole = [*t.encode(row["prefix"] + text, specials="all", bos=True)[:79], t.eos_id]
            pairs = [(whole, row["input_ids_without_padding"])]
            pairs += [(t.encode(text, specials="all", bos=True), row["plain_ids"])]
        else:
            ids = row["input_ids"]
            pairs = [(t.decode(ids, skip_special=False), row["decode"]), (t.decode(ids), row["decode_skip_special"])]
            if text is not None:
                pairs += [(t.encode(text, specials="all", bos=t.adds_bos), ids)]
                pairs += [(t.encode(text, specials="all"), row["input_ids_no_special"])]
        found += [(row, ours, theirs) for ours, theirs in pairs if ours != theirs]
    return found


def rows(name: str) -> list[dict]:
    lines = golden(f"tokenizers/{name}.vectors.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@every_tokenizer
def test_golden(name: str) -> None:
    assert disagreements(tokenizer(name), rows(name)) == []


@pytest.mark.parametrize(
    ("name", "kind", "wrong"),
    [
        ("internlm2-sp", "InternLM2Tokenizer", Spacing(strip_first=False, gap="inside", tidy_groups=True)),
        ("internlm2-sp", "InternLM2Tokenizer", Spacing(strip_first=True, gap="always", tidy_groups=True)),
        ("llama-sp", "LlamaTokenizer, legacy", Spacing(strip_first=False, gap="inside", tidy_groups=False)),
        ("phi3-sp", "LlamaTokenizer", Spacing(strip_first=True, gap="inside", tidy_groups=False)),
    ],
)
def test_golden_notices_a_wrong_space(name: str, kind: str, wrong: Spacing, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lines = golden(f"tokenizers/{name}"), rows(name)
    monkeypatch.setitem(tokenizer_files.SPACING, kind, wrong)
    assert disagreements(Tokenizer.from_folder(folder), lines)


def test_golden_notices_whose_prefix_space_it_is(tmp_path: Path) -> None:
    for name, legacy in (("llama-sp", False), ("phi3-sp", True)):
        folder = shutil.copytree(golden(f"tokenizers/{name}"), tmp_path / name)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        rewrite(folder / "tokenizer_config.json", config | {"legacy": legacy})
        assert disagreements(Tokenizer.from_folder(folder), rows(name))


def test_published_contrastive_texts() -> None:
    """The ids printed for the README example of InternVL-14B-224px."""
    t = tokenizer("internvl-14b-published")
    assert t.encode("summarize:a photo of a red panda", bos=True) == [
        *(1, 19138, 675, 29901, 29874, 15373, 310, 263, 2654, 282, 5863)
    ]
    assert t.encode("summarize:二匹の猫の写真", bos=True) == [
        1,
        19138,
        675,
        29901,
        30685,
        37015,
        30199,
        33155,
        30199,
        41971,
    ]
    assert t.encode("English caption:", bos=True) == [1, 4223, 5777, 683, 29901]
    assert (t.vocab_size, t.pad_id, t.bos_id, t.eos_id) == (49954, 49953, 1, 2)


@pytest.mark.parametrize("name", golden_names("vocab/*.gguf"))
def test_real_vocabulary(name: str, tmp_path: Path) -> None:
    """The real vocabulary of Phi-3: what llama.cpp's own test asks of it."""
    meta = files.gguf_metadata(golden(f"vocab/{name}"))
    assert meta["tokenizer.ggml.model"] == "llama"
    tokens, scores, kinds = (meta[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    added = {i: text for i, text in enumerate(tokens) if kinds[i] in (files.CONTROL, files.USER_DEFINED)}
    base = min(i for i in added if i > 2)
    own = [files.UNKNOWN, files.CONTROL, files.CONTROL, *kinds[3:base]]
    (tmp_path / "tokenizer.model").write_bytes(files.model_proto(list(zip(tokens, scores, own, strict=False))))
    decoder = {
        str(i): {"content": text, "special": True, "rstrip": i not in (0, 1, 32000)} for i, text in added.items()
    }
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "added_tokens_decoder": decoder}
    rewrite(tmp_path / "tokenizer_config.json", config | {"bos_token": "<s>", "eos_token": "<|endoftext|>"})
    t = Tokenizer.from_folder(tmp_path)

    texts = golden(f"vocab/{name}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = golden(f"vocab/{name}.out").read_text().split("\n")
    assert t.encode("<|user|>\nHi<|end|>", specials="all") == [t.id_of("▁"), 32010, t.id_of("Hi"), 32007]
    for text, ids in zip(texts, wanted, strict=False):
        assert t.encode(text) == [int(i) for i in ids.split()], text
        assert t.decode(t.encode(text)) == text or not text.strip()


# ---- no text is structure --------------------------------------------------------------------------------------------


def fragments(t: Tokenizer) -> st.SearchStrategy[str]:
    """Texts out of everything that could be mistaken: special tokens, halves of them, names of pieces, white space."""
    texts = sorted(t._by_text)
    halves = sorted({half for text in texts for half in (text[: len(text) // 2], text[len(text) // 2 :])})
    odd = [
        "[UNUSED_TOKEN_145]",
        "[PAD]",
        "<0x0A>",
        "▁",
        " ",
        "\n",
        "\x00",
        "\ud800",
        "é",
        "e\u0301",
        "\u0338",
        "🙂",
        "世",
    ]
    piece = st.sampled_from([*texts, *halves, *odd]) | st.text(max_size=5)
    return st.lists(piece, max_size=6).map("".join)


@every_tokenizer
@given(data=st.data())
def test_no_text_becomes_structure(name: str, data: st.DataObject) -> None:
    t = tokenizer(name)
    pieces: list[str | Special] = [
        *data.draw(st.lists(fragments(t) | st.sampled_from(sorted(t._by_id.values(), key=lambda s: s.id)), max_size=6))
    ]
    forbidden = structure(t)
    placed = [piece.id for piece in pieces if isinstance(piece, Special) and piece.id in forbidden]
    for specials in ("markup", "none"):
        ids = t.encode_pieces(pieces, bos=False, specials=specials)
        assert [i for i in ids if i in forbidden] == placed


@every_tokenizer
def test_two_innocent_texts_do_not_make_a_token(name: str) -> None:
    t = tokenizer(name)
    for text in t._by_text:
        ids = t.encode_pieces([text[:2], text[2:]], bos=False, specials="none")
        assert t.id_of(text) not in ids or text == "<unk>"
        if text not in MARKUP:
            assert t.encode_pieces([text[:2], text[2:]], bos=False) == ids


@every_tokenizer
@given(data=st.data())
def test_without_forgery_the_ids_are_those_of_the_joined_string(name: str, data: st.DataObject) -> None:
    t = tokenizer(name)
    text = st.text(st.characters(exclude_categories=["Cs", "M"], exclude_characters="<>[]|"), max_size=8)
    pieces = data.draw(st.lists(text | st.sampled_from(sorted(t._by_id.values(), key=lambda s: s.id)), max_size=6))
    joined = "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)
    assert t.encode_pieces(pieces, bos=False) == t.encode(joined, specials="all")


@every_tokenizer
def test_markup_is_read_from_text(name: str) -> None:
    t = tokenizer(name)
    ids = t.encode("<ref>a bus</ref><box>[[1, 2, 3, 4]]</box><quad></quad>")
    known = [text for text in MARKUP if text in t._by_text]
    assert sorted(i for i in ids if i in {t.id_of(text) for text in known}) == sorted(t.special(m).id for m in known)
    if known:
        assert not set(t.encode("<ref>a</ref>", specials="none")) & {t.id_of(text) for text in MARKUP}
        assert "<ref>" in t.decode(ids, keep_markup=True)
        assert "<ref>" not in t.decode(ids)


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_markup_kept_for_reading_back_has_no_spaces_of_ours(name: str) -> None:
    t = tokenizer(name)
    if t.id_of("<box>") is not None:
        text = "<ref>a bus</ref><box>[[1, 2, 3, 4]]</box>"
        assert t.decode(t.encode(text), keep_markup=True) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_text_comes_back(name: str, text: str) -> None:
    t = tokenizer(name)
    wanted = unicodedata.normalize("NFC", text) if name.startswith("qwen2") else text
    assert t.decode(t.encode(text, specials="none"), skip_special=False) == (tidied(wanted) if t._tidy else wanted)


@every_tokenizer
def test_half_a_surrogate_pair_is_no_character(name: str) -> None:
    t = tokenizer(name)
    assert t.encode("a\ud83d") == t.encode("a\ufffd")


# ---- decoding as it comes --------------------------------------------------------------------------------------------


@every_tokenizer
@given(data=st.data(), skip=st.booleans(), keep=st.booleans())
def test_stream_adds_up_to_decode(name: str, data: st.DataObject, skip: bool, keep: bool) -> None:
    t = tokenizer(name)
    some = st.sampled_from(sorted(t._by_id))
    ids = data.draw(st.lists(st.integers(0, t.vocab_size + 3) | some, max_size=40))
    stream = t.stream(skip_special=skip, keep_markup=keep)
    pushed = [stream.push(i) for i in ids]
    assert "".join(pushed) + stream.finish() == t.decode(ids, skip_special=skip, keep_markup=keep)


@given(data=st.data())
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_decode_is_utf8_of_all_bytes(name: str, data: st.DataObject) -> None:
    t = tokenizer(name)
    vocabulary = t._vocabulary
    assert isinstance(vocabulary, BytePairs)
    plain = [i for i in range(len(vocabulary)) if i not in t._by_id]
    ids = data.draw(st.lists(st.sampled_from(plain), max_size=40))
    whole = b"".join(vocabulary.token(i) or b"" for i in ids).decode("utf-8", "replace")
    assert t.decode(ids) == (tidied(whole) if t._tidy else whole)


@given(data=st.data())
@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_a_run_decodes_as_sentencepiece_does(name: str, data: st.DataObject) -> None:
    t = tokenizer(name)
    vocabulary = t._vocabulary
    assert isinstance(vocabulary, SentencePieces)
    odd = st.sampled_from(
        ["▁", "▁▁▁▁▁", "", "<unk>", "</s>", "nonsense", *(f"<0x{b:02X}>" for b in (0xE4, 0xBD, 0xA0, 0xF0, 0x9F))]
    )
    pieces = data.draw(st.lists(odd | st.sampled_from(vocabulary.pieces), max_size=12))
    run = _Run(vocabulary)
    model = vocabulary._processors[0] if vocabulary.lead is not None else _processor(vocabulary._proto, "")
    assert "".join(map(run.push, pieces)) + run.finish() == (model.decode(pieces) if pieces else "")


# ---- what a token stands for -----------------------------------------------------------------------------------------


def spelt(t: Tokenizer, ids: list[int]) -> str:
    return b"".join(map(t.spelling, ids)).decode()


def as_tokens_spell(name: str, text: str) -> str:
    """A text as the tokens of its encoding spell it: Qwen2 composes characters, SentencePiece writes a space before."""
    if name == "qwen2-bbpe":
        return unicodedata.normalize("NFC", text)
    if name in BYTE_LEVEL:
        return text
    leads = name != "internlm2-sp" and text != ""
    return " " * leads + text.replace("\u2581", " ")


@every_tokenizer
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@example("  two  spaces ")
@example("e\u0301 naïve 🙂\n\n\t界 ")
@example("▁ <s> </box> <unk> <0x0A>")
def test_spelling_is_lossless(name: str, text: str) -> None:
    t = tokenizer(name)
    assert spelt(t, t.encode(text, specials="none", bos=False)) == as_tokens_spell(name, text)


@every_tokenizer
def test_special_tokens_spell_their_text_and_empty_rows_nothing(name: str) -> None:
    t = tokenizer(name)
    for special in t._by_id.values():
        assert t.spelling(special.id) == special.text.encode()
    assert t.structure >= t._by_id.keys()
    assert t.spelling(t.vocab_size) == t.spelling(t.vocab_size + 99) == b""
    with pytest.raises(DataError, match="-100 is not a token id"):
        t.spelling(-100)


@every_tokenizer
@given(data=st.data())
def test_text_is_made_of_no_structure(name: str, data: st.DataObject) -> None:
    t = tokenizer(name)
    unknown = {t.id_of("<unk>")}  # what SentencePiece falls back to, where it has no bytes
    ids = t.encode(data.draw(fragments(t) | st.text(max_size=20)), specials="none", bos=False)
    assert not set(ids) & (t.structure - unknown)


@every_tokenizer
def test_a_character_is_never_shown_in_parts(name: str) -> None:
    t = tokenizer(name)
    text = "a🙂界é!"
    stream = t.stream()
    shown = [stream.push(i) for i in t.encode(text)]
    assert not any("\ufffd" in piece for piece in shown)
    assert ("".join(shown) + stream.finish()).strip() == text


@every_tokenizer
def test_streaming_holds_back_no_more_than_a_few_characters(name: str) -> None:
    t = tokenizer(name)
    stream, seen = t.stream(), ""
    text = "the answer is a long sentence, with commas. " * 4
    ids = t.encode(text)
    for place, i in enumerate(ids):
        seen += stream.push(i)
        assert len(seen) >= len(t.decode(ids[: place + 1])) - 12


def tidied(text: str) -> str:
    for pattern in Tidy.PATTERNS:
        text = text.replace(pattern, pattern.strip())
    return text


@given(st.lists(st.text("  .?!,'nmsvret", max_size=6), max_size=20))
@example(["a ' ", " ' ", "' . n't"])
def test_tidying_in_pieces_is_replacing_in_the_whole(pieces: list[str]) -> None:
    tidy = Tidy()
    assert "".join(map(tidy.push, pieces)) + tidy.finish() == tidied("".join(pieces))


def test_ids_may_be_numbers_of_an_array() -> None:
    t = tokenizer("qwen2-bbpe")
    ids = t.encode_pieces([t.special("<|im_start|>"), "user"])
    assert t.decode(np.array(ids), skip_special=False) == t.decode(torch.tensor(ids), skip_special=False)
    assert t.decode(torch.tensor(ids)) == "user"


def test_a_token_of_another_tokenizer_is_refused() -> None:
    t = tokenizer("qwen2-bbpe")
    with pytest.raises(DataError, match="'<img>' as token 5000 is not of this tokenizer"):
        t.encode_pieces([Special("<img>", 5000)])


def test_an_id_without_a_token_is_shown() -> None:
    t = tokenizer("qwen2-bbpe")
    assert t.decode([39, t.vocab_size + 5, 39]) == "H\ufffdH"
    with pytest.raises(DataError, match="-100 is not a token id"):
        t.decode([39, -100])


# ---- tags of the model itself, and converted models ------------------------------------------------------------------


def rewrite(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def sentencepiece_folder(folder: Path, *extra: tuple[str, float, int], **config: object) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(files.model_proto(files.small_pieces(*extra)))
    rewrite(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **config})
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_tag_of_the_model_is_structure_too(tmp_path: Path, legacy: bool) -> None:
    """Yi's vocabulary cuts `<|im_start|>` out of any text by itself."""
    t = sentencepiece_folder(tmp_path, ("<|im_start|>", 0.0, files.USER_DEFINED), legacy=legacy)
    model = _processor((tmp_path / "tokenizer.model").read_bytes(), "")
    start = t.special("<|im_start|>")
    assert t.encode_pieces([start, "user a"], bos=False) == model.encode("<|im_start|>user a")
    assert t.encode_pieces(["a ", start, "user"], bos=False) == model.encode("a <|im_start|>user")
    assert t.encode("<|im_start|>user", specials="all") == model.encode("<|im_start|>user")
    assert start.id not in t.encode("<|im_start|>user")
    assert t.decode([start.id, *t.encode("user")]) == "<|im_start|> user"


@pytest.mark.parametrize("scheme", ["prepend", "first", "always", "never"])
def test_a_converted_model_does_what_its_file_says(tmp_path: Path, scheme: str) -> None:
    """The tokenizer.json of a SentencePiece model: pieces have become merges, the prefix space a rule."""
    pieces = files.small_pieces(("<box>", -60.0, files.NORMAL))
    rewrite(tmp_path / "tokenizer.json", files.converted(pieces, scheme=scheme))
    config = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    rewrite(tmp_path / "tokenizer_config.json", config)
    t, peer = Tokenizer.from_folder(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert t.adds_bos
    assert (t.bos_id, t.eos_id, t.vocab_size) == (1, 2, len(pieces))
    assert isinstance(t.special("</s>"), Special)
    for text in map(
        "".join, product(["a user", "", "  a", "</s>"], ["é世", " </s> a", "<s>user", "<box>"], ["", "user</s>"])
    ):
        ids = t.encode(text, specials="all")
        assert ids == peer.encode(text, add_special_tokens=False).ids
        assert t.decode(ids, skip_special=False) == peer.decode(ids, skip_special_tokens=False)
        assert t.decode(ids) == peer.decode(ids)
        assert not {1, 2} & set(t.encode(text))
    if scheme == "prepend":
        (tmp_path / "slow").mkdir()
        slow = sentencepiece_folder(tmp_path / "slow", ("<box>", -60.0, files.NORMAL))
        for text in ("a user", "", "  a", "é世", "users </s> a <box>"):
            assert t.encode(text) == slow.encode(text)


# ---- what a folder says ----------------------------------------------------------------------------------------------


@every_tokenizer
def test_lookups(name: str) -> None:
    t = tokenizer(name)
    for special in t._by_id.values():
        assert t.special(special.text) == special
        assert t.id_of(special.text) == special.id < t.vocab_size
    assert t.id_of("no such piece") is None
    with pytest.raises(NoSuchName, match="no special token is called '<IMG_CONTEX>'"):
        t.special("<IMG_CONTEX>")


@every_tokenizer
def test_goes_to_another_process(name: str) -> None:
    t = tokenizer(name)
    again = pickle.loads(pickle.dumps(t))
    assert again.encode("a photo") == t.encode("a photo")
    assert again.decode(t.encode("a photo")) == t.decode(t.encode("a photo"))


def test_bos_is_asked_for_or_follows_the_checkpoint() -> None:
    with_bos, without = tokenizer("internlm2-sp"), tokenizer("qwen2-bbpe")
    assert with_bos.encode_pieces(["a"])[0] == with_bos.bos_id == 1
    assert with_bos.encode_pieces(["a"], bos=False) == with_bos.encode("a") == with_bos.encode("a", bos=True)[1:]
    assert without.encode_pieces(["a"]) == without.encode("a")
    with pytest.raises(DataError, match="no bos token"):
        without.encode("a", bos=True)


def test_a_written_space_of_sentencepiece_is_a_space_to_tokens_that_swallow_it():
    t = tokenizer("phi3-sp")
    for text in ("a</s> ▁▁b", "<|user|>▁\n a", "▁▁a"):
        assert t.encode(text, specials="all") == t.encode(text.replace("▁", " "), specials="all")
    assert t.encode("</s>▁▁b", specials="all") == t.encode("</s>b", specials="all")


def test_a_role_of_phi3_swallows_the_white_space_behind_it() -> None:
    t = tokenizer("phi3-sp")
    user, image = t.special("<|user|>"), t.special("<img>")
    assert t.encode_pieces([user, "\n\n a"], bos=False) == t.encode_pieces([user, "a"], bos=False)
    assert t.encode_pieces([image, "\na"], bos=False) != t.encode_pieces([image, "a"], bos=False)


@pytest.fixture
def qwen2(tmp_path: Path) -> Path:
    return shutil.copytree(golden("tokenizers/qwen2-bbpe"), tmp_path / "qwen2")


def test_no_tokenizer(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            CheckpointError, match=r"tokenizer\.model, or vocab\.json with merges\.txt, or tokenizer\.json"
        ):
            Tokenizer.from_folder(folder)


def test_half_of_a_pair_of_files(qwen2: Path) -> None:
    (qwen2 / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        Tokenizer.from_folder(qwen2)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "vocab.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_damaged_json(qwen2: Path, name: str, content: bytes) -> None:
    (qwen2 / name).write_bytes(content)
    with pytest.raises(DamagedFile, match=name):
        Tokenizer.from_folder(qwen2)


def test_damaged_vocabulary(qwen2: Path, tmp_path: Path) -> None:
    for content in (b"", b"not a model", golden("tokenizers/internlm2-sp/tokenizer.model").read_bytes()[:5000]):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(DamagedFile, match=r"tokenizer\.model"):
            Tokenizer.from_folder(tmp_path)
    for content in ("one\n", "a b c\n", "nosuch piece\n"):
        (qwen2 / "merges.txt").write_text(content)
        with pytest.raises(DamagedFile, match=r"merges\.txt"):
            Tokenizer.from_folder(qwen2)
    rewrite(qwen2 / "vocab.json", {})
    with pytest.raises(DamagedFile, match="no table of pieces"):
        Tokenizer.from_folder(qwen2)


@pytest.mark.parametrize("change", [{"<img>": 5000}, {"<another>": 722}])
def test_files_that_contradict_each_other(qwen2: Path, change: dict[str, int]) -> None:
    added = json.loads((qwen2 / "added_tokens.json").read_text())
    rewrite(qwen2 / "added_tokens.json", added | change)
    with pytest.raises(CheckpointError, match="take all from one checkpoint"):
        Tokenizer.from_folder(qwen2)


def test_a_special_token_without_an_id(qwen2: Path) -> None:
    config = json.loads((qwen2 / "tokenizer_config.json").read_text())
    rewrite(qwen2 / "tokenizer_config.json", config | {"pad_token": "<|nothing|>"})
    with pytest.raises(
        CheckpointError, match=r"'<\|nothing\|>' is named as a special token, but no file gives it an id"
    ):
        Tokenizer.from_folder(qwen2)


def test_an_unknown_class(qwen2: Path, tmp_path: Path) -> None:
    rewrite(qwen2 / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    with pytest.raises(NoSuchName, match="no byte-level tokenizer is called 'GPT2Tokenizer'"):
        Tokenizer.from_folder(qwen2)
    with pytest.raises(NoSuchName, match="no SentencePiece tokenizer is called 'T5Tokenizer'"):
        sentencepiece_folder(tmp_path, tokenizer_class="T5Tokenizer")


def test_added_tokens_from_each_kind_of_file(qwen2: Path) -> None:
    """added_tokens.json alone is enough, as in checkpoints older than added_tokens_decoder."""
    wanted = Tokenizer.from_folder(qwen2)
    config = json.loads((qwen2 / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    rewrite(qwen2 / "tokenizer_config.json", config)
    assert {s.text: s.id for s in Tokenizer.from_folder(qwen2)._by_id.values()} == {
        s.text: s.id for s in wanted._by_id.values()
    }


# ---- beside another implementation -----------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_transformers_agrees(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    tidy = {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True}
    peer = transformers.AutoTokenizer.from_pretrained(golden(f"tokenizers/{name}"), **tidy)
    t = tokenizer(name)
    for parts in product(
        ["", "a ", "é", "好🙂"], ["<img>", "</s>", " ,", "\n\n"], ["12345", "<|im_end|>", "I'm", "  "]
    ):
        text = "".join(parts)
        ids = t.encode(text, specials="all")
        assert ids == peer.encode(text, add_special_tokens=False)
        for skip in (False, True):
            assert t.decode(ids, skip_special=skip) == peer.decode(ids, skip_special_tokens=skip)
