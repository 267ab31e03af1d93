"""Real pictures as samples: photographs, rubbish, flags and icons, named, asked about, and asked about in vain.

drawers(Corpus.read(Path("../shared/data")))["flag"](random.Random(7), Kit())       # a flag of the training split

Every drawer changes its picture (`internvl.nano.augment`), because there are few of them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate

from PIL import Image

from internvl.nano import augment, mosaic, names, real_papers
from internvl.nano.asking import NO, SHORT, YES, YES_OR_NO
from internvl.nano.corpus import Corpus, Item
from internvl.nano.sample import Drawer, Kit, Sample, Turn

WHAT = (
    "What is this?", "What is in the picture?", "What does the picture show?", "What do you see?", "Name this.",
    "What is in this image?", "What is shown here?", "Describe the image.", "Describe this picture.", "what is this",
    "What can you see in the image?", "Please describe the image shortly.", "Name what you see.",
)  # fmt: skip
WHAT_ICON = (
    "What emoji is this?", "Which emoji is this?", "Name this emoji.", "What does this icon show?",
    "What is this emoji called?", "Name the icon.", "What icon is this?", "What does this emoji show?",
)  # fmt: skip
WHAT_PHOTO = (
    "What object is this?", "Name the object.", "What is in the photo?", "What kind of thing is this?",
    "What is the main object in the photo?", "Which object is in the picture?",
)  # fmt: skip
WHAT_FLAG = (
    "Which country's flag is this?", "What flag is this?", "Which flag is this?", "Whose flag is this?",
    "Which country does this flag belong to?", "What country is this flag from?", "Which country is this?",
    "Name the country of this flag.", "Which country or territory has this flag?", "What country's flag is this?",
)  # fmt: skip
MAIN = {"photo": "What is in the picture?", "icon": "What emoji is this?", "flag": "Which country's flag is this?"}
"""As the tasks of evaluation ask."""
ASKED = {"photo": WHAT_PHOTO, "icon": WHAT_ICON, "flag": WHAT_FLAG}
CAPITAL = ("What is the capital of this country?", "What is its capital?", "Which city is the capital?")
REGION = ("Which continent is it in?", "On which continent is this country?", "What continent is this country in?")
BRIEF = ("", "", "", "", f"\n{SHORT}", " Answer briefly.", " Answer with a word or phrase.", " Answer in one word.")
RUBBISH = tuple(names.RUBBISH)
BINS = (f"Which is it: {', '.join(RUBBISH[:-1])} or {RUBBISH[-1]}?",)
WHAT_RUBBISH = (
    *BINS * 5, "Which bin does this go in?", "What is it made of?", "What kind of rubbish is this?",
    "Which bin: cardboard, glass, metal, paper, plastic or trash?", "What material is this?",
)  # fmt: skip
CHINESE = {
    "photo": ("图片里是什么？", "这是什么？", "照片里的物体是什么？"),
    "flag": ("这是哪个国家的国旗？", "这面旗属于哪个国家？", "这是哪国国旗？"),
    "trash": ("这是哪种垃圾？", "这个应该扔进哪个垃圾桶？", "它是什么材料做的？"),
}
THERE = (
    "Is there {} in the image?", "Is there {} in the picture?",
    "Does the picture show {}?", "Can you see {}?", "Is this {}?",
)  # fmt: skip
EXAM = f"Is there {{}} in the image?\n{SHORT}"
"""As the task of evaluation asks."""
POLITE = (f" {YES_OR_NO} {SHORT}", f" {YES_OR_NO}", f"\n{SHORT}", "", "")
SIDES = re.compile(r"left|right|clockwise|o.clock|thirty|button|keycap|arrow|bubble")
CAPTIONS = {
    "photo": ("a photo of a {}", "{}", "a picture of a {}"),
    "flag": ("the flag of {}", "the flag of {}", "flag: {}"),
    "icon": ("{}", "an icon: {}", "an emoji: {}"),
}


class Deck:
    """The items of one skill, drawn so that those of a large class come up less often: by the root of its size."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        sizes = Counter(item.name for item in items)
        self.names = tuple(sorted(sizes))
        self.by_name = {name: [item for item in items if item.name == name] for name in self.names}
        self.weights = list(accumulate(item.weight / sizes[item.name] ** 0.5 for item in items))

    def draw(self, rng: random.Random) -> Item:
        return rng.choices(self.items, cum_weights=self.weights)[0]

    def another(self, rng: random.Random, name: str) -> str:
        """A name that is not this one."""
        while (found := rng.choice(self.names)) == name:
            pass
        return found


def drawers(corpus: Corpus) -> Mapping[str, Drawer]:
    """Every real skill of the world, over the learnt pictures of a corpus."""
    decks = {skill: Deck(corpus.training[skill]) for skill in ("photo", "trash", "flag", "icon")}
    return {
        "photo": partial(draw_photo, decks["photo"]),
        "trash": partial(draw_trash, decks["trash"]),
        "flag": partial(draw_flag, decks["flag"], decks["photo"]),
        "icon": partial(draw_icon, decks["icon"]),
        "absent": partial(draw_absent, decks["photo"], decks["icon"]),
        "mosaic": mosaic.mosaic(corpus),
        "nlvr": real_papers.nlvr(corpus),
        "receipt_lines": real_papers.receipt_lines(corpus),
        "receipt_fields": real_papers.receipt_fields(corpus),
        "sudoku_photo": real_papers.sudoku_photo(corpus),
    }


def draw_photo(deck: Deck, rng: random.Random, kit: Kit) -> Sample:
    """A photograph and its name; often a choice or a yes-or-no question after it."""
    item = deck.draw(rng)
    picture = augment.photo(rng, item.picture)
    if item.name in names.PHOTOS and rng.random() < 0.12:
        turn = rng.choice(CHINESE["photo"]), names.PHOTOS[item.name]
        wrong = names.PHOTOS[rng.choice([n for n in names.PHOTOS if n != item.name])]
        return _sample("photo", picture, [turn], item.name, wrong, rng)
    turns = [naming(rng, "photo", item.name)]
    if rng.random() < 0.5:
        turns.append(choice(rng, item.name, deck))
    return _sample("photo", picture, turns, item.name, deck.another(rng, item.name), rng)


def draw_icon(deck: Deck, rng: random.Random, kit: Kit) -> Sample:
    """An emoji and its name."""
    item = deck.draw(rng)
    mirror = item.facts["group"] != "Symbols" and not SIDES.search(item.name)
    turns = [naming(rng, "icon", item.name)]
    if rng.random() < 0.35:
        turns.append(choice(rng, item.name, deck))
    picture = augment.icon(rng, item.picture, mirror=mirror)
    return _sample("icon", picture, turns, item.name, deck.another(rng, item.name), rng)


def draw_flag(deck: Deck, photos: Deck, rng: random.Random, kit: Kit) -> Sample:
    """A flag: its country, and often the capital and the continent of that."""
    item = deck.draw(rng)
    picture = _flag_picture(rng, item, photos)
    chinese = item.facts.get("country_zh")
    if chinese and rng.random() < 0.13:
        others = [rng.choice(deck.items).facts.get("country_zh") for _ in range(9)]
        wrong = next((name for name in others if name and name != chinese), None)
        return _sample("flag", picture, [(rng.choice(CHINESE["flag"]), chinese)], item.name, wrong, rng)
    turns = [naming(rng, "flag", item.name)]
    capital, region = item.facts.get("capital"), item.facts.get("region")
    if capital and rng.random() < 0.5:
        turns.append((rng.choice(CAPITAL), capital))
    if region and rng.random() < 0.4:
        turns.append((rng.choice(REGION), region))
    if rng.random() < 0.15:
        turns.append((rng.choice(WHAT), f"the flag of {item.name}"))
    return _sample("flag", picture, turns, item.name, deck.another(rng, item.name), rng)


def _flag_picture(rng: random.Random, item: Item, photos: Deck) -> Image.Image:
    if item.facts["style"] != "flat":
        return augment.icon(rng, item.picture, mirror=False, colours=0.15)
    if rng.random() < 0.5:
        return augment.scene_of_flag(rng, item.picture, rng.choice(photos.items).picture)
    return augment.flag(rng, item.picture)


def draw_trash(deck: Deck, rng: random.Random, kit: Kit) -> Sample:
    """A piece of rubbish and the bin that it goes into."""
    name = rng.choice(RUBBISH)
    item = rng.choice(deck.by_name[name])
    wrong = rng.choice([other for other in RUBBISH if other != name])
    turn = rng.choice(WHAT_RUBBISH) + rng.choice((f"\n{SHORT}", "")), name
    if rng.random() < 0.12:
        turn, wrong = (rng.choice(CHINESE["trash"]), names.RUBBISH[name]), names.RUBBISH[wrong]
    picture = augment.trash(rng, item.picture)
    return Sample("trash", (picture,), (turn,), label=f"trash: {name}", caption=f"{name} rubbish", wrong=wrong)


def draw_absent(photos: Deck, icons: Deck, rng: random.Random, kit: Kit) -> Sample:
    """One or two things that are there or, as often, not."""
    deck = photos if rng.random() < 0.75 else icons
    item = deck.draw(rng)
    if deck is photos:
        picture = augment.photo(rng, item.picture)
    else:
        picture = augment.icon(rng, item.picture, mirror=False)
    turns = [there(rng, item.name, deck) for _ in range(rng.choice((1, 1, 2)))]
    return Sample("absent", (picture,), tuple(turns), wrong=NO[0] if turns[0][1] == YES[0] else YES[0])


def naming(rng: random.Random, skill: str, name: str) -> Turn:
    """What it is: as evaluation asks, or in many other words."""
    if rng.random() < 0.35:
        return MAIN[skill], name
    wordings = ASKED[skill] if skill == "flag" or rng.random() < 0.6 else WHAT
    return rng.choice(wordings) + rng.choice(BRIEF), name


def there(rng: random.Random, name: str, deck: Deck) -> Turn:
    """Whether something is there: half of the time it is."""
    present = rng.random() < 0.5
    asked = name if present else deck.another(rng, name)
    article = "an" if asked[0].lower() in "aeiou" else "a"
    wording = EXAM if rng.random() < 0.35 else rng.choice(THERE) + rng.choice(POLITE)
    return wording.format(f"{article} {asked}"), (YES if present else NO)[0]


def choice(rng: random.Random, name: str, deck: Deck) -> Turn:
    """Yes or no, or one of three."""
    if rng.random() < 0.5:
        return there(rng, name, deck)
    options = [name, deck.another(rng, name)]
    options.append(next(other for other in iter(lambda: deck.another(rng, name), "") if other not in options))
    rng.shuffle(options)
    return f"Which is it: {options[0]}, {options[1]} or {options[2]}?", name


def _sample(
    skill: str, picture: Image.Image, turns: list[Turn], name: str, wrong: str | None, rng: random.Random
) -> Sample:
    """`wrong` is of the first question, which therefore stays the first."""
    caption = rng.choice(CAPTIONS[skill]).format(name)
    return Sample(skill, (picture,), tuple(turns), label=f"{skill}: {name}", caption=caption, wrong=wrong)
