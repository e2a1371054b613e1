"""Interactions as JSON: an object a line, or one list of objects."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dslbench.data.content import Text
from dslbench.data.dialect import Dialect
from dslbench.data.entries import DatasetEntry
from dslbench.data.layout import Layout, settle
from dslbench.data.raw import Raw
from dslbench.data.table import Table
from dslbench.data.values import interpret
from dslbench.errors import DataError

_HEAD = 300


def read_records(text: Text, entry: DatasetEntry) -> Raw:
    """Read JSON records. Raises DataError naming the line."""
    records, lines = _records(text)
    layout = records_layout(text.name, records, entry)
    names = layout.names
    assert names is not None
    columns = {}
    for at in layout.wanted:
        key = names[at]
        seen: dict[str, int] = {}
        ranks = [seen.setdefault(_shown(record.get(key)), len(seen)) for record in records]
        columns[at] = np.array(ranks, dtype=np.int32), np.array([*seen], dtype=object)
    for what in ("user", "item"):
        key = names[layout.positions[what]]
        for record, line in zip(records, lines, strict=True):
            if isinstance(record.get(key), dict | list):
                raise DataError(
                    f"{text.name}{f', line {line}' if line else ''}: '{key}' holds no id, but more",
                    hint=f"make it flat: jq -c '{{{what}: .{key}.id, ...}}' {text.name} > flat.json"
                    if "0" not in record[key]
                    else 'a table by columns? pandas: to_json(orient="records", lines=True)',
                )
    table = Table(text.name, len(records), columns, lambda row: lines[row])
    return interpret(
        table,
        layout,
        entry,
        encoding=text.encoding,
        packed=text.packed,
        format="JSON, one object a row",
    )


def objects(text: Text) -> list[tuple[int | None, dict[str, Any]]]:
    """The objects of a file with their lines, None in an array; raises `DataError` for what is none."""
    records, lines = _records(text)
    return list(zip(lines, records, strict=True))


def records_layout(name: str, records: list[dict[str, Any]], entry: DatasetEntry) -> Layout:
    """Which key is what."""
    names = list(dict.fromkeys(key for record in records for key in record))
    step = max(1, len(records) // _HEAD)
    values = [[_shown(record.get(key)) for key in names] for record in records[::step]]
    return settle(name, entry, Dialect(""), (True, ""), names, len(names), values)


def _records(text: Text) -> tuple[list[dict[str, Any]], list[int | None]]:
    stripped = text.content.lstrip()
    if stripped.startswith(b"["):
        try:
            whole = json.loads(text.content)
        except (ValueError, RecursionError) as error:  # a number may have too many digits
            at = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise text.refuse(at, "not JSON") from None
        bad = next((at for at, record in enumerate(whole) if not isinstance(record, dict)), None)
        if bad is not None or not whole:
            raise DataError(f"{text.name}: not a list of objects")
        return whole, [None] * len(whole)
    records: list[dict[str, Any]] = []
    numbers: list[int | None] = []
    for number, line in enumerate(text.content.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise text.refuse(number, *_no_json(text, number, line)) from None
        if not isinstance(record, dict):
            raise text.refuse(number, "not a JSON object")
        records.append(record)
        numbers.append(number)
    return records, numbers


def _no_json(text: Text, number: int, line: bytes) -> tuple[str, str | None]:
    if line.strip() == b"{":
        return "an object over several lines, not one a line", f"jq -c . {text.name} > lines.json"
    if line.lstrip()[:2] in (b"{'", b"{u", b'{"') and (b"': " in line or b"u'" in line):
        return (
            "a Python dictionary, not JSON",
            'python -c "import ast, json, sys; [print(json.dumps(ast.literal_eval(line)))'
            f' for line in sys.stdin]" < {text.name} > lines.json',
        )
    cut = number == int(text.line_numbers[-1]) and not text.complete
    return f"not JSON{' (cut?)' if cut else ''}", None


def _shown(value: Any) -> str:
    """A value as the text that it is; nested ones as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict | list | bool):
        return json.dumps(value)
    return str(value)
