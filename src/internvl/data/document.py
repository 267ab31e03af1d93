"""Pages of PDF documents as pictures, drawn by PDFium. It is not thread-safe: one document at a time in a process."""

from __future__ import annotations

from collections.abc import Sequence

import pypdfium2
from PIL import Image

from internvl.data.limits import Limits, check_size
from internvl.errors import MediaRefused, MediaUnreadable, UsageError

PASSWORD_NEEDED = 4
"""PDFium's number for a missing or wrong password."""


def render(
    data: bytes,
    *,
    name: str,
    limits: Limits,
    size: int = 1792,
    pages: Sequence[int] | None = None,
    password: str | None = None,
) -> list[Image.Image]:
    """The pages as RGB pictures whose longer side has `size` pixels; `pages` counts from 1, None means all of them.

    Raises MediaRefused over a limit, MediaUnreadable for a damaged or locked document, UsageError for a page that
    is not there.
    """
    if size < 1:
        raise UsageError(f"pages of {size} pixels: expected at least 1")
    try:
        document = pypdfium2.PdfDocument(data, password=password)
    except pypdfium2.PdfiumError as error:
        if error.err_code != PASSWORD_NEEDED:
            raise MediaUnreadable(f"{name}: this is no PDF document, or it is damaged; save it anew") from error
        reason = "it is locked with a password" if password is None else "the password is wrong"
        raise MediaUnreadable(f"{name}: {reason}; give the right one as password=...") from None
    with document:
        numbers = _numbers(pages, len(document), name, limits)
        document.init_forms()  # so that what was filled in is drawn too
        return [_draw(document, number, size, name, limits) for number in numbers]


def _numbers(pages: Sequence[int] | None, count: int, name: str, limits: Limits) -> list[int]:
    """The chosen page numbers, all of them in the document and not more than the limit."""
    if not count:
        raise MediaUnreadable(f"{name}: the document has no pages; expected one at least")
    numbers = list(range(1, count + 1)) if pages is None else list(pages)
    if len(numbers) > limits.pages:
        raise MediaRefused(
            f"{name}: {len(numbers)} pages, at most {limits.pages} are drawn: choose some with pages=..."
        )
    absent = [number for number in numbers if not 1 <= number <= count]
    if absent or not numbers:
        raise UsageError(f"{name}: there is no page {absent[0] if absent else 'chosen'}, the document has 1 to {count}")
    return numbers


def _draw(document: pypdfium2.PdfDocument, number: int, size: int, name: str, limits: Limits) -> Image.Image:
    try:
        page = document[number - 1]
        width, height = page.get_size()
        if not (width > 0 and height > 0):
            raise MediaUnreadable(f"{name}: page {number} has no size; leave it out")
        scale = size / max(width, height)
        check_size(f"{name}, page {number}", max(1, round(width * scale)), max(1, round(height * scale)), limits)
        return page.render(scale=scale).to_pil().convert("RGB")
    except pypdfium2.PdfiumError as error:
        raise MediaUnreadable(f"{name}: page {number} is damaged; leave it out, or save the document anew") from error
