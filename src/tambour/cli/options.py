"""Option classes as options of a command: names, types and help texts stand once, in `workflows.options`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer


def takes(cls: type, *, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command with a parameter `options`: it gets the fields of an option class, made from its flags.

    Where a parameter of the command has the name of a field, it says how the command line shows that field, and the
    value goes both ways.

    Args:
        cls: its fields that have a help text become flags.
        without: fields that the command does not offer.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
        fields = {f.name: f for f in dataclasses.fields(cls) if "help" in f.metadata and f.name not in without}
        flags = [_parameter(cls, field) for field in fields.values()]

        @functools.wraps(command)
        def called(**values: Any) -> None:
            chosen = {name: _value(field, values.pop(name)) for name, field in fields.items()}
            command(**values, options=cls(**chosen))

        arguments = [p for p in own if p.default is inspect.Parameter.empty]
        parameters = [*arguments, *flags, *(p for p in own if p not in arguments)]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        del called.__wrapped__
        return called

    return decorate


def _parameter(cls: type, field: dataclasses.Field) -> inspect.Parameter:
    names = [field.metadata["flag"] or f"--{field.name.replace('_', '-')}"]
    kind = _type(cls, field)
    annotation = Annotated[kind, typer.Option(*names, help=field.metadata["help"])]  # type: ignore[valid-type]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _type(cls: type, field: dataclasses.Field) -> Any:
    """The type of a field on the command line: text where the field also takes objects."""
    hint = typing.get_type_hints(cls, None, {"Base": str, "Recipe": str})[field.name]
    choices = [choice for choice in (typing.get_args(hint) or (hint,)) if choice is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return hint
    kind = choices[0] if len(choices) == 1 and field.metadata["text"] is None else str
    return kind | None if field.default is None else kind


def _value(field: dataclasses.Field, value: Any) -> Any:
    parse = field.metadata["text"]
    return value if value is None or parse is None else parse(value)
