"""nano's vocabulary: learnt merges, what is a token and what is not, and the files in which others read them."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, normalizers, pre_tokenizers

from internvl.data.tokenizer import Tokenizer
from internvl.nano import vocab

TEXTS = [
    *vocab.WORDS.split()[:60],
    "the cat sat on the mat",
    "the total is 12.50",
    "TOTAL 12.50",
    "有几个圆？",
    "有几个红色的圆？",
    "thé",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A vocabulary, and a larger one that begins with its merges."""
    old, new = (tmp_path_factory.mktemp("vocab") / name for name in ("old", "new"))
    vocab.build(TEXTS[:30], old, size=290)
    vocab.build(TEXTS, new, size=360, first=vocab.read_merges(old), characters="圆红，")
    return old, new


def theirs(folder) -> tokenizers.Tokenizer:
    """The same files, read by the library that other engines use."""
    other = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    )
    other.normalizer = normalizers.NFC()
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(vocab.PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    other.decoder = decoders.ByteLevel()
    return other


def test_the_first_merge_is_the_commonest_pair():
    assert vocab.learn(Counter({"aab": 16, "bc": 1}), [], 9) == [("a", "a"), ("aa", "b"), ("b", "c")]
    assert vocab.learn(Counter({"xy": 1, "ab": 1}), [], 1) == [("a", "b")]
    # A word that occurs nine times weighs as three do: less than two that occur once and one that occurs twice.
    assert vocab.learn(Counter({"ab": 9, "cd": 1, "cde": 1, "fcd": 2}), [], 1) == [("c", "d")]


def test_learning_is_counting_again_after_each_merge():
    """The plain way, on random words: count all pairs, merge the commonest, begin again."""
    rng = random.Random(0)
    counts = Counter("".join(rng.choices("abcd", k=rng.randint(1, 9))) for _ in range(60))
    for word in list(counts):
        counts[word] *= rng.randint(1, 30)
    pieces = {word: list(word) for word in counts}
    weights = {word: math.isqrt(10_000 * count) for word, count in counts.items()}
    wanted, known = [], set("abcd")
    for _ in range(40):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, tokens in pieces.items():
            for pair in pairwise(tokens):
                pairs[pair] += weights[word]
        free = [(-n, pair) for pair, n in pairs.items() if "".join(pair) not in known and len("".join(pair)) <= 14]
        if not free:
            break
        best = min(free)[1]
        wanted.append(best)
        known.add("".join(best))
        pieces = {word: _merged(tokens, best) for word, tokens in pieces.items()}
    assert vocab.learn(counts, [], 40) == wanted


def _merged(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    marked = "\0".join(["", *tokens, ""])
    one, two = f"\0{pair[0]}\0{pair[1]}\0", f"\0{''.join(pair)}\1\0"
    while one in marked:
        marked = marked.replace(one, two, 1)
    return [token.removesuffix("\1") for token in marked.split("\0") if token]


def test_the_order_of_texts_does_not_matter(tmp_path):
    for name, texts in (("a", TEXTS), ("b", TEXTS[::-1])):
        vocab.build(texts, tmp_path / name, size=330)
    for file in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_ids_are_bytes_merges_and_special_tokens(folders):
    for folder, size in zip(folders, (290, 360), strict=True):
        ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
        assert sorted([*ids.values(), *added.values()]) == list(range(len(ids) + len(added)))
        assert len(ids) + len(added) <= size
        assert list(added) == list(vocab.SPECIALS)
        assert len(ids) == 256 + len(vocab.read_merges(folder))
    assert len(ids) + len(added) == 360, "there was enough to learn"


def test_characters_are_single_tokens_wherever_they_stand(folders):
    tokenizer = Tokenizer.from_folder(folders[1])
    for character in "圆红，":
        alone = tokenizer.encode(character)
        assert len(alone) == 1
        assert alone[0] in tokenizer.encode(f"猫{character}猫")
    assert len(tokenizer.encode("猫")) == 3, "one that nobody asked for is three bytes"


def test_digits_stand_alone(folders):
    tokenizer = Tokenizer.from_folder(folders[1])
    assert len(tokenizer.encode("125012501250")) == 12


def test_special_tokens_are_no_text():
    assert vocab.count_pieces(["<ref>a cat</ref><box>[[1]]</box>"]) == Counter(["a", "Ġcat", "[[", "1", "]]"])


def test_learnt_tokens_are_whole_characters():
    counts = vocab.count_pieces(["日月火日月火" * 4, "日木"])
    merges = vocab.learn(counts, vocab.with_characters([], "日月"), 50)
    assert merges
    for left, right in merges:
        text = vocab.as_bytes(left + right)
        assert text.decode()
        assert len(text) <= vocab.LONGEST


def test_letters_are_bytes():
    for text in ("né", "日", "\n\t\x7f ", "".join(map(chr, range(1, 300)))):
        assert vocab.as_bytes(vocab.letters(text)) == text.encode()
    assert {vocab.as_bytes(letter) for letter in vocab.ALPHABET} == {bytes([i]) for i in range(256)}


SOME = st.text(alphabet="the cat sOTAL 12.5有几个圆红，é\n猫", max_size=30)


@given(SOME)
def test_any_text_is_encoded_as_other_engines_do(folders, text):
    for folder in folders:
        ids = Tokenizer.from_folder(folder).encode(text)
        assert ids == theirs(folder).encode(text, add_special_tokens=False).ids


@given(SOME)
def test_new_tokens_are_rows_of_old_ones(folders, text):
    """Merges that were given come first, so that what is learnt later joins tokens, and never cuts them elsewhere."""
    old, new = folders
    ranks = {pair: i for i, pair in enumerate(vocab.read_merges(old))}
    names = theirs(new).encode(text, add_special_tokens=False).tokens
    in_parts = [part for token in names for part in vocab.apply(ranks, token)]
    assert in_parts == theirs(old).encode(text, add_special_tokens=False).tokens


def test_what_the_pictures_say_leaves_held_out_shops_out(shared):
    from internvl.nano.corpus import rows, share

    data = shared / "data"
    texts = set(vocab.written(data))
    words: dict[bool, set[str]] = {True: set(), False: set()}
    for row in rows(data / "sroie" / "train.jsonl"):
        printed = [line["text"] for line in row["lines"]] + list(row["key"].values())
        words[share(row["group"], 7)].update(word for text in printed for word in text.split(" ") if len(word) > 3)
    assert len(words[True] - words[False]) > 500, "the held-out shops have words of their own"
    assert not {text for text in texts if text.strip() in words[True] - words[False]}
    assert len(words[False] & {text.strip() for text in texts}) == len(words[False])
    assert {"accordion", "a accordion"} <= texts
    assert any("tower" in text for text in texts)


def test_characters_are_listed_by_how_common_they_are():
    assert vocab.characters_of(["圆红圆", "a红圆，"]) == "圆红"
    assert len(set(vocab.COMMON)) == len(vocab.characters_of([vocab.COMMON]))
    assert Counter(vocab.common())[" which"] > 1
