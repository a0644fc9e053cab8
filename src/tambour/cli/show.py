"""What is printed: tables and facts on standard output, progress and remarks on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tambour.progress import Progress


def say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)


def print_json(values: Mapping) -> None:
    print(json.dumps(values, indent=2, ensure_ascii=False))


def print_lines(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)


def print_facts(facts: Mapping, indent: str = "") -> None:
    """Names and values under each other; what is not set is left out."""
    facts = {str(name): value for name, value in facts.items() if value is not None}
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}")
            print_facts(value, indent + "  ")
        else:
            if isinstance(value, list | tuple):
                value = ", ".join(map(str, value))
            print(f"{indent}{name:{width}}  {f'{value:.4g}' if isinstance(value, float) else value}")


def print_table(head: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Columns under their names: text to the left, numbers to the right with two digits."""
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numeric = [not rows or isinstance(cell, int | float) for cell in (rows[0] if rows else head)]
    for row in [list(head), *cells]:
        line = (f"{c:>{w}}" if n else f"{c:{w}}" for c, w, n in zip(row, widths, numeric, strict=True))
        print("  ".join(line).rstrip())


@contextmanager
def watching(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """While open, the function it gives shows progress records on standard error: bars, or a line a stage in a log."""
    if quiet:
        yield lambda record: None
        return
    if not sys.stderr.isatty():
        with _logging() as show:
            yield show
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        *(TextColumn("{task.description:<16}"), BarColumn(24), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("[dim]{task.fields[message]}")),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(record: Progress) -> None:
            if record.stage not in tasks:
                tasks[record.stage] = bars.add_task(record.stage, total=record.total, message="")
            message = escape(_message(record))
            bars.update(tasks[record.stage], completed=record.step, total=record.total, message=message)

        yield show


@contextmanager
def _logging() -> Iterator[Callable[[Progress], None]]:
    """While open, the function it gives prints a line for every stage that was finished."""
    begun: dict[str, float] = {}
    last: Progress | None = None

    def flush() -> None:
        if last is not None and last.step == last.total:
            seconds = time.monotonic() - begun[last.stage]
            line = f"{last.stage}: {last.total} steps, {seconds:.1f} s  {_message(last)}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def show(record: Progress) -> None:
        nonlocal last
        if last is not None and last.stage != record.stage:
            flush()
        begun.setdefault(record.stage, time.monotonic())
        last = record

    yield show
    flush()


def _message(record: Progress) -> str:
    return record.message or "  ".join(f"{name} {value:.3g}" for name, value in record.values.items())
