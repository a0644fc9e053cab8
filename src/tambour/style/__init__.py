"""A style: its file, and how it is put on a base model."""

from tambour.style.attach import attached, check_base
from tambour.style.file import Style, read_style, write_style

__all__ = ["Style", "attached", "check_base", "read_style", "write_style"]
