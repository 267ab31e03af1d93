"""Which sample comes when: sources, how often each is repeated, and one order that any number of ranks can share."""

from __future__ import annotations

from dataclasses import dataclass

from internvl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Source:
    """One dataset of a mixture: where its rows and media are, and how they are treated."""

    annotation: str
    """JSONL, Parquet or WebDataset shards: a path or any fsspec address; `{000..012}` and `*` name several."""
    name: str = ""
    root: str = ""
    """Before every path of a picture or video."""
    kind: str = "conversation"
    """What a row is, see `internvl.data.records`."""
    repeat: float = 1.0
    """How often each row is seen in an epoch; 0.25 a fixed quarter of them, 2.5 all twice and half a third time."""
    max_tiles: int | None = None
    """Of one sample; None: the config's."""
    augment: bool = False
    """Write pictures as JPEG of a random quality and read them back."""

    def __post_init__(self) -> None:
        if not self.annotation:
            raise ConfigError(f"source {self.name or '?'}: annotation is empty; expected a path or an address")
        if not self.repeat > 0:
            raise ConfigError(f"source {self.name or self.annotation}: repeat is {self.repeat}; expected more than 0")
