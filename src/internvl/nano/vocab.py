"""nano's vocabulary: a small byte-level BPE with the pre-tokeniser and the special tokens of Qwen2.

build(texts, folder)      # writes vocab.json, merges.txt and the files that go with them

Merges come in three parts. First those that are given: of an older vocabulary, say. All of them apply before any later
one, so every new token is a row of tokens of the old vocabulary, which is what `internvl.nano.grow` builds on. Then
what makes one token of each Chinese character. Then what is learnt from the texts: the pair that stands together most
often becomes one token, again and again.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from internvl.nano.world import World

SIZE = 4096
LONGEST = 14
"""Bytes of the longest token that is learnt: four Chinese characters, one long English word."""

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2 cuts a text before merging; digits stand alone."""

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PICTURE = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
SPECIALS = CONTROL + PICTURE


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
"""One letter for each byte, as BPE files write them."""
Merge = tuple[str, str]


def build(
    texts: Iterable[str], folder: Path, *, size: int = SIZE, first: Sequence[Merge] = (), characters: str = ""
) -> None:
    """Write the tokenizer files of the published layout; `size` includes the special tokens.

    `first` are the merges to begin with, `characters` those to make tokens of. The same texts in any order give the
    same files.
    """
    counts = count_pieces(texts)
    room = size - len(SPECIALS) - len(ALPHABET)
    merges = with_characters(list(dict.fromkeys(first)), characters)[:room]
    merges += learn(counts, merges, room - len(merges))
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [*ALPHABET, *(left + right for left, right in merges)]
    ids = {text: len(tokens) + i for i, text in enumerate(SPECIALS)}
    _write(folder / "vocab.json", {token: i for i, token in enumerate(tokens)}, indent=None)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write(folder / "added_tokens.json", ids)
    _write(folder / "special_tokens_map.json", special_tokens_map())
    _write(folder / "tokenizer_config.json", tokenizer_config(ids))


def read_merges(folder: Path) -> list[Merge]:
    """The merges of a tokenizer, in their order.

    >>> read_merges(Path(internvl.__path__[0]) / "nano" / "checkpoint")[0]  # doctest: +SKIP
    ('Ġ', 'i')
    """
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ") for line in lines if line and not line.startswith("#version"))
    return [(left, right) for left, right in pairs]


# --- learning ---------------------------------------------------------------------------------------------------------


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs that no merge crosses, in the letters of bytes; special tokens are no text."""
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    normal = normalizers.NFC()
    counts: Counter[str] = Counter()
    special = re.compile("|".join(map(re.escape, SPECIALS)))
    for text, times in Counter(texts).items():
        for part in special.split(text):
            for piece, _ in cut.pre_tokenize_str(normal.normalize_str(part)):
                counts[piece] += times
    return counts


def letters(text: str) -> str:
    """A text in the letters of its bytes.

    >>> letters(" né")
    'ĠnÃ©'
    """
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(piece for piece, _ in pieces)


def apply(merges: dict[Merge, int], piece: str) -> list[str]:
    """The tokens of one piece: of all pairs, the earliest merge first."""
    tokens = list(piece)
    while len(tokens) > 1:
        best = min(pairwise(tokens), key=lambda pair: merges.get(pair, len(merges)))
        if best not in merges:
            break
        tokens = _joined(tokens, best)
    return tokens


def _joined(tokens: Sequence[str], pair: Merge) -> list[str]:
    """With each occurrence of the pair as one token, from the left."""
    new, i = list[str](), 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            new.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            new.append(tokens[i])
            i += 1
    return new


def with_characters(merges: list[Merge], characters: str) -> list[Merge]:
    """The merges, and those that make one token of each character, byte by byte."""
    ranks = {pair: i for i, pair in enumerate(merges)}
    for character in dict.fromkeys(characters):
        tokens = apply(ranks, letters(character))
        while len(tokens) > 1:
            ranks[(tokens[0], tokens[1])] = len(ranks)
            tokens = [tokens[0] + tokens[1], *tokens[2:]]
    return list(ranks)


def learn(counts: Counter[str], before: Sequence[Merge], room: int) -> list[Merge]:
    """So many further merges, the commonest pair first; of equally common ones the first by name.

    A piece counts by the root of how often it occurs, so that questions asked a thousand times leave room for names.
    A token is of whole characters, so that none is half a Chinese one and half the next.
    """
    ranks = {pair: i for i, pair in enumerate(before)}
    known = {*ALPHABET, *(left + right for left, right in before)}
    pieces = [apply(ranks, piece) for piece in sorted(counts)]
    weights = [math.isqrt(10_000 * counts[piece]) for piece in sorted(counts)]
    weight: defaultdict[Merge, int] = defaultdict(int)
    places: defaultdict[Merge, set[int]] = defaultdict(set)
    for i, tokens in enumerate(pieces):
        for pair in pairwise(tokens):
            weight[pair] += weights[i]
            places[pair].add(i)
    heap = [(-total, pair) for pair, total in weight.items() if _allowed(pair)]
    heapq.heapify(heap)
    merges: list[Merge] = []
    while heap and len(merges) < room:
        total, pair = heapq.heappop(heap)
        if -total != weight[pair] or pair in ranks or pair[0] + pair[1] in known:
            continue
        merges.append(pair)
        known.add(pair[0] + pair[1])
        changed: set[Merge] = set()
        for i in places.pop(pair):
            old, pieces[i] = pieces[i], _joined(pieces[i], pair)
            for sign, tokens in ((-1, old), (1, pieces[i])):
                for other in pairwise(tokens):
                    weight[other] += sign * weights[i]
                    changed.add(other)
                    if sign > 0:
                        places[other].add(i)
        for other in changed:
            if weight[other] > 0 and _allowed(other):
                heapq.heappush(heap, (-weight[other], other))
    return merges


def _byte_of_letter() -> dict[str, int]:
    """Latin-1 where that is visible; the other bytes are written from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_of_letter()


def as_bytes(token: str) -> bytes:
    """What a token stands for.

    >>> as_bytes("ĠnÃ©").decode()
    ' né'
    """
    return bytes(_BYTES[letter] for letter in token)


def _allowed(pair: Merge) -> bool:
    """Whether two tokens may become one: not too long, and of whole characters."""
    text = pair[0] + pair[1]
    try:
        return len(text) <= LONGEST and bool(as_bytes(text).decode())
    except UnicodeDecodeError:
        return False


# --- texts ------------------------------------------------------------------------------------------------------------

COMMON = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还"
    "发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工"
    "己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山"
    "五太水万市眼体别处总才场师书比住员九笑性通目报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今"
    "京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队"
    "跟带花快条院变联权往展该领传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空众技轻程告江语英基派满式写呢识极令黄收脸钱"
    "持取设始版双历史商千片容像找友站广形早房音火际则首单据导影拿网香似斯石校读志飞观组包造落喜离宝左右圆角星绿蓝橙紫粉灰黑棕线图框盒票"
    "店址额税编号菜米茶饭鱼鸟狗猫虎牛羊猪树叶草雨雪云晴冰球船桥灯钟表针刀碗杯瓶纸玻璃塑料属垃圾桶旗帜都缺格列交叉触碰重叠嵌套地铁径颜数独"
    "填空柱状饼折最低于减乘除等号零点刻秒视频移动停答案简短句词语描述照片物体哪谁吗吧呀谢您再欢迎帮助"
)
"""Chinese characters that are common, or that such questions need."""
WORDS = """
    a about above across after again against all almost along already also although always am among an and another any
    anything are area around as ask at away back bad be because become been before began begin behind being below
    beneath best better between big body book both bottom bright building but by call called came can car care case
    centre certain change child city clear close closed cold colour come common company complete contain corner could
    count country cut dark date day did different do does done door down draw drawn each early earth easy eat edge eight
    either else end enough even every everything example eye face fact fall false far feel few field find first five
    food for form four from front full get girl give given go good great ground group had half hand happy hard has have
    he head hear heard help her here high him his hold home hot hour house how however hundred idea if image in inside
    into is it its just keep kind know known land language large last later learn least leave left less let letter life
    light like line list little live long look low made main make man many may me mean men middle might minute money
    month more morning most move much must my name near need never new next night nine no not nothing now number object
    of off often old on once one only open or order other our out outside over own page paper part people percent
    person photo picture place plane plant play point possible price put question quite rain read right river road room
    round same saw say school sea second see seem seen set seven several shape she short should show shown side sign
    since six size sky small so some something soon sound south space stand start still stop story street such sum sun
    sure table take tell ten text than thank that the their them then there these they thing think third this those
    though thousand three through time to today together told too took top total town tree true try turn two under
    until up upon us use used very wait walk wall want warm was watch water way we week well went were what when where
    whether which while white who whole whose why wide will wind window with within without woman word work world
    would write wrong year yes yet you young your zero
    """
"""English words that are common."""
SIGNS = "，。？！：；、（）《》“”‘’…·—–°×÷²€£¥éèüöñçãáíóô"


def written(data: Path) -> Iterator[str]:
    """What the real pictures of `shared/data` say or are called, those of held-out shops left out."""
    from internvl.nano.corpus import rows, share

    words: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows(data / "sroie" / "train.jsonl"):
        if not share(row["group"], 7):
            for text in (*(line["text"] for line in row["lines"]), *row["key"].values()):
                words[row["group"]].update(re.findall(r" ?[^ ]+", text))
    for shop in sorted(words):  # what one shop prints on each of its receipts helps with no other shop
        yield from sorted(words[shop])
    for row in rows(data / "emoji" / "train.jsonl"):
        yield from (row["name"], f"a {row['name']}", ", ".join(row["tags"]), row["group"])
    for row in rows(data / "flags" / "train.jsonl"):
        facts = (*row["capital"], row["region"], row["subregion"], *row["languages"], *row["currencies"])
        yield from (row["country_zh"], row["country"], f"the flag of {row['country']}", *facts)
    for row in rows(data / "caltech101" / "train.jsonl"):
        yield from (row["name"], f"a {row['name']}")
    for row in rows(data / "nlvr" / "train.jsonl"):
        yield row["sentence"]


def said(world: World, draws: int) -> Iterator[str]:
    """Questions, answers and captions of so many samples of each skill, as training draws them."""
    for skill in world.skills:
        for number in range(draws):
            sample = world.draw(skill, seed=1, number=number)
            yield from (text.replace("<image>", "") for turn in sample.turns for text in turn)
            yield from (text for text in (sample.caption, sample.wrong) if text)


def common() -> Iterator[str]:
    """Common words, inside of a sentence and at its beginning."""
    for word in WORDS.split():
        yield from [f" {word}"] * 20
        yield word.capitalize()


def characters_of(texts: Iterable[str]) -> str:
    """The Chinese characters in texts, the commonest first."""
    counts = Counter(letter for text in texts for letter in text if "\u4e00" <= letter <= "\u9fff")
    return "".join(sorted(counts, key=lambda letter: (-counts[letter], letter)))


# --- files ------------------------------------------------------------------------------------------------------------


def special_tokens_map() -> dict[str, Any]:
    return {
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", *PICTURE],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }


def tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": text, **plain} for text, i in ids.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", *PICTURE],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _write(path: Path, value: dict[str, Any], *, indent: int | None = 2) -> None:
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
