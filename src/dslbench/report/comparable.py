"""Which runs may stand together, and the words for what they share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from dslbench import registry
from dslbench.errors import UsageError
from dslbench.evaluation.metrics import METRICS, SELECTION, lists_hold_all
from dslbench.report.columns import Record
from dslbench.report.machines import describe, machine_of
from dslbench.report.relative import is_equal_cost, setting_of, without_epochs
from dslbench.report.tables import group
from dslbench.spec import current_versions
from dslbench.words import number, percent

# A row whose best quality on validation grew by more than this over the last fifth of its epochs still rises.
LEVEL = 0.01


def row_key(record: Record) -> tuple[Any, ...]:
    """Runs of one row: all but the seed is the same."""
    spec = record["spec"]
    options = json.dumps(spec["options"], sort_keys=True)
    return spec["method"], spec["variant"], spec["sparsity"], options


def other_versions(record: Record) -> str:
    """Which parts of the code are others than made the run, in words; empty where none is."""
    made_by, spec = record.get("versions"), record["spec"]
    try:
        now = current_versions(spec["backbone"], spec["method"])
    except UsageError:
        return "its backbone or method is not here"
    if made_by is None:
        return "before runs kept versions"
    parts = [
        f"{part} {made_by.get(part)}, now {now.get(part)}"
        for part in sorted({*made_by, *now})
        if made_by.get(part) != now.get(part)
    ]
    return "; ".join(parts)


def latest(records: Sequence[Record], warn: Callable[[str], None]) -> list[Record]:
    """One run of each setting, row and seed: the newest by today's code, else the newest of all."""
    newest: dict[tuple[Any, ...], Record] = {}
    # The store gives them oldest first; what today's code made comes after all others.
    for record in sorted(records, key=lambda r: not other_versions(r)):
        newest[setting_of(record), row_key(record), record["spec"]["seed"]] = record
    if left := len(records) - len(newest):
        warn(f"{left} older or repeated runs of the same settings and seeds left out")
    return list(newest.values())


def tested(records: Sequence[Record]) -> list[Record]:
    """The runs that were judged on test: trials of `tune` were not, and stand in no table."""
    return [r for r in records if r["spec"].get("judged_on", "test") == "test"]


def rows(records: Sequence[Record]) -> list[list[Record]]:
    """Runs by row, dense first, then by family, sparsity and method."""
    known = [*registry.names("method"), *registry.names("reference")]
    order = {name: place for place, name in enumerate(known)}
    return group(
        sorted(
            records,
            key=lambda r: (
                r["spec"]["method"] != "dense",
                method_names(r["spec"]["method"])[1],
                r["spec"]["sparsity"],
                order.get(r["spec"]["method"], len(order)),
                r["spec"]["variant"],
                r["spec"]["seed"],
            ),
        ),
        row_key,
    )


def dense_of(records: Sequence[Record]) -> list[Record]:
    """The dense runs among those of one setting."""
    return [r for r in records if r["spec"]["method"] == "dense"]


def method_names(name: str) -> tuple[str, str]:
    """Label and family; a method that is no longer known keeps its name."""
    try:
        found = registry.row(name)
    except UsageError:
        return name, ""
    return found.label, found.family


def row_label(spec: Record, without: Sequence[str] = ()) -> str:
    """The method's label and what sets the row apart from its defaults."""
    parts = [] if spec["variant"] == "default" else [spec["variant"]]
    parts += [f"{k}={v}" for k, v in spec["changed_options"].items() if k not in without]
    return method_names(spec["method"])[0] + (f" ({', '.join(parts)})" if parts else "")


def row_width(record: Record) -> str:
    """Size of a narrower model whose share of the embedding size was not a whole number."""
    found = record.get("diagnostics") or {}
    if found.get("exact_share", True):
        return ""
    return f" (d={'+'.join(str(width) for width in sorted(set(found['student_widths'].values())))})"


def mean_rise(runs: Sequence[Record]) -> float | None:
    """By how much runs of a row still rose over the last fifth of their epochs; None: nobody looked."""
    known = [r["selection"]["rise"] for r in runs if r["selection"].get("rise") is not None]
    return sum(known) / len(known) if known else None


def rising(runs: Sequence[Record]) -> str:
    """The mark of a row that had not levelled off."""
    found = mean_rise(runs)
    return " (rising)" if found is not None and found > LEVEL else ""


def label(runs: Sequence[Record]) -> str:
    """A row's method with its nominal sparsity."""
    spec = runs[0]["spec"]
    at = f" {percent(spec['sparsity'])}" if spec["sparsity"] else ""
    return row_label(spec) + row_width(runs[0]) + at


def backbone_label(name: str) -> str:
    """The backbone's label; one that is no longer known keeps its name."""
    try:
        return registry.backbone(name).label
    except UsageError:
        return name


def model(spec: Record) -> str:
    """Backbone, its size and where its hyper-parameters come from; of references alone, that."""
    if registry.is_reference(spec["method"]):
        return "references"
    layers = f"l={spec['layers']}, " if spec.get("layers") is not None else ""
    named = ("layers", "embedding_size")
    changed = [f"{k}={v}" for k, v in spec["changed_hyper"].items() if k not in named]
    preset = f"{spec['preset']} preset" + (f" with {', '.join(changed)}" if changed else "")
    return f"{backbone_label(spec['backbone'])} ({layers}d={spec['embedding_size']}, {preset})"


def reduced(spec: Record) -> str:
    """How much of the preset's epochs was trained where it was not all; else empty, as for a reference."""
    epochs, full = spec["epochs"], spec["full_epochs"]
    if epochs is None or registry.is_reference(spec["method"]) or epochs >= full:
        return ""
    return f"REDUCED: {epochs} of {full} epochs"


def protocol(spec: Record) -> str:
    """Protocol and epochs; reduced settings are named as such."""
    # A reference has no epochs; those of runs at equal cost are chosen for each.
    if spec["epochs"] is None or registry.is_reference(spec["method"]):
        return f"protocol {spec['protocol']}"
    length = reduced(spec) or f"{spec['epochs']} epochs"
    return f"protocol {spec['protocol']}, {length}"


def setting(record: Record) -> str:
    """Data set, model and protocol in words."""
    equal_cost = is_equal_cost(record)
    spec = without_epochs(record["spec"]) if equal_cost else record["spec"]
    text = f"{spec['dataset']}, {model(spec)}, {protocol(spec)}"
    return f"equal training MACs, {text}" if equal_cost else text


def footer(records: Sequence[Record], *notes: str) -> list[str]:
    """What a reader needs to defend the numbers: seeds, scale, selection, data, costs, machine."""
    return [
        *notes, *_seeds(records), *_training(records), *_risen(records), *_searches(records),
        *_explorations(records), *_chosen(records), *_empty_rows(records), *_data(records),
        *_measurement(records),
    ]  # fmt: skip


def _seeds(records: Sequence[Record]) -> list[str]:
    seeds = sorted({r["spec"]["seed"] for r in records})
    counts = {len(runs) for part in group(records, setting_of) for runs in rows(part)}
    fewest, most = min(counts), max(counts)
    if most == 1:
        text = "one run per row: no spread can be given"
    elif fewest == most:
        text = "mean and standard deviation"
    else:
        text = f"mean and standard deviation; rows have {fewest} to {most} runs"
    lines = [f"Seeds: {', '.join(map(str, seeds))} ({text})."]
    if most > 1 and fewest < 3:
        lines.append("Fewer than 3 seeds in some rows: their spread says little.")
    return lines


def _training(records: Sequence[Record]) -> list[str]:
    lines = [
        f"Reduced settings: {backbone_label(backbone)} on {name}, {epochs} of the preset's {full} "
        "epochs; quality is below the full protocol's."
        for backbone, name, epochs, full in sorted(
            {(s["backbone"], s["dataset"], s["epochs"], s["full_epochs"])
             for s in (r["spec"] for r in records) if s["epochs"] < s["full_epochs"]}
        )
    ]  # fmt: skip
    parts = {"valid": "validation", "test": "the TEST set, as the paper's code did"}
    trained = [r for r in records if not registry.is_reference(r["spec"]["method"])]
    chosen = sorted({r["selection"]["on"] for r in trained}, reverse=True)
    if chosen:
        lines.append(f"The epoch was selected on {' or '.join(parts[name] for name in chosen)}.")
    return lines


def _risen(records: Sequence[Record]) -> list[str]:
    """Rows that had not levelled off."""
    several = len({setting_of(r) for r in records}) > 1
    found, unknown = [], False
    for part in group(records, setting_of):
        for runs in rows(part):
            rise, spec = mean_rise(runs), runs[0]["spec"]
            unknown |= rise is None
            if rise is not None and rise > LEVEL:
                at = f"{spec['dataset']} {backbone_label(spec['backbone'])} " if several else ""
                found.append(f"{at}{label(runs)} +{rise:.1%}")
    limit = f"more than {percent(LEVEL)} over the last fifth of its epochs"
    if found:
        return [
            f"Still rising (the best {METRICS[SELECTION].label} so far grew by {limit}): {', '.join(found)}."
        ]
    return [] if unknown else [f"All rows had levelled off (none grew by {limit})."]


def _searches(records: Sequence[Record]) -> list[str]:
    """Rows whose method's search for the budget ended before it was there."""
    unmet = [r["spec"] for r in records if (r.get("diagnostics") or {}).get("reached") is False]
    lines = []
    for specs in group(unmet, lambda spec: method_names(spec["method"])[0]):
        at = ", ".join(f"{percent(s)}" for s in sorted({spec["sparsity"] for spec in specs}))
        lines.append(
            f"{method_names(specs[0]['method'])[0]}'s search did not come down to the budget by "
            f"itself; the largest margins were kept (sparsity {at})."
        )
    return lines


def _explorations(records: Sequence[Record]) -> list[str]:
    """Rows whose mask was to be updated, and was not before the epoch that is stored."""
    found = [
        r
        for r in records
        if (r.get("diagnostics") or {}).get("explorations") == 0 and r["spec"]["sparsity"]
    ]
    lines = []
    for runs in group(found, lambda r: (setting_of(r), row_key(r))):
        spec, delta_t = runs[0]["spec"], runs[0]["diagnostics"].get("delta_t")
        after = f" (delta_t is {delta_t:,})" if isinstance(delta_t, int) else ""
        lines.append(
            f"{label(runs)} on {spec['dataset']}, {backbone_label(spec['backbone'])}, did not explore: "
            f"the epoch that was kept lies before the mask's first update{after}, so this is a random mask."
        )
    return lines


def _chosen(records: Sequence[Record]) -> list[str]:
    """What references' options are, where the user left them open."""
    found: dict[str, None] = {}
    for r in records:
        if not registry.is_reference(r["spec"]["method"]):
            continue
        known = r.get("diagnostics") or {}
        point = ", ".join(f"{key}={value:g}" for key, value in known.get("chosen", {}).items())
        if not point:
            continue
        how = "not tuned" if r["selection"]["on"] is None else f"of {len(known['points'])} tried"
        edge = (
            f"; {', '.join(known['at_edge'])} AT THE EDGE of its grid" if known["at_edge"] else ""
        )
        found[f"{row_label(r['spec'])}: {point} ({how}{edge})"] = None
    if not found:
        return []
    return [f"References, chosen on validation unless said otherwise: {'; '.join(found)}."]


def _empty_rows(records: Sequence[Record]) -> list[str]:
    """Rows of the embedding tables that have no entry left; older records don't have the number."""
    found = []
    for part in group(records, setting_of):
        for runs in rows(part):
            budgets = [r["budget"] for r in runs if r["budget"].get("empty_rows")]
            if not budgets:
                continue
            most = max(budgets, key=lambda budget: int(budget["empty_rows"]))
            of_all = f" of {most['rows']:,}" if most.get("rows") else ""
            up_to = "up to " if len({r["budget"].get("empty_rows") for r in runs}) > 1 else ""
            found.append((part[0]["spec"], f"{label(runs)}: {up_to}{most['empty_rows']:,}{of_all}"))
    several = len({setting_of(r) for r in records}) > 1
    texts = [
        f"{spec['dataset']} {backbone_label(spec['backbone'])} {text}" if several else text
        for spec, text in found
    ]
    return (
        [f"Rows of embedding tables that have no entry left: {'; '.join(texts)}."] if texts else []
    )


def _data(records: Sequence[Record]) -> list[str]:
    lines = []
    parts = ("train", "valid", "test")
    of_splits = group(
        records,
        lambda r: (r["spec"]["dataset"], *(r["data"][f"{part}_digest"] for part in parts)),
    )
    for runs in of_splits:
        data = runs[0]["data"]
        digests = ", ".join(
            f"{part} {data[f'{part}_digest'][:12]}" for part in parts if data[f"{part}_digest"]
        )
        lines.append(
            f"{data['name']}: {data['users']:,} users, {data['items']:,} items, "
            f"{data['train_pairs']:,} training pairs; digests: {digests}."
        )
        if said := lists_hold_all(data["users"], data["items"], data["train_pairs"]):
            lines.append(f"{data['name']}: {said}, so that recall says nothing about the models.")
        notes = dict.fromkeys(note for run in runs for note in run["data"].get("notes", []))
        lines += [f"{data['name']}: {note}" for note in notes]
    return lines


def _measurement(records: Sequence[Record]) -> list[str]:
    lines = [
        "Quality, time and memory are measured (memory: peak of the run's own process, data and "
        "libraries included); parameters and MACs are counted. '-': not available."
    ]
    tied = max(r["quality"].get("tied_users") or 0 for r in records)
    if tied:
        lines.append(
            f"Ties: lists of up to {number(tied, 'user')} were in part decided by the seeded tie-break."
        )
    machines = sorted({describe(machine_of(r)) for r in records})
    lines.append(f"Machine: {'; '.join(machines)}.")
    for part in group(records, setting_of):
        elsewhere = [r for r in part if "times_left_out" in r]
        if elsewhere:
            names = dict.fromkeys(label([r]) for r in elsewhere)
            lines.append(
                f"Times of {', '.join(names)} are left out: they were not taken on the machine, or not with "
                f"the threads, of those they would be compared with "
                f"({describe(elsewhere[0]['times_left_out'])})."
            )
    for name in ("dslbench", "python", "torch", "numpy", "scipy", "numba", "system", "machine"):
        found = sorted({str(r["environment"].get(name)) for r in records} - {"None"})
        if len(found) > 1:
            lines.append(f"Made with more than one {name}: {', '.join(found)}.")
    return lines + _versions(records)


def _versions(records: Sequence[Record]) -> list[str]:
    """Rows that today's code would not make, or would make otherwise."""
    found: dict[str, list[str]] = {}
    for part in group(records, setting_of):
        for runs in rows(part):
            for reason in dict.fromkeys(other_versions(run) for run in runs):
                if reason and label(runs) not in found.setdefault(reason, []):
                    found[reason].append(label(runs))
    return [
        f"Made by other versions of the code ({reason}): {', '.join(labels)}. "
        "Compare them with current rows with care; --force makes them again."
        for reason, labels in found.items()
    ]
