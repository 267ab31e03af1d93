"""Which installed fonts lines are drawn in for training, and which only for measuring.

All are packages of Debian (`fonts-` and): dejavu, liberation, freefont-ttf, roboto-unhinted, lato, open-sans,
noto-core, noto-mono, hack, inconsolata, texgyre; kept for measuring: crosextra-carlito, crosextra-caladea, cantarell.
No font is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDERS = (Path("/usr/share/fonts"), Path("/usr/share/texmf/fonts"))
LEARNT = ("DejaVu", "Liberation", "Free", "Roboto", "Lato-", "OpenSans", "NotoSans-", "NotoSansMono-", "NotoSerif-",
          "Hack-", "Inconsolata", "texgyre")  # fmt: skip
UNSEEN = ("Carlito", "Caladea", "Cantarell")
LEFT_OUT = ("Hairline", "Thin", "chorus", "MathTeX", "ExtraLight")
PLAIN = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "LiberationSans-Regular",
         "LiberationSans-Bold", "LiberationSerif-Regular", "LiberationMono-Regular", "FreeSans")  # fmt: skip
"""Drawn more often: what most printed lines look like."""


def find_fonts(families: Sequence[str]) -> tuple[Path, ...]:
    """Installed fonts of these families, without hair lines and swashes."""
    found = [p for folder in FOLDERS for ending in ("ttf", "otf") for p in folder.rglob(f"*.{ending}")]
    return tuple(
        sorted(p for p in found if p.name.startswith(tuple(families)) and not any(w in p.name for w in LEFT_OUT))
    )
