"""What the files of one data set must have in common: separator, header, columns."""

from __future__ import annotations

from pathlib import Path

from dslbench.data.columns import header_evidence
from dslbench.data.content import Text, read_text
from dslbench.data.dialect import sample
from dslbench.data.entries import Columns, DatasetEntry
from dslbench.data.layout import Layout, layout_of
from dslbench.errors import DataError


def settle_texts(entry: DatasetEntry, folder: Path) -> DatasetEntry:
    """The entry with everything decided that its delimited files show.

    Raises DataError where a file has a header and another has none, or other columns.
    """
    order = sorted(entry.files, key=lambda file: file.role not in ("train", "all"))
    texts = {file.name: read_text(folder / file.name, entry.encoding) for file in order}
    main = texts[order[0].name]
    layout = layout_of(main, entry, whole=False)
    for file in order[1:]:
        _same_header(main, layout, texts[file.name], entry)
    columns = {
        what: at if layout.names is None else layout.names[at]
        for what, at in layout.positions.items()
    }
    if layout.names is not None and len(set(layout.names)) < len(layout.names):
        columns = dict(layout.positions)  # names that occur twice say nothing
    return entry.model_copy(
        update={
            "separator": layout.dialect.separator,
            "header": layout.header,
            "columns": Columns.model_validate(columns),
            "remarks": layout.warnings,
            "why": {**entry.why, **layout.why, "header": layout.header_why},
        }
    )


def _same_header(main: Text, layout: Layout, other: Text, entry: DatasetEntry) -> None:
    rows = [layout.dialect.split(line) for line in sample(other)]
    first, below = rows[0], rows[1:]
    hint = f"say in {entry.described_in or 'dataset.toml'}: header = true, or header = false"
    if layout.names is None:
        yes, no, words = header_evidence(first, below)
        if yes and not no and entry.header is None:
            raise DataError(
                f"{other.name}, line 1: a header ({words}), where {main.name} has none", hint=hint
            )
        if len(first) != layout.width:
            raise DataError(
                f"{other.name}: {len(first)} columns, where {main.name} has {layout.width}",
                hint="write the files alike",
            )
        return
    if set(first) == set(layout.names):
        return
    shared = len(set(first) & set(layout.names))
    shown = ", ".join(field[:20] for field in first[:6])
    if shared or header_evidence(first, below)[0]:
        raise DataError(
            f"{other.name}, line 1: other columns ({shown}) than {main.name}"
            f" ({', '.join(layout.names[:6])})",
            hint="write the files with the same columns",
        )
    raise DataError(
        f"{other.name}, line 1: '{shown}' is no header, where {main.name} has one"
        f" ({', '.join(layout.names[:6])})",
        hint=f"write the header into {other.name}, too: it may have its columns in another order",
    )
