"""What a file of the user's own was taken for: said before anything is trained, kept with the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dslbench.words import number


@dataclass(frozen=True)
class Column:
    """A column that is used: as what, its name (None: there is no header), position, and why."""

    role: str
    name: str | None
    position: int
    why: str

    @property
    def words(self) -> str:
        """`user = 'userId' (column 0, by its name)`."""
        named = f"'{self.name}' (column {self.position}" if self.name is not None else (
            f"column {self.position} ("
        )  # fmt: skip
        return f"{self.role} = {named}{', ' if self.name is not None else ''}{self.why})"


@dataclass(frozen=True)
class Understood:
    """One file: its format, encoding, dialect, columns, rows, what was left out, the first pair."""

    file: str
    format: str
    encoding: str = ""
    packed: str | None = None
    separator: str = ""
    header: bool | None = None
    header_why: str = ""
    columns: tuple[Column, ...] = ()
    unused: tuple[str, ...] = ()
    times: str = ""
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    first: tuple[str, str] | None = None
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The whole statement, for a terminal."""
        packed = f", unpacked from {self.packed}" if self.packed else ""
        encoding = f", {self.encoding}" if self.encoding else ""
        found = [f"{self.file}: read as {self.format}{encoding}{packed}"]
        if self.separator:
            found.append(f"  fields divided by {self.separator}")
        if self.header is not None:
            shown = "line 1 is a header" if self.header else "no header"
            found.append(f"  {shown}" + (f" ({self.header_why})" if self.header_why else ""))
        found += [f"  {column.words}" for column in self.columns]
        if self.times:
            found.append(f"  times are {self.times}")
        if self.unused:
            found.append(f"  not used: {', '.join(self.unused)}")
        found.append(f"  {self._rows()}")
        if self.first is not None:
            found.append(f"  first pair: user {self.first[0]!r}, item {self.first[1]!r}")
        return [*found, *(f"  attention: {warning}" for warning in self.warnings)]

    def _rows(self) -> str:
        out = [f"{count:,} left out ({reason})" for reason, count in self.left_out.items() if count]
        return "; ".join([f"{number(self.rows, 'row')} read", *(out or ["none left out"])])

    def short(self) -> str:
        """One sentence, for the footer of a table."""
        used = ", ".join(
            f"{column.role} {column.position if column.name is None else repr(column.name)}"
            for column in self.columns
        )
        parts = [self.format, *([used] if used else []), self._rows()]
        if self.warnings:
            parts.append(f"attention: {'; '.join(self.warnings)}")
        return f"{self.file}: {'; '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """For records: plain values."""
        return asdict(self)
