"""The stitch families by name: every file of this folder makes one record, `FAMILY`, and is found by itself."""

from __future__ import annotations

from tambour.stitch.family import Family
from tambour.stitch.registry import read_records

FAMILIES: dict[str, Family] = read_records(__name__, __path__, "FAMILY")
