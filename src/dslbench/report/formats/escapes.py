"""Text that a format would take for more than text: names come from other people's records."""

from __future__ import annotations

import re

_MARKUP = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)")
_BLOCK = re.compile(r"^(\s*)([#>=+-]|\d+(?=[.)]))")
# What a spreadsheet takes for the start of a formula, also in the full width of East Asian text.
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?([eE][+-]?\d+)?%?|-")


def markdown(text: str) -> str:
    """Text that markdown shows as it is: no tag, link, emphasis or formula within a line."""
    shown = text.replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return _MARKUP.sub(r"\\\g<0>", shown)


def markdown_cell(text: str) -> str:
    """Text within a table's cell."""
    return markdown(text).replace("|", "\\|")


def markdown_item(text: str) -> str:
    """Text that begins an item of a list, and no heading or list of its own."""
    found = _BLOCK.match(text)
    if found is None:
        return markdown(text)
    if found[2].isdigit():  # "1. x"
        return f"{found[0]}\\{markdown(text[found.end() :])}"
    return f"\\{found[2]}{markdown(text[found.end() :])}"


def csv_cell(text: str) -> str:
    """Text that a spreadsheet shows and does not compute; numbers are left alone."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
