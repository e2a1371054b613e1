"""The audit as tables, and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from dslbench.errors import UsageError
from dslbench.report.audit import Entry, Verdict, entries
from dslbench.report.notes import NOTES
from dslbench.report.published import label
from dslbench.report.tables import MISSING, Cell, TableModel, heading

_QUANTITIES = {
    "train_macs": "Tr.",
    "infer_macs": "In.",
    "average_macs": "Average",
    "memory": "Memory",
    "recall@20": "Recall@20",
    "ndcg@20": "NDCG@20",
    "hr@20": "HR@20",
}
_VERDICTS = """\
reproduced: the computed value has the printed digits. rounding: one off in the last digit.
inconsistent: contradicts its data, its table or its name, whatever its digits (see the note).
not reproducible: no formula was found, or the one that holds elsewhere fails.
Equal digits counts the reproduced and those inconsistent figures whose arithmetic holds.
Basis: formula, its inputs from data and released code; fitted, with a constant fitted to these \
figures; printed, from another printed figure.
Printed values are published, the others computed; no run of this machine is in this table."""


def chosen(dataset: str | None = None, backbone: str | None = None) -> list[Entry]:
    """The audited figures of a data set and backbone (None: all); `UsageError` where none is."""
    wanted = {"dataset": dataset, "backbone": backbone}
    found = [
        entry
        for entry in entries()
        if all(value in (None, getattr(entry.setting, key)) for key, value in wanted.items())
    ]
    if not found:
        named = [f"{key} '{value}'" for key, value in wanted.items() if value]
        raise UsageError(f"the paper has no figures of {' and '.join(named)}")
    return found


def build(found: Sequence[Entry]) -> list[TableModel]:
    """A summary, one table for each data set of Table 2, then Table 3 and what else was found."""
    return [_summary(found), *(_section(part) for part in group_entries(found))]


def group_entries(found: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of each of the audit's tables."""
    sections = dict.fromkeys(entry.section for entry in found)
    return [[entry for entry in found if entry.section == name] for name in sections]


def data(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """One object for each figure; a missing value is None."""
    return [
        {
            "section": entry.section,
            "setting": entry.setting.model_dump(),
            "quantity": entry.quantity,
            "printed": entry.printed.text,
            "value": entry.printed.value,
            "computed": entry.computed,
            "difference": entry.difference,
            "verdict": entry.verdict,
            "basis": entry.basis or None,
            "notes": {key: NOTES[key] for key in entry.notes},
        }
        for entry in found
    ]


def _summary(found: Sequence[Entry]) -> TableModel:
    parts = {
        "Table 2, MACs": [e for e in found if e.section.startswith("Table 2")],
        "Table 3, MACs (Tr.)": [e for e in found if e.section == "Table 3, MACs (Tr.)"],
        "Table 3, Average MACs": [e for e in found if e.section == "Table 3, Average MACs"],
        "Other values": [e for e in found if e.section == "Other values"],
    }
    macs = [*parts["Table 2, MACs"], *parts["Table 3, MACs (Tr.)"]]
    rows = [*parts.items(), ("All MACs of Tables 2 and 3", macs)]
    verdicts = get_args(Verdict)
    return TableModel(
        title="Audit of the DSL paper's printed figures",
        headers=["Figures", "Number", *verdicts, "equal digits", "by formula", "by fitting"],
        rows=[
            [
                Cell(name),
                Cell(str(len(part))),
                *(Cell(str(sum(e.verdict == verdict for e in part))) for verdict in verdicts),
                Cell(str(sum(e.equal for e in part))),
                Cell(str(sum(e.equal and e.basis == "formula" for e in part))),
                Cell(str(sum(e.equal and e.basis == "fitted" for e in part))),
            ]
            for name, part in rows
            if part
        ],
        footer=_VERDICTS.splitlines(),
        rules=[sum(map(bool, parts.values())) - 1],
    )


def _section(part: Sequence[Entry]) -> TableModel:
    quantity = "MACs" if part[0].quantity.endswith("macs") else "Value"
    table = TableModel(
        title=f"Audit: {part[0].section}",
        headers=["Model", quantity, "Printed", "Computed", "Diff.", "Verdict", "Basis", "Notes"],
        rows=[],
        left_columns=2,
    )
    previous = ""
    for entry in part:
        name = _name(entry)
        difference = entry.difference
        table.rows.append(
            [
                heading(name, name == previous),
                Cell(_QUANTITIES[entry.quantity]),
                Cell(entry.printed.text, value=entry.printed.value),
                Cell(_computed(entry), value=entry.computed),
                Cell(MISSING)
                if difference is None
                else Cell(f"{difference:+.2%}", value=difference),
                Cell(entry.verdict),
                Cell(entry.basis or MISSING),
                Cell(", ".join(entry.notes)),
            ]
        )
        previous = name
    used = dict.fromkeys(key for entry in part for key in entry.notes)
    table.footer = [f"{key}: {NOTES[key]}" for key in used]
    return table


def _name(entry: Entry) -> str:
    """The row of the paper's table, as it is named there."""
    setting = entry.setting
    sizes = []
    if setting.layers is not None and setting.backbone == "lightgcn":
        sizes.append(f"l={setting.layers}")
    if setting.embedding_size is not None and setting.backbone != "lightgcn":
        sizes.append(f"d={setting.embedding_size}")
    backbone = label("backbone", setting.backbone)
    shape = f" ({', '.join(sizes)})" if sizes else ""
    if entry.section.startswith("Table 2"):
        return f"{backbone}{shape}" + (" + DSL" if setting.method == "dsl" else "")
    method = label("method", setting.method)
    size = "" if setting.embedding_size is None else f", d={setting.embedding_size}"
    if entry.section != "Other values":
        return f"{method}{size}"
    return f"{setting.dataset} {backbone} {method}{size}"


def _computed(entry: Entry) -> str:
    """The computed value in the form of the printed one, with a digit more."""
    if entry.computed is None:
        return MISSING
    mantissa, exponent, power = entry.printed.text.removesuffix("M").partition("e")
    decimals = len(mantissa.partition(".")[2]) + 1
    sign = "+" if mantissa[0] in "+-" else ""
    return f"{entry.computed / float('1e' + (power or '0')):{sign}.{decimals}f}{exponent}{power}"
