"""The stitch families by name: every file of this folder makes one record, `FAMILY`, and is found by itself."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from itertools import pairwise

from tambour.stitch.family import Family


def _in_order(records: Iterable[Family]) -> dict[str, Family]:
    """Records by name, sorted by their `order`; two of one name or one order are refused."""
    records = sorted(records, key=lambda record: record.order)
    for former, record in pairwise(records):
        if former.order == record.order:
            raise ValueError(f"Stitch families {former.name} and {record.name} have one order, {record.order}.")
    return {record.name: record for record in records}


def _read(module: str) -> Family:
    record = import_module(f"{__name__}.{module}").FAMILY
    if record.name != module:
        raise ValueError(f"The file families/{module}.py calls its family {record.name!r}.")
    return record


FAMILIES: dict[str, Family] = _in_order(_read(module.name) for module in pkgutil.iter_modules(__path__))
