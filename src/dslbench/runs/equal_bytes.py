"""Comparisons at equal bytes: what each method chooses to come to so many stored bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from dslbench import data as datasets
from dslbench import registry
from dslbench.data.interactions import Interactions, no_pairs
from dslbench.errors import UnsuitableError, UsageError
from dslbench.runs.assemble import full_hyper
from dslbench.spec import RunSpec
from dslbench.tables import TableSpec
from dslbench.training.lab import Lab
from dslbench.words import number

_STEPS = 10**7  # of the sparsity
_NEARLY, _ENOUGH = 0.99, 0.9  # shares of the size that is wanted
_UNITS = {
    "": 1,
    "B": 1,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


@dataclass(frozen=True)
class Way:
    """How a method comes to so many bytes.

    Attributes:
        spec: the run.
        precision: at which its model is stored; None: its own.
        nbytes: what that is expected to take.
        target: what was asked for.
    """

    spec: RunSpec
    precision: str | None
    nbytes: int
    target: int

    @property
    def words(self) -> str:
        """What was chosen, for a reader."""
        spec = self.spec
        what = [f"sparsity {spec.sparsity:g}"] if spec.sparsity else []
        what += [f"{key}={value}" for key, value in spec.changed_options.items()]
        what += [self.precision] if self.precision else []
        what = what or [
            f"{spec.options['precision']}" if "precision" in spec.options else "as it is"
        ]
        return f"{', '.join(what)}: {self.nbytes:,} of {self.target:,} bytes expected"


def parse(text: str, option: str = "--bytes") -> tuple[float, bool]:
    """A size that somebody wrote, and whether it is a share of dense: `0.133`, `13.3%`, `2MiB`, `500000B`.

    Raises `UsageError` for what is neither.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*([A-Za-z]*|%)\s*", text)
    unit = match[2].upper() if match else "?"
    value = float(match[1]) if match else 0.0
    if unit == "%":
        value, unit = value / 100, ""
    if unit not in _UNITS or not 0 < value < 1e15:
        raise UsageError(
            f"{option} '{text}' is no size", f"{option} 0.133 (of dense), or {option} 2MiB"
        )
    if unit == "" and value > 1:
        raise UsageError(
            f"{option} {text} is more than all of dense's bytes",
            f"{option} 50%" if text.rstrip().endswith("%") else f"for a size: {option} {text}B",
        )
    return value * _UNITS[unit], unit == ""


def ways(specs: Sequence[RunSpec], sizes: Sequence[str]) -> tuple[list[Way], list[str]]:
    """How runs come to sizes, and which are left out because they cannot.

    Raises `UsageError` where none can.
    """
    found: dict[tuple[str, str | None], Way] = {}
    left_out, hints = [], []
    for size in sizes:
        wanted = parse(size)
        for spec in specs:
            try:
                one = way(spec, wanted)
            except UnsuitableError as error:
                left_out.append(error.message)
                hints.append(error.hint or "")
            else:
                found.setdefault((one.spec.model_dump_json(), one.precision), one)
    if not found:
        least = min(hints, key=lambda hint: float(hint.split()[-1]))
        raise UsageError(
            "no method comes to so few bytes: " + "; ".join(dict.fromkeys(left_out)), least
        )
    return list(found.values()), list(dict.fromkeys(left_out))


def way(spec: RunSpec, size: tuple[float, bool]) -> Way:
    """How a run's method comes to a size, within what it can choose.

    A method with a sparsity keeps its entries at the fewest bits, four or more, at which all of them would
    take about so much or more, and leaves out what is too much; at more bits where widths are so coarse that
    less than nine tenths would be used. The others have the most bits, or codes, that are within the size.

    Raises `UnsuitableError` where nothing it can choose is so small, `UsageError` for a size beyond dense's
    and for settings of what is to be chosen.
    """
    kind, full = registry.method(spec.method), full_hyper(spec)
    tables = tables_of(spec)
    dense = sum(4 * table.n_rows * full.width(name) for name, table in tables.items())
    target = round(size[0] * dense) if size[1] else round(size[0])
    if target > dense:
        raise UsageError(
            f"--bytes: {target:,} bytes are more than all of dense's {dense:,}", "--bytes 0.5"
        )

    def expected(options: dict[str, Any], sparsity: float, precision: str | None) -> int:
        chosen = kind.options_type.model_validate(spec.options | options)
        return kind(chosen, sparsity).stored_size(tables, full, precision)

    def chosen(options: dict[str, Any], sparsity: float, precision: str | None) -> Way:
        other = {key: value for key, value in options.items() if spec.options[key] != value}
        changed = {
            "options": spec.options | other,
            "changed_options": spec.changed_options | other,
            "sparsity": sparsity,
        }
        nbytes = expected(options, sparsity, precision)
        return Way(spec.model_copy(update=changed), precision, nbytes, target)

    choices = kind.choices(spec.method_options, full)
    for key in {key for options, _ in choices for key in options} & {*spec.changed_options}:
        raise UsageError(
            f"--bytes chooses {spec.method}.{key} by itself", f"leave --set {spec.method}.{key} out"
        )
    if not kind.uses_sparsity:
        sizes = [expected(options, 0.0, precision) for options, precision in choices]
        if min(sizes) > target:
            raise _too_small(spec.method, min(sizes), target, dense)
        nbytes = max(x for x in sizes if x <= target)
        options, precision = choices[sizes.index(nbytes)]
        return chosen(options, 0.0, precision)
    best: Way | None = None
    least: tuple[float, int] | None = None
    for options, precision in choices:
        if expected(options, 0.0, precision) <= _NEARLY * target:
            continue
        size_at = partial(expected, options, precision=precision)
        sparsity, nbytes = _sparsity(size_at, target, 4 * max(full.widths_of_rows()))
        if nbytes > target:
            least = min(least or (sparsity, nbytes), (sparsity, nbytes), key=lambda at: at[1])
        elif best is None or nbytes > best.nbytes:
            best = chosen(options, sparsity, precision)
        if best is not None and best.nbytes >= _ENOUGH * target:
            return best
    if best is not None:
        return best
    if least is not None:
        raise _too_small(spec.method, least[1], target, dense, least[0])
    return chosen(choices[-1][0], 0.0, choices[-1][1])


def _sparsity(size_at: Callable[[float], int], target: int, row: int) -> tuple[float, int]:
    """The sparsity, of as few digits as will do, whose size comes within a row of the target; and that size.

    The least size that can be had, where that is more than the target.
    """
    top = _last(lambda at: _is_possible(size_at, at))
    if (least := size_at(top / _STEPS)) > target:
        return top / _STEPS, least
    exact = _last(lambda at: at <= top and size_at(at / _STEPS) > target) + 1
    largest = size_at(exact / _STEPS)
    for digits in range(2, 8):
        step = 10 ** (7 - digits)
        at = -(-exact // step) * step
        if at <= top and size_at(at / _STEPS) > largest - row:
            return at / _STEPS, size_at(at / _STEPS)
    return exact / _STEPS, largest


def _last(holds: Callable[[int], bool]) -> int:
    """The last step for which something holds that holds at 0 and, once it does not, never again."""
    low, high = 0, _STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _is_possible(size_at: Callable[[float], int], at: int) -> bool:
    """Whether a method can have this sparsity: something may have to be left of every row."""
    try:
        size_at(at / _STEPS)
    except UsageError:
        return False
    return True


def _too_small(
    method: str, least: int, target: int, dense: int, sparsity: float | None = None
) -> UnsuitableError:
    at = "" if sparsity is None else f", at sparsity {sparsity:.7g}"
    return UnsuitableError(
        f"{method} takes at least {number(least, 'byte')} ({least / dense:.4f} of dense{at}), not {target:,}",
        f"--bytes {math.ceil(least / dense * 10**4) / 10**4:g}",
    )


def tables_of(spec: RunSpec) -> dict[str, TableSpec]:
    """The tables of users and items of the dense model of a setting."""
    return _tables(spec.as_dense.model_copy(update={"seed": 0}).model_dump_json())


@cache  # the same for all methods, sizes and seeds: the data are read once
def _tables(dense: str) -> dict[str, TableSpec]:
    spec = RunSpec.model_validate_json(dense)
    data = datasets.load(spec.dataset, protocol=spec.protocol)
    none = no_pairs((data.n_users, data.n_items))
    empty: Interactions = replace(data, train=none, valid=none, test=none, fold_in=None)
    lab = Lab(empty, registry.backbone(spec.backbone), full_hyper(spec), epochs=1, seed=0)
    tables = lab.build(pretrained=False).tables()
    return {n: t.spec for n, t in tables.items() if t.spec.role == "embedding"}
