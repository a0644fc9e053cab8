"""Contact sheets: pictures in rows on white, with labels."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from tambour.errors import InputError
from tambour.imaging.geometry import flatten


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    cell: int = 256,
    gap: int = 8,
) -> Image.Image:
    """Pictures in rows on white, each fitted into a `cell` px square, keeping its shape; None leaves a cell empty.

    `labels` head the columns, `row_labels` stand above each row; labels too long for their place are shortened.
    """
    if not any(len(row) for row in rows):
        raise InputError("A contact sheet needs at least one picture.")
    font = ImageFont.load_default(size=max(11, cell // 16))
    line = max(11, cell // 16) + 2 * gap
    columns = max(len(row) for row in rows)
    head, band = (line if labels else 0), (line if row_labels else 0)
    width = gap + columns * (cell + gap)
    sheet = Image.new("RGB", (width, head + gap + len(rows) * (cell + gap + band)), "white")
    draw = ImageDraw.Draw(sheet)

    def write(text: str, x: float, y: float, room: float) -> None:
        text = str(text)
        while len(text) > 1 and draw.textlength(text, font=font) > room:
            text = text[:-2].rstrip() + "…"
        draw.text((x, y), text, fill=(40, 40, 40), font=font)

    for column, text in enumerate(labels[:columns]):
        write(text, gap + column * (cell + gap), gap, cell)
    for i, row in enumerate(rows):
        top = head + gap + i * (cell + gap + band)
        if i < len(row_labels):
            write(row_labels[i], gap, top, width - 2 * gap)
        for column, image in enumerate(row):
            if image is None:
                continue
            scale = cell / max(image.size)
            size = tuple(max(1, round(side * scale)) for side in image.size)
            kind = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
            picture = flatten(image).resize(size, kind)
            sheet.paste(
                picture, (gap + column * (cell + gap) + (cell - size[0]) // 2, top + band + (cell - size[1]) // 2)
            )
    return sheet
