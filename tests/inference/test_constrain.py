"""Constrained answers: whatever is drawn from the allowed tokens has the form that was asked for, at every place."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import internvl
from internvl.data.detokenizer import Tidy
from internvl.data.tokenizer import Tokenizer
from internvl.errors import InternVLError, MissingExtra, UsageError
from internvl.inference import constrain
from internvl.inference.constrain import ConstrainedAnswer, Constraint, Grammars
from internvl.inference.draft import Draft
from internvl.inference.sampling import SamplingConfig
from tests.conftest import golden, golden_names
from tests.data import sentencepiece_files as files

NAMES = [
    "nano",
    "small-sp",
    "small-converted",
    *(name.removesuffix(".vectors.jsonl") for name in golden_names("tokenizers/*.vectors.jsonl")),
]
TIDY = {"internlm2-sp", "llama3-bbpe"}
"""Tokenizers whose own decoder takes the spaces before punctuation out."""
PADDING = 37
"""Rows that the model has more than its tokenizer has tokens."""

every_tokenizer = pytest.mark.parametrize("name", NAMES)
some_tokenizers = st.sampled_from(["nano", "qwen2-bbpe", "internlm2-sp", "small-sp"])


@cache
def tokenizer(name: str) -> Tokenizer:
    if name == "nano":
        return Tokenizer.from_folder(Path(internvl.__file__).parent / "nano" / "checkpoint")
    if not name.startswith("small-"):
        return Tokenizer.from_folder(golden(f"tokenizers/{name}"))
    with tempfile.TemporaryDirectory() as folder:  # both take the first space of an answer away
        if name == "small-sp":
            (Path(folder) / "tokenizer.model").write_bytes(files.model_proto(files.small_pieces()))
        else:
            named = {"bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
            definition = files.converted(files.small_pieces(), scheme="prepend")
            (Path(folder) / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
        return Tokenizer.from_folder(Path(folder))


@cache
def grammars(name: str) -> Grammars:
    return Grammars(tokenizer(name), tokenizer(name).vocab_size + PADDING)


def stops(name: str) -> tuple[int, ...]:
    """The end of the text, and one more special token, as a template has two."""
    t = tokenizer(name)
    return tuple(sorted({*([] if t.eos_id is None else [t.eos_id]), *list(t._by_id)[-1:]}))


def start(name: str, asked: Constraint) -> ConstrainedAnswer:
    return grammars(name).start(asked, stops(name))


# ---- drawing ---------------------------------------------------------------------------------------------------------


@cache
def closing(name: str) -> torch.Tensor:
    """(vocab,) how much a token helps to come to an end: random answers would otherwise never do."""
    worth = {b'"': 4.0, b"}": 3.0, b"]": 3.0}  # in a string, a bracket ends nothing
    wanted = torch.tensor([worth.get(spelt, 0.0) for spelt in grammars(name)._spelt])
    wanted[list(stops(name))] = 5.0
    return wanted


def said(name: str, ids: list[int]) -> str:
    stream = grammars(name).stream()
    return "".join([*map(stream.push, ids), stream.finish()])


def whole_characters(name: str, ids: list[int]) -> bool:
    try:
        b"".join(grammars(name)._spelt[i] for i in ids).decode()
    except UnicodeDecodeError:
        return False
    return True


def draw(name: str, answer: ConstrainedAnswer, seed: int, complete: Callable[[str], bool], *, limit: int = 300) -> str:
    """One answer by random logits. Asserts at every place what is allowed there: see each line."""
    random = torch.Generator().manual_seed(seed)
    t, ids, token, vocab = tokenizer(name), [], -1, grammars(name).vocab_size
    structure = [i for i in t._by_id if i not in stops(name)]
    while not answer.finished:
        allowed = answer.allowed()
        assert allowed.shape == (vocab,)
        assert allowed.dtype == torch.bool
        assert not allowed[structure].any(), "a special token is allowed"
        assert not allowed[t.vocab_size :].any(), "a row without a token is allowed"
        may_end = whole_characters(name, ids) and complete(said(name, ids))
        assert allowed[list(stops(name))].tolist() == [may_end] * len(stops(name)), "the stop tokens"
        logits = torch.randn(vocab, generator=random) + closing(name) * max(0, len(ids) - 8) / 4
        token = int(logits.masked_fill(~allowed, -torch.inf).argmax())
        answer.accept(token)
        if token not in stops(name):
            ids.append(token)
        assert len(ids) < limit, f"no end in sight: {said(name, ids)!r}"
    text = said(name, ids)
    assert complete(text)
    left = [] if token in stops(name) else [*stops(name)]
    assert answer.allowed().nonzero()[:, 0].tolist() == left, "after the end"
    assert reads_as(name, ids, text)
    return text


def reads_as(name: str, ids: list[int], text: str) -> bool:
    """Whether the tokenizer's own decoder makes this text of these ids."""
    tidy = Tidy()
    expected = tidy.push(text) + tidy.finish() if name in TIDY else text
    return tokenizer(name).decode(ids, keep_markup=True) == expected


def walk(name: str, answer: ConstrainedAnswer, ids: list[int]) -> None:
    """Goes through an answer that is known."""
    for token in ids:
        assert answer.allowed()[token], f"{tokenizer(name).decode([token])!r} is refused in {said(name, ids)!r}"
        answer.accept(token)
    assert answer.allowed()[list(stops(name))].all() or answer.finished


def spelt_by(name: str, text: str) -> list[int] | None:
    """The tokenizer's own ids of a text; None where it cannot write exactly this."""
    ids = tokenizer(name).encode(text, specials="none", bos=False)
    silent = [i for i in ids if not grammars(name).spoken[i]]
    # A first token of spaces alone may lose more than the one space that the grammar reckons with: it is masked.
    return ids if not silent and said(name, ids) == text and reads_as(name, ids, text) else None


# ---- JSON ------------------------------------------------------------------------------------------------------------

KINDS = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "boolean": bool, "null": type(None),
}  # fmt: skip


def fits(value: object, schema: dict, root: dict | None = None) -> bool:
    """Whether a value is what the part of JSON Schema that is used here asks for."""
    root = root or schema
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(fits(value, each, root) for each in schema["anyOf"])
    if "enum" in schema:
        return any(value == each and type(value) is type(each) for each in schema["enum"])
    if not isinstance(value, KINDS[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return False
    if isinstance(value, str):
        size, low, high = len(value), "minLength", "maxLength"
        if not re.search(schema.get("pattern", ""), value):
            return False
    elif isinstance(value, list):
        size, low, high = len(value), "minItems", "maxItems"
        if not all(fits(each, schema["items"], root) for each in value):
            return False
    elif isinstance(value, dict):
        inner, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        known = all(fits(value[key], inner[key], root) for key in value if key in inner)
        return known and {*schema.get("required", ())} <= {*value} and (more or {*value} <= {*inner})
    else:
        size, low, high = value, "minimum", "maximum"
    return value is None or schema.get(low, size) <= size <= schema.get(high, size)


def object_of(**properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


BOX = object_of(x={"type": "number"}, ok={"type": "boolean"})
TWIGS = {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/tree"}}
SCHEMAS = {
    "flat": object_of(name={"type": "string", "maxLength": 12}, age={"type": "integer", "minimum": 0, "maximum": 150}),
    "nested": object_of(boxes={"type": "array", "minItems": 1, "maxItems": 3, "items": BOX}),
    "chinese": object_of(颜色={"enum": ["红", "绿", "天蓝"]}, 说明={"type": "string", "minLength": 2, "maxLength": 4}),
    "choices": object_of(v={"anyOf": [{"type": "null"}, {"type": "integer"}, {"enum": ["a !", "it 's"]}]}),
    "pattern": object_of(plate={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}),
    "optional": {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}, "required": ["b"]},
    "recursive": {
        "$defs": {"tree": object_of(leaf={"type": "boolean"}, twigs=TWIGS)},
        "$ref": "#/$defs/tree",
    },
}  # fmt: skip


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@every_tokenizer
@pytest.mark.parametrize("which", SCHEMAS)
def test_random_answers_fit_their_schema(name, which):
    schema = SCHEMAS[which]
    first = start(name, Constraint.json_schema(schema))
    for seed in range(3):
        text = draw(name, first.fresh(), seed, is_json)
        assert fits(json.loads(text), schema), text


@every_tokenizer
def test_a_json_object_is_any_json_object(name):
    answer = start(name, Constraint.json_object())
    for seed in range(3):
        assert isinstance(json.loads(draw(name, answer.fresh(), seed, is_json)), dict)
    value = {"a": [1, -2.5e3, None, True], "b": {"": "x\ny"}}
    ids = spelt_by(name, json.dumps(value, separators=(",", ":")))
    assert ids is not None
    walk(name, answer.fresh(), ids)


scalars = (
    st.integers(-99, 99).map(lambda a: {"type": "integer", "minimum": a, "maximum": a + abs(a)})
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}])
    | st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 6))
    | st.lists(st.sampled_from(["a", "ab", "中文", "é", '"', "\\", 1, None]), min_size=1).map(lambda of: {"enum": of})
)  # fmt: skip
schemas = st.recursive(
    scalars,
    lambda inner: (
        st.builds(lambda items, n: {"type": "array", "items": items, "maxItems": n}, inner, st.integers(0, 3))
        | st.builds(lambda p: object_of(**p), st.dictionaries(st.sampled_from(["a", "b", "ключ", "a b"]), inner))
        | st.builds(lambda each: {"anyOf": each}, st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=6,
)


@settings(max_examples=40)
@given(name=some_tokenizers, schema=schemas, seed=st.integers(0, 2**32))
def test_random_answers_fit_random_schemas(name, schema, seed):
    whole = object_of(value=schema)
    assert fits(json.loads(draw(name, start(name, Constraint.json_schema(whole)), seed, is_json)), whole)


@pytest.mark.parametrize("begun", ["", "{", '{"a"', '{"a":', '{"a":[1', '{"a":[1,', '{"a":[1]', '{"a":[1]}'])
@pytest.mark.parametrize(
    "form", [Constraint.json_object(), Constraint.json_schema(object_of(a={"type": "array", "items": {}}))]
)
def test_no_token_is_spent_on_white_space_between_the_parts_of_json(form, begun):
    spelt = grammars("nano")._spelt
    answer = start("nano", form)
    for token in tokenizer("nano").encode(begun):
        answer.accept(token)
    assert not [spelt[int(i)] for i in answer.allowed().nonzero() if spelt[int(i)][:1].isspace()]


# ---- regular expressions ---------------------------------------------------------------------------------------------

PATTERNS = [
    r"\d{3}-\d{4}", r"(yes|no|maybe)!?", r"[a-c]+[^a-c ]{2}", r"(?:ab?)*c", r"[一-鿿]{1,3}。?", r"(?i)ok{1,2}",
    r"[a-z\d.]{1,8}@[a-z]{2,5}\.(com|org)", r"x|", r"/\*[^*]{0,4}\*/", "\"[^\"\n]{0,5}\"",
]  # fmt: skip


@every_tokenizer
@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_answers_match_their_pattern(name, pattern):
    first = start(name, Constraint.regex(pattern))
    for seed in range(3):
        draw(name, first.fresh(), seed, lambda text: re.fullmatch(pattern, text) is not None)


letters = st.sampled_from(["a", "b", "c", "d", "中", r"\.", "[a-c]", "[^a]", r"\d"])
patterns = st.recursive(
    letters,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.builds("({}|{})".format, inner, inner)
        | st.builds("({}){}".format, inner, st.sampled_from(["?", "{1,3}", "{2}"]))
    ),
    max_leaves=5,
)


matches = patterns.flatmap(
    lambda pattern: st.tuples(
        st.just(pattern), st.from_regex(pattern, fullmatch=True, alphabet=st.sampled_from("abcdx中.1 é"))
    )
)


@settings(max_examples=40)
@given(name=some_tokenizers, match=matches, seed=st.integers(0, 99))
@example(name="small-sp", match=("([^a]|a)", " "), seed=0)
def test_patterns_mean_what_they_mean_to_python(name, match, seed):
    """Drawn answers match, and each match can be drawn, as the tokenizer itself would cut it."""
    pattern, text = match
    answer = start(name, Constraint.regex(pattern))
    draw(name, answer.fresh(), seed, lambda text: re.fullmatch(pattern, text) is not None)
    ids = spelt_by(name, text)
    if ids is not None:
        walk(name, answer.fresh(), ids)


# ---- JSON among words ------------------------------------------------------------------------------------------------


def call(text: str) -> str:
    return f"<call>\n{text}\n</call>"


AMONG = Constraint.json_schema(object_of(a={"type": "integer"})).among_words("<call>", "</call>")


@every_tokenizer
@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("Hello there.", True),
        (call('{"a":1}'), True),
        ("Let me see.\n" + call('{"a":1}') + call('{"a":22}') + "\nDone.", True),
        ("a < b <ca <calls", True),
        ("a <call> b", False),
        ("a < b <ca", True),
        ("</call> {", True),
        (call('{"a":"x"}'), False),
        ('<call>{"a":1}</call>', False),
        ("No. " + call('{"b":1}'), False),
    ],
)
def test_words_are_free_and_what_stands_between_the_marks_fits(name, text, fits):
    answer, ids = start(name, AMONG), spelt_by(name, text)
    if ids is None:  # some cannot write exactly this
        return
    if fits:
        walk(name, answer, ids)
        return
    taken = 0
    while answer.allowed()[ids[taken]]:
        answer.accept(ids[taken])
        taken += 1
        assert taken < len(ids), "all of it was taken"


def test_an_answer_cannot_end_in_the_middle_of_what_stands_between_the_marks():
    answer = start("nano", AMONG)
    ids = spelt_by("nano", 'I see. <call>\n{"a":1')
    assert ids
    for token in ids:
        answer.accept(token)
    assert not answer.allowed()[list(stops("nano"))].any()


def test_one_at_most_where_one_is_allowed():
    once = Constraint.json_schema(object_of(a={"type": "integer"})).among_words("<call>", "</call>", once=True)
    ids = spelt_by("nano", "One. " + call('{"a":1}'))
    assert ids
    walk("nano", start("nano", AMONG), ids)
    answer = start("nano", once)
    walk("nano", answer, ids)
    assert not answer.allowed()[: min(stops("nano"))].any(), "nothing follows"
    walk("nano", start("nano", once), spelt_by("nano", "None at all.") or [])


# ---- choices ---------------------------------------------------------------------------------------------------------

OPTIONS = ["yes", "yes, of course", "no", "是的", "不是", "a !", "(?:x)|.*", "é\n\t\\", "<|im_end|>", "🙂"]


@every_tokenizer
def test_every_choice_can_be_taken_and_nothing_else(name):
    options = [option for option in OPTIONS if spelt_by(name, option) is not None]
    assert len(options) >= 6
    answer = start(name, Constraint.choice(options))
    for option in options:
        ids = spelt_by(name, option)
        assert ids
        walk(name, answer.fresh(), ids)
    drawn = {draw(name, answer.fresh(), seed, lambda text: text in options) for seed in range(12)}
    assert len(drawn) >= 3


@pytest.mark.parametrize("name", ["nano", "qwen2-bbpe"])
def test_a_character_may_be_cut_across_tokens(name):
    single = {spelt: i for i, spelt in enumerate(grammars(name)._spelt) if len(spelt) == 1}
    answer, ids = start(name, Constraint.choice(["中文🙂", "中国"])), []
    for byte in "中文🙂".encode():
        ids.append(single[bytes([byte])])
        assert answer.allowed()[ids[-1]]
        answer.accept(ids[-1])
    assert answer.finished
    assert said(name, ids) == "中文🙂"


@pytest.mark.parametrize("name", ["small-sp", "small-converted"])
def test_the_first_space_of_sentencepiece_is_no_part_of_the_answer(name):
    t = tokenizer(name)
    led, bare, a = (i for piece in ("▁a", "▁", "a") if (i := t.id_of(piece)) is not None)
    for asked in (Constraint.regex("aa?"), Constraint.choice(["a", "aa"])):
        for ids in ([led, a], [bare, a, a], [a, a], [led], [bare, a], [a]):
            walk(name, start(name, asked), ids)
            assert t.decode(ids) == said(name, ids) == "a" * (len(ids) - (bare in ids))
        answer = start(name, asked)
        answer.accept(led)
        assert not answer.allowed()[[led, bare]].any(), "later, a space is a space"
    spaced = start(name, Constraint.regex(" a"))
    spaced.accept(bare)
    with pytest.raises(UsageError, match="cannot go on"):  # the decoder would take the second space away too
        spaced.allowed()


# ---- one answer ------------------------------------------------------------------------------------------------------


def test_answers_are_independent_and_their_grammar_is_compiled_once():
    ours = Grammars(tokenizer("nano"))
    asked = Constraint.choice(["yes", "no"])
    answer = ours.start(asked, stops("nano"))
    before = answer.allowed()
    answer.accept(tokenizer("nano").encode("no")[0])
    twin, other = answer.copy(), answer.fresh()
    assert torch.equal(twin.allowed(), answer.allowed())
    assert torch.equal(other.allowed(), before)
    assert torch.equal(ours.start(Constraint.choice(["yes", "no"]), stops("nano")).allowed(), before)
    assert [*ours._compiled] == [asked]
    before[:] = True
    assert not torch.equal(other.allowed(), before), "the tensor is the caller's own"


def test_an_answer_that_uses_a_grammar_up_does_not_end_another(monkeypatch):
    """What a grammar has built is shared and bounded; here each answer alone takes a third of the bound or more."""
    import llguidance

    ours = Grammars(tokenizer("nano"))
    monkeypatch.setattr(ours, "_limits", llguidance.LLParserLimits(verbose_errors=False, max_lexer_states=600))
    first = ours.start(Constraint.regex("(a|b)*a(a|b){12}c"), ())
    letters = [ours._spelt.index(b"a"), ours._spelt.index(b"b")]
    answers, random = [first, *(first.fresh() for _ in range(5)), first.copy()], torch.Generator().manual_seed(0)
    built = len(ours._compiled)
    for _ in range(60):
        for answer in answers:
            answer.accept(letters[int(torch.randint(2, (), generator=random))])
            assert answer.allowed()[letters].all()
    assert built == 1
    assert any(answer._alone for answer in answers), "the bound was not met: this tests nothing"
    with pytest.raises(UsageError, match="it costs more than a grammar may; simplify"):
        any(first.accept(letters[int(torch.randint(2, (), generator=random))]) for _ in range(5000))


def test_a_draft_keeps_the_form_that_its_answer_must_have():
    """The loop of the engine: random logits, drawn with a temperature, top-k and a penalty."""
    schema = SCHEMAS["chinese"]
    for seed in range(5):
        config = SamplingConfig(max_new_tokens=200, temperature=1.5, top_k=9, repetition_penalty=1.1, seed=seed)
        answer = start("nano", Constraint.json_schema(schema))
        draft, random, finish = (
            Draft(config, stops("nano"), constraint=answer),
            torch.Generator().manual_seed(seed),
            None,
        )
        while finish is None:
            logits = torch.randn(grammars("nano").vocab_size, generator=random)
            finish = draft.add(draft.choose(logits, int(logits.argmax())))
        assert finish == "stop"
        assert fits(json.loads(said("nano", [i for i in draft.ids if i not in stops("nano")])), schema)


def test_only_the_latest_grammars_are_kept(monkeypatch):
    monkeypatch.setattr(constrain, "KEPT_GRAMMARS", 2)
    ours = Grammars(tokenizer("nano"))
    for pattern in ("a", "b", "a", "c"):
        ours.start(Constraint.regex(pattern), ())
    assert [each.source for each in ours._compiled] == ["a", "c"]


def test_what_is_not_allowed_is_not_accepted_and_changes_nothing():
    answer = start("nano", Constraint.choice(["yes", "no"]))
    before = answer.allowed()
    for token in (*stops("nano"), int((~before).nonzero()[50]), grammars("nano").vocab_size - 1, 10**6, -1):
        with pytest.raises(UsageError, match=f"token {token} "):
            answer.accept(token)
        assert torch.equal(answer.allowed(), before)
    for token in tokenizer("nano").encode("yes"):
        answer.accept(token)
    assert answer.allowed().nonzero()[:, 0].tolist() == [*stops("nano")]
    answer.accept(stops("nano")[0])
    assert answer.finished
    assert not answer.allowed().any()
    with pytest.raises(UsageError, match="does not continue"):
        answer.accept(int(before.nonzero()[0]))


def test_a_model_with_fewer_rows_than_the_tokenizer_has_tokens():
    small = Grammars(tokenizer("nano"), 1000)
    assert small.start(Constraint.json_object(), (7,)).allowed().shape == (1000,)


def test_a_text_that_no_token_spells_is_refused(monkeypatch):
    whole = constrain._spelling
    monkeypatch.setattr(constrain, "_spelling", lambda *of: [b"" if b"a" in spelt else spelt for spelt in whole(*of)])
    without = Grammars(tokenizer("nano"))
    with pytest.raises(UsageError, match="no token of this model's vocabulary"):
        without.start(Constraint.choice(["a"]), ())
    answer = without.start(Constraint.choice(["ba", "c"]), ())
    answer.accept(without._spelt.index(b"b"))
    assert not answer.finished
    with pytest.raises(UsageError, match="cannot go on: no token of this model's vocabulary"):
        answer.allowed()


# ---- planted faults --------------------------------------------------------------------------------------------------


def _stop_always(answer: ConstrainedAnswer, mask: torch.Tensor) -> torch.Tensor:
    mask[list(answer._stop_ids)] = True
    return mask


def _everything_spoken(answer: ConstrainedAnswer, mask: torch.Tensor) -> torch.Tensor:
    return mask | answer._grammars.spoken


FAULTS: dict[str, Callable[[ConstrainedAnswer, torch.Tensor], torch.Tensor]] = {
    "off by one": lambda answer, mask: mask.roll(1),
    "stop always": _stop_always,
    "stop never": lambda answer, mask: mask & answer._grammars.spoken,
    "no grammar": _everything_spoken,
    "special tokens": lambda answer, mask: mask | ~answer._grammars.spoken,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_mask_is_caught(fault, monkeypatch):
    right = ConstrainedAnswer.allowed
    monkeypatch.setattr(ConstrainedAnswer, "allowed", lambda self: FAULTS[fault](self, right(self)))
    asked = {Constraint.json_object(): is_json, Constraint.regex("a+b?"): re.compile("a+b?").fullmatch}
    for constraint_, complete in asked.items():
        with pytest.raises((AssertionError, UsageError)):
            draw("nano", start("nano", constraint_), 0, lambda text, complete=complete: bool(complete(text)))


def test_the_checker_of_schemas_can_say_no():
    wrong = {"flat": '{"name": "", "age": 151}', "nested": '{"boxes": []}', "chinese": '{"颜色": "红", "说明": "x"}',
             "choices": '{"v": true}', "pattern": '{"plate": "A-1"}', "optional": '{"a": true}',
             "recursive": '{"leaf": true, "twigs": [{}]}'}  # fmt: skip
    assert not [which for which, text in wrong.items() if fits(json.loads(text), SCHEMAS[which])]


# ---- what is refused -------------------------------------------------------------------------------------------------


def deep(levels: int) -> dict:
    schema: dict = {"type": "integer"}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


REFUSED = {
    "large schema": (lambda: Constraint.json_schema({"title": "x" * 70_000}), r"has 70,\d+ bytes; at most 65,536"),
    "many values": (lambda: Constraint.json_schema({"enum": [[]] * 70_000}), "at most 65,536"),
    "deep schema": (lambda: Constraint.json_schema(deep(65)), "has 65 levels of nesting; at most 64"),
    "very deep schema": (lambda: Constraint.json_schema(deep(30_000)), "levels of nesting; at most 64"),
    "no schema": (lambda: Constraint.json_schema(["object"]), r"is \['object'\]; a JSON object was expected"),
    "no JSON": (lambda: Constraint.json_schema({"const": {1, 2}}), "not JSON: Object of type set"),
    "no number": (lambda: Constraint.json_schema({"const": float("nan")}), "not JSON: Out of range"),
    "remote": (lambda: Constraint.json_schema({"$ref": "https://example.com/a.json"}), "https://example.com/a.json"),
    "file": (lambda: Constraint.json_schema({"properties": {"enum": {"$ref": "file:///etc"}}}), "only references"),
    "relative": (lambda: Constraint.json_schema({"$id": "http://a/", "allOf": [{"$ref": "b"}]}), "refers to 'b'"),
    "options": (lambda: Constraint.json_schema({"x-guidance": {"lenient": True}}), "x-guidance"),
    "long pattern": (lambda: Constraint.regex("a" * 4097), "4,097 characters; at most 4,096"),
    "half character": (lambda: Constraint.regex("\ud800"), "surrogate"),
    "no choice": (lambda: Constraint.choice([]), r"are \[\]; expected"),
    "empty choice": (lambda: Constraint.choice(["a", ""]), "none of them empty"),
    "choices of numbers": (lambda: Constraint.choice([1]), r"are \[1\]; expected"),
    "a text for a list": (lambda: Constraint.choice("yes"), "expected a list of texts"),
    "many choices": (lambda: Constraint.choice(["a"] * 1025), "1,025 choices; at most 1,024"),
    "long choice": (lambda: Constraint.choice(["a" * 4097]), "'aaa.*' has 4,097 characters; at most 4,096"),
    "long choices": (lambda: Constraint.choice(["é" * 4000] * 9), "72,000 bytes; at most 65,536"),
}  # fmt: skip


def one_line(error: pytest.ExceptionInfo[InternVLError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    assert not re.search(r"Traceback|panic|\.rs|\.py|0x|/work|/root|<unknown>|non-verbose", text), text
    return text


@pytest.mark.parametrize("case", REFUSED)
def test_what_passes_a_limit_is_refused_before_it_is_compiled(case):
    make, words = REFUSED[case]
    with pytest.raises(UsageError, match=words) as error:
        make()
    one_line(error)


INVALID = {
    "unclosed group": (Constraint.regex("("), "this regular expression cannot be used: unclosed group"),
    "look-around": (Constraint.regex("a(?=b)"), "look-around, including look-ahead"),
    "group reference": (Constraint.regex(r"(a)\1"), "backreferences are not supported"),
    "escape from the grammar": (Constraint.regex("a)|(b"), "unopened group"),
    "unknown type": (Constraint.json_schema({"type": "strin"}), "this JSON schema cannot be used: Invalid type: strin"),
    "unhonoured": (Constraint.json_schema({"not": {"type": "null"}}), 'Unimplemented keys: ."not"'),
    "no definition": (Constraint.json_schema({"$ref": "#/$defs/a"}), "does not exist"),
    "itself": (Constraint.json_schema({"$ref": "#"}), "cannot be used: no token"),
    "contradiction": (Constraint.json_schema({"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
    "pattern in a schema": (Constraint.json_schema({"type": "string", "pattern": "["}), "unclosed character class"),
    "a product of choices": (
        Constraint.json_schema({"allOf": [{"anyOf": [object_of(**{i + j: {}}) for j in "abcd"]} for i in "abcdefgh"]}),
        "it costs more than a grammar may",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_what_the_library_refuses_is_said_in_one_line(case):
    asked, words = INVALID[case]
    with pytest.raises(UsageError, match=words) as error:
        start("nano", asked)
    assert one_line(error).endswith("; change it")


def test_data_that_looks_like_a_reference_is_data():
    schema = {"enum": [{"$ref": "http://example.com"}]}
    assert json.loads(draw("nano", start("nano", Constraint.json_schema(schema)), 0, is_json)) == schema["enum"][0]
    start("nano", Constraint.json_schema({"properties": {"$ref": {"type": "string"}, "default": {"type": "null"}}}))


HARD = [
    Constraint.regex("(a|b)*a(a|b){200}"),
    Constraint.regex("(a{1,1000}){1,1000}"),
    Constraint.regex(r"(\w{1,200}|.{1,200}){1,50}x"),
    Constraint.json_schema({"enum": [f"v{i}" for i in range(4000)]}),
    Constraint.json_schema({"type": "array", "minItems": 10**9, "items": {"type": "string", "maxLength": 10**9}}),
    Constraint.json_schema({"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(2000)}}),
    Constraint.choice([f"{i:02}" * 20 for i in range(1000)]),
]


@pytest.mark.parametrize("number", range(len(HARD)))
def test_a_costly_grammar_is_answered_or_refused(number):
    """Either way at once: the limits count work, and this would take minutes without them."""
    random, refused = torch.Generator().manual_seed(0), ""
    try:
        answer = start("nano", HARD[number])
        for _ in range(40):
            if answer.finished:
                break
            noise = torch.rand(grammars("nano").vocab_size, generator=random)
            answer.accept(int((noise * answer.allowed()).argmax()))
    except UsageError as error:
        refused = str(error)
    assert not refused or "costs more than a grammar may" in refused


def test_without_the_library_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match=r"pip install 'internvl\[serve\]'"):
        Grammars(tokenizer("nano"))
