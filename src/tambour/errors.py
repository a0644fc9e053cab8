"""Faults a user can mend: each names the bad value, the values that are allowed, and the remedy."""


class TambourError(Exception):
    """A fault the user can mend. `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem = problem
        self.remedy = remedy


class InputError(TambourError):
    """A file or value given by the user cannot be used."""

    exit_code = 2


class StyleError(TambourError):
    """A style file is broken, foreign, or made for another base model."""

    exit_code = 3


class BaseModelError(TambourError):
    """A base model cannot be found or does not have the shape the method needs."""

    exit_code = 4


class OutputExists(TambourError):
    """Something would be overwritten that the user did not ask to overwrite."""

    exit_code = 5

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} already exists.", "Choose another name or pass --overwrite.")
