"""The run of a reference: its grid on validation, the fit, and its quality as it is stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dslbench import data as datasets
from dslbench import registry
from dslbench.cost import measured
from dslbench.data.interactions import Interactions
from dslbench.errors import UsageError, reason_of
from dslbench.evaluation.evaluate import Evaluation, evaluate, evaluate_sampled, pairs_of_items
from dslbench.evaluation.metrics import SELECTION
from dslbench.references.base import Model, Point, Reference, climb, scorer_over
from dslbench.runs import store
from dslbench.runs.assemble import check_parts
from dslbench.runs.fitted import refit
from dslbench.runs.fitting import check_fits, free_memory
from dslbench.runs.record import FORMAT, USUAL, written
from dslbench.runs.worker.judge import Rounded, of_users
from dslbench.spec import RunSpec

# Users on whom the MACs of a ranking are counted where there are more, evenly spaced.
_USERS_COUNTED = 512
_SAY_EVERY = 10.0  # seconds between two lines of progress
# Values beyond which a model is not judged at other precisions: rounding takes a copy of them all.
_MOST_ROUNDED = 50_000_000


class Ranked:
    """A fitted reference as the rankings and the latency ask for it."""

    device = torch.device("cpu")

    def __init__(self, model: Model, data: Interactions) -> None:
        self._model, self._known = model, data.seen_before_valid

    def eval(self) -> Ranked:
        """Itself: there is nothing that would be otherwise in training."""
        return self

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """From user ids (B,) to scores of all items (B, M)."""
        return scorer_over(self._model, self._known)

    def evaluate(self, data: Interactions, part: str, seed: int) -> Evaluation:
        """Rank on "valid" or "test", exactly as trained models are ranked."""
        validate = part == "valid"
        truth, seen = (
            (data.valid, data.seen_before_valid) if validate else (data.test, data.seen_before_test)
        )
        counts, score = pairs_of_items(data.train), self.scorer()
        if data.negatives is not None:
            return evaluate_sampled(
                lambda users, items: score(users).gather(1, items), truth, data.negatives,
                popularity=counts, seed=seed,
            )  # fmt: skip
        return evaluate(score, truth, seen, popularity=counts, seed=seed)


def make_reference(spec: RunSpec, emit: Any) -> dict[str, Any]:
    """Fit a reference, judge it, and return its record.

    Options that the user left open are chosen on validation; points that do not fit into memory are
    not tried. Raises `RunError` where the usual point does not, or it cannot be fitted.
    """
    started, energy = datetime.now(UTC), measured.Energy()
    data = datasets.load(spec.dataset, protocol=spec.protocol)
    check_parts(data)
    check_fits(spec, data.train)
    kind, options = registry.reference(spec.method), spec.method_options
    emit({"event": "start", "phases": ["fit"]})
    grid = kind.searched(options) if data.valid.nnz else {}

    def note(text: str) -> None:
        emit({"event": "note", "text": text})

    points = math.prod(len(choices) for choices in grid.values())
    search = _Search(kind, options, data, spec.seed, note, points)
    found = climb(grid, {key: kind.usual[key] for key in grid}, search.value) if grid else None
    point = found.point if found else {key: kind.usual[key] for key in kind.searched(options)}
    edges = kind.at_edge(grid, point) if found else []
    for key in edges:
        note(f"{spec.title}: {edge_note(kind, grid, point, key)}")
    chosen = kind.filled(options, point)
    if search.tried and (each := search.seconds / len(search.tried)) >= _SAY_EVERY:
        note(f"fit at the best of {len(search.tried)} points, about {each:.0f} s")
    began = time.perf_counter()
    model = kind.fit(data.train, chosen, spec.seed)
    fit_seconds = time.perf_counter() - began
    ranked = Ranked(model, data)
    began = time.perf_counter()
    result = ranked.evaluate(data, "test", spec.seed)
    test_seconds = time.perf_counter() - began
    peaks = measured.peaks(torch.device("cpu"))
    latency: Any = measured.top_k_latency(ranked, data.seen_before_test)
    infer_macs, infer_users = _infer_macs(model, data)
    # Always, as the store keeps no model that could be judged later.
    wanted = USUAL if model.parameters <= _MOST_ROUNDED else ()
    rounded = _rounded(model, wanted, data, spec.seed)
    quality = result.means | {"tied_users": result.ties}
    fit_macs = kind.train_macs(data.train, chosen)
    phases = [("search", len(search.tried), search.seconds, search.eval_seconds, search.macs)]
    phases = [phase for phase in phases if phase[1]] + [("fit", 1, fit_seconds, 0.0, fit_macs)]
    record = written({
        "format": FORMAT,
        "id": spec.identity(data.digests),
        "versions": spec.versions(),
        "spec": spec.model_dump() | {"embedding_size": None, "layers": None},
        "data": data.summary(),
        "quality": quality,
        "stored": [
            {"precision": model.precision, "bytes": model.nbytes, "quality": quality},
            *(one.row for one in rounded),
        ],
        "selection": {"epoch": None, "on": "valid" if found else None},
        "budget": {
            "dense_table_params": None, "table_params": model.parameters,
            "achieved_sparsity": None, "dense_table_bytes": None, "table_bytes": model.nbytes,
            "total_params": model.parameters, "rows": None, "empty_rows": None,
            "tables": [
                {"name": "model", "role": "embedding", "form": model.form,
                 "parameters": model.parameters, "bytes": model.nbytes}
            ],
        },
        "diagnostics": {
            "chosen": point,
            "grid": {key: list(choices) for key, choices in grid.items()},
            "points": [tried | {SELECTION: value} for tried, value in search.tried],
            "at_edge": edges,
            "memory_needed_bytes": kind.memory_needed(data.train, chosen),
        },
        "cost": {
            "counted": {
                "paper": {"train_macs": None, "infer_macs": None},
                "exact": {
                    "train_macs": _sum(phase[4] for phase in phases),
                    "infer_macs": infer_macs,
                    "infer_users_counted": infer_users if infer_macs is not None else None,
                    "phases": [
                        {"phase": name, "steps": fits, "train_macs": macs, "eval_macs": None}
                        for name, fits, _, _, macs in phases
                    ],
                },
            },
            "measured": {
                "train_seconds": search.seconds + fit_seconds,
                "eval_seconds": search.eval_seconds,
                "test_seconds": test_seconds,
                **peaks,
                "resumed": 0,
                "top_k_latency": latency,
                "energy_joules": energy.joules(),
                "stored_bytes": {model.form: model.nbytes},
                "phases": [
                    {"phase": name, "epochs": 0, "steps": fits, "train_seconds": seconds,
                     "eval_seconds": ranking, "selected_epoch": None, "shared_run": None}
                    for name, fits, seconds, ranking, _ in phases
                ],
            },
        },
        "environment": measured.environment(torch.device("cpu")),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    })  # fmt: skip
    store.save(record, [], {"users": result.users} | result.values | of_users(rounded))
    return record


def validate_reference(
    run_id: str, precisions: Sequence[str], *, latency: bool
) -> list[dict[str, Any]]:
    """A reference, fitted again, at precisions, on validation; as `validate` does for a stored model."""
    again = refit(store.read(run_id))
    model, data = again.model, again.data
    found = []
    for precision in precisions:
        try:
            smaller = model if precision == model.precision else model.rounded(precision)
        except (ValueError, UsageError):
            continue
        ranked = Ranked(smaller, data)
        values = ranked.evaluate(data, "valid", again.spec.seed).values[SELECTION]
        took = measured.top_k_latency(ranked, data.seen_before_test) if latency else None
        row = {"precision": precision, "bytes": smaller.nbytes, "values": values.tolist()}
        found.append(row | {"latency": took})
    return found


def edge_note(kind: type[Reference], grid: dict[str, Any], point: Point, key: str) -> str:
    """That the best value of an option is the first or last of its grid."""
    choices = grid[key]
    return (
        f"the best {key} of {choices[0]:g} to {choices[-1]:g} is {point[key]:g}, at the edge: "
        f"a value beyond may be better (--set {kind.name}.{key}=...)"
    )


class _Search:
    """Fits at points of a grid, judged on validation, and what they cost.

    Args:
        note: takes a line of progress, of which there is one every `_SAY_EVERY` seconds at most.
        points: how many the grid has.
    """

    def __init__(
        self, kind: type[Reference], options: Any, data: Interactions, seed: int,
        note: Callable[[str], None], points: int,
    ) -> None:  # fmt: skip
        self._kind, self._options, self._data, self._seed = kind, options, data, seed
        self._note, self._points, self._said = note, points, time.perf_counter()
        self.tried: list[tuple[Point, float]] = []
        self.seconds = self.eval_seconds = 0.0
        self.macs: int | None = 0

    def value(self, point: Point) -> float:
        """Recall on validation; less than any where the point does not fit into memory."""
        options = self._kind.filled(self._options, point)
        if self._kind.memory_needed(self._data.train, options) > free_memory():
            return -1.0
        began = time.perf_counter()
        model = self._kind.fit(self._data.train, options, self._seed)
        fitted = time.perf_counter()
        found = Ranked(model, self._data).evaluate(self._data, "valid", self._seed).mean(SELECTION)
        self.seconds += fitted - began
        self.eval_seconds += time.perf_counter() - fitted
        self.macs = _sum([self.macs, self._kind.train_macs(self._data.train, options)])
        self.tried.append((point, found))
        ended = time.perf_counter()
        if ended - self._said >= _SAY_EVERY:
            self._said = ended
            at = ", ".join(f"{key}={value:g}" for key, value in point.items())
            self._note(
                f"search: {len(self.tried)} of at most {self._points} points tried; {at}: "
                f"{SELECTION} {found:.4f} on validation, {ended - began:.0f} s"
            )
        return found


def _rounded(model: Model, precisions: Any, data: Interactions, seed: int) -> list[Rounded]:
    """The model at each precision that its form has."""
    found = []
    for precision in precisions:
        row: dict[str, Any] = {"precision": precision}
        try:
            smaller = model.rounded(precision)
        except (ValueError, UsageError) as error:
            reason = reason_of(error)
            found.append(Rounded(row | {"bytes": None, "quality": None, "reason": reason}, None))
            continue
        result = Ranked(smaller, data).evaluate(data, "test", seed)
        row |= {"bytes": smaller.nbytes, "quality": result.means | {"tied_users": result.ties}}
        found.append(Rounded(row, result))
    return found


def _infer_macs(model: Model, data: Interactions) -> tuple[int | None, int]:
    """MACs of scoring all items once for all users, and how many users they were counted on."""
    known = data.seen_before_valid
    users = np.unique(
        np.linspace(0, data.n_users - 1, min(data.n_users, _USERS_COUNTED)).astype(int)
    )
    macs = model.macs(known[users])
    return (None if macs is None else round(macs * data.n_users / len(users))), len(users)


def _sum(values: Any) -> int | None:
    """The sum; None where a part is not known."""
    found = list(values)
    return None if None in found else sum(found)
