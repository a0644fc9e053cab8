"""Records by name from the files of a folder, so that a new file is found by itself."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from itertools import pairwise
from typing import Any


def read_records(package: str, folders: Iterable[str], attribute: str) -> dict[str, Any]:
    """The object `attribute` of every module in the `folders` of `package`, by its name, sorted by its order.

    Raises ValueError where a record is not called as its file, or two share one order.
    """
    records = []
    for module in pkgutil.iter_modules(folders):
        record = getattr(import_module(f"{package}.{module.name}"), attribute)
        if record.name != module.name:
            raise ValueError(f"{package}.{module.name} calls its record {record.name!r}.")
        records.append(record)
    records.sort(key=lambda record: record.order)
    for former, record in pairwise(records):
        if former.order == record.order:
            raise ValueError(f"{former.name} and {record.name} of {package} have one order, {record.order}.")
    return {record.name: record for record in records}
