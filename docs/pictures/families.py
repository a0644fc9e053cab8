"""Draws `families.jpg`, every stitch family on a bundled design: `python docs/pictures/families.py`."""

from __future__ import annotations

from pathlib import Path

import tambour
from tambour.imaging.sheet import contact_sheet
from tambour.stitch import FAMILIES, Fabric

DESIGNS = Path(tambour.__file__).with_name("designs")
ORDER = ("satin", "longshort", "tatami", "running", "stem", "chain", "cord",
         "cross", "sashiko", "seed", "knot", "chenille", "bead", "sequin")  # fmt: skip
SHOWN = {"satin": "rose", "longshort": "bird", "tatami": "bee", "running": "sprig", "stem": "mushroom",
         "chain": "anchor", "cord": "heart", "cross": "fox", "sashiko": "mountain", "seed": "cat", "knot": "bee",
         "chenille": "fox", "bead": "heart", "sequin": "anchor"}  # fmt: skip


def main() -> None:
    assert set(ORDER) == set(SHOWN) == set(FAMILIES)
    linen = Fabric(colour=(232, 228, 216), pucker=0.25)
    tiles = [
        tambour.stitch(DESIGNS / f"{SHOWN[family]}.svg", family, fabric=linen, size=512, mm=23).image.resize((300, 300))
        for family in ORDER
    ]
    sheet = contact_sheet(
        [tiles[:7], tiles[7:]], [f"{a} / {b}" for a, b in zip(ORDER[:7], ORDER[7:], strict=True)], cell=300
    )
    sheet.save(Path(__file__).with_name("families.jpg"), quality=84)


if __name__ == "__main__":
    main()
