"""The kinds of fabric by name: every file of this folder makes one record, `KIND`, and is found by itself."""

from __future__ import annotations

from tambour.stitch.cloth import FabricKind
from tambour.stitch.registry import read_records

FABRICS: dict[str, FabricKind] = read_records(__name__, __path__, "KIND")
