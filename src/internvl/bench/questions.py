"""What a load tool asks: texts and pictures drawn by chance, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl.errors import MediaError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work number night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head house service friend father "
    "power hour game line end member law car city name team minute idea body back face door red green long new old"
)
"""Short words that most tokenizers know whole, so that a word is about a token."""
CLOSING = "Tell a long story with these words."
MOST_PICTURES = 256
"""Different ones, kept in memory as they are sent."""
MOST_WORDS = 200_000
SIDES = (16, 4096)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What to ask.

    >>> Wish(requests=10, image_mix=0.5).pictured
    5
    """

    requests: int
    prompt: str | None = None
    """The same text in every question; None: other words in each."""
    input_tokens: int = 128
    """About so many words, where there is no prompt."""
    image_mix: float = 0.0
    """The share of questions that have a picture."""
    images: Path | None = None
    """A folder of pictures; None: they are drawn."""
    image_size: int = 448
    """Pixels of a side of a drawn picture."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.image_mix <= 1:
            raise UsageError(f"image mix {self.image_mix:g}: expected the share of questions with a picture, 0 to 1")
        if not 1 <= self.input_tokens <= MOST_WORDS:
            raise UsageError(f"{self.input_tokens} input tokens: expected 1 to {MOST_WORDS:,}")
        if not SIDES[0] <= self.image_size <= SIDES[1]:
            raise UsageError(f"image size {self.image_size}: expected {SIDES[0]} to {SIDES[1]:,} pixels")
        if self.images is not None and not self.pictured:
            raise UsageError("--images without --image-mix; say which share of the questions has a picture, 0 to 1")

    @property
    def pictured(self) -> int:
        """How many questions have a picture."""
        return round(self.image_mix * self.requests)


class Questions:
    """Every question of a run, written when it is asked; pictures are read or drawn here, before anything is timed."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        chance = random.Random(f"pictures {wish.seed}")
        self._picture_of = {
            number: place for place, number in enumerate(chance.sample(range(wish.requests), wish.pictured))
        }
        self._addresses = _addresses(wish, chance) if wish.pictured else []

    @property
    def with_picture(self) -> list[bool]:
        """For each question whether it has one."""
        return [number in self._picture_of for number in range(self._wish.requests)]

    @property
    def pictures(self) -> int:
        """Different ones."""
        return len(self._addresses)

    def notes(self) -> list[str]:
        """What must be known of figures that come of these questions."""
        told: list[str] = []
        if self._wish.prompt is not None and self._wish.requests > 1:
            told.append("every question has the same text: a server that keeps what it has read answers sooner")
        if self.pictures < self._wish.pictured:
            told.append(f"{self._wish.pictured} questions share {self.pictures} pictures: a server may keep them, too")
        return told

    def messages(self, number: int) -> list[dict[str, Any]]:
        """Question `number` as it goes over the wire; -1 is a question that is not among them."""
        text = self._wish.prompt or words(self._wish.input_tokens, f"{self._wish.seed} {number}")
        place = self._picture_of.get(number)
        if place is None:
            return [{"role": "user", "content": text}]
        address = self._addresses[place % len(self._addresses)]
        picture = {"type": "image_url", "image_url": {"url": address}}
        return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


def words(count: int, seed: str) -> str:
    """About so many tokens; the first words differ from question to question, so that no kept prefix fits.

    >>> len(words(40, "0 7").split())
    40
    """
    closing = CLOSING.split()
    drawn = random.Random(f"words {seed}").choices(WORDS.split(), k=max(1, count - len(closing)))
    return " ".join([*drawn, *closing][:count])


def _addresses(wish: Wish, chance: random.Random) -> list[str]:
    from internvl.data.media import open_image
    from internvl.inference.contents import address_of

    if wish.images is None:
        return [address_of(drawn(chance, wish.image_size)) for _ in range(min(wish.pictured, MOST_PICTURES))]
    addresses: list[str] = []
    for file in _files(wish, chance):
        try:
            content = file.read_bytes()
            addresses.append(address_of(open_image(content), content))
        except (MediaError, OSError) as error:
            raise UsageError(f"{file}: {error}; take it out of {wish.images}") from None
    return addresses


def _files(wish: Wish, chance: random.Random) -> Sequence[Path]:
    from internvl.cli.search import pictures_of

    assert wish.images is not None
    if not wish.images.is_dir():
        raise UsageError(f"{wish.images} is not a folder; --images wants a folder of pictures")
    found = pictures_of(str(wish.images))
    if not found:
        raise UsageError(f"there is no picture in {wish.images}")
    return [Path(name) for name in chance.sample(found, min(len(found), wish.pictured, MOST_PICTURES))]


def drawn(chance: random.Random, side: int) -> Photo:
    """A picture of coloured shapes that no other is equal to."""
    from PIL import Image, ImageDraw

    def colour() -> tuple[int, int, int]:
        return chance.randrange(256), chance.randrange(256), chance.randrange(256)

    photo = Image.new("RGB", (side, side), colour())
    pen = ImageDraw.Draw(photo)
    for _ in range(24):
        left, top = chance.randrange(side), chance.randrange(side)
        box = (left, top, left + chance.randrange(2, side), top + chance.randrange(2, side))
        (pen.ellipse if chance.random() < 0.5 else pen.rectangle)(box, fill=colour())
    return photo
