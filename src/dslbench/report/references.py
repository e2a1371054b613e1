"""Reference rows: what item popularity and two closed forms reach on the same split.

A reader sees by them whether a backbone earns its cost. All three rank by a product of what a user
has with an item-to-item matrix:

* ItemKNN: cosine similarity of the items' columns, the K most similar kept (Sarwar et al., 2001);
* EASE: B = I - P diag(1 / P) with P = (X'X + lambda I)^-1 (Steck, "Embarrassingly Shallow
  Autoencoders for Sparse Data", WWW 2019).

K and lambda are chosen on validation, where the protocol has one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse
from torch import Tensor

from dslbench import data as datasets
from dslbench.data.interactions import Interactions
from dslbench.errors import DataError
from dslbench.evaluation.evaluate import Evaluation, evaluate, evaluate_sampled, pairs_of_items
from dslbench.evaluation.metrics import SELECTION, in_group
from dslbench.report.columns import COLUMNS, Record, seconds
from dslbench.report.tables import MISSING, Cell, TableModel, group

Float32 = npt.NDArray[np.float32]
Score = Callable[[npt.NDArray[np.int64]], Float32]

NEIGHBOURS = (20, 100, 400)
LAMBDAS = (50.0, 200.0, 1000.0)
DEFAULT_NEIGHBOURS, DEFAULT_LAMBDA = 100, 200.0
QUALITY = in_group("quality")


def popularity(train: sparse.csr_matrix) -> Float32:
    """(n_items,) training pairs of each item."""
    return np.asarray(train.sum(axis=0), dtype=np.float32).ravel()


def item_knn(train: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """(n_items, n_items) cosine similarities; of each column the `neighbours` largest, no diagonal."""
    norms = np.sqrt(np.maximum(popularity(train), 1))
    columns = sparse.csc_matrix(train @ sparse.diags_array(1 / norms), dtype=np.float32)
    rows, places, values = [], [], []
    for start in range(0, columns.shape[1], 512):  # a block of the product at a time
        block = (columns.T @ columns[:, start : start + 512]).toarray()
        block[np.arange(start, start + block.shape[1]), np.arange(block.shape[1])] = 0
        kept = min(neighbours, block.shape[0])
        best = np.argpartition(-block, kept - 1, axis=0)[:kept]
        found = np.take_along_axis(block, best, axis=0)
        across = np.broadcast_to(np.arange(start, start + block.shape[1]), best.shape)
        live = found > 0
        rows.append(best[live])
        places.append(across[live])
        values.append(found[live])
    shape = (columns.shape[1], columns.shape[1])
    parts = (np.concatenate(rows), np.concatenate(places))
    return sparse.csr_matrix((np.concatenate(values), parts), shape=shape)


def ease_bytes(n_items: int) -> int:
    """Memory EASE needs: the Gram matrix, its factor and its inverse, in float64."""
    return 3 * 8 * n_items**2


def ease(train: sparse.csr_matrix, lambda_: float) -> Float32:
    """(n_items, n_items) weights B with a zero diagonal.

    Raises `DataError` where the item matrix does not fit into the memory that is free.
    """
    n_items = int(train.shape[1])
    needed, free = ease_bytes(n_items), free_memory()
    if needed > free:
        raise DataError(
            f"EASE over {n_items:,} items needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )
    gram = (train.T @ train).toarray().astype(np.float64)
    gram[np.diag_indices(n_items)] += lambda_
    inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights: Float32 = (inverse / -np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights


def free_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - read line by line
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def table(records: Sequence[Record]) -> list[TableModel]:
    """Reference rows for each data set and protocol among the records.

    Raises `DataError` where the data is not at hand or not the same.
    """
    parts = ("train_digest", "valid_digest", "test_digest")
    return [
        _table(runs[0])
        for runs in group(
            records,
            lambda r: (r["spec"]["dataset"], r["spec"]["protocol"], *(r["data"][p] for p in parts)),
        )
    ]


def _table(record: Record) -> TableModel:
    name, protocol = record["spec"]["dataset"], record["spec"]["protocol"]
    data = datasets.load(name, protocol=protocol)
    if any(data.digests[part] != record["data"][f"{part}_digest"] for part in data.digests):
        raise DataError(f"'{name}' here is not the data the runs were made on")
    columns = [COLUMNS[metric] for metric in QUALITY]
    rows, notes = [], []
    for label, fit, choices, default in (
        ("Item popularity", _fit_popularity, (0.0,), 0.0),
        ("ItemKNN (K={:g})", _fit_knn, NEIGHBOURS, DEFAULT_NEIGHBOURS),
        ("EASE (λ={:g})", _fit_ease, LAMBDAS, DEFAULT_LAMBDA),
    ):
        began = time.perf_counter()
        try:
            chosen, result = _best(data, fit, choices, default)
        except DataError as error:
            notes.append(f"Left out: {error.message}.")
            rows.append([Cell(label.partition(" (")[0]), *(Cell(MISSING) for _ in range(4))])
            continue
        spent = time.perf_counter() - began
        means = [result.mean(column.path[-1]) for column in columns]
        rows.append(
            [
                Cell(label.format(chosen)),
                *(Cell(c.show(v), value=v, runs=1) for c, v in zip(columns, means, strict=True)),
                Cell(seconds(spent), value=spent),
            ]
        )
    selected = (
        "chosen on validation" if data.valid.nnz else "not tuned: there is no validation part"
    )
    digest = (data.digests["test"] or "")[:12]
    return TableModel(
        title=f"Reference rows: {name}, protocol {protocol}",
        headers=["Reference", *(column.title for column in columns), "Time"],
        rows=rows,
        footer=[
            *notes,
            f"Closed forms, no training; K and λ are {selected}. Time: measured now, with that choice.",
            f"{name}: test digest {digest}; ranked exactly as the runs are.",
        ],
    )


def _best(
    data: Interactions,
    fit: Callable[[Interactions, float], Score],
    choices: Sequence[float],
    default: float,
) -> tuple[float, Evaluation]:
    """The setting best on validation, and its result on test."""
    chosen = choices[0] if data.valid.nnz else default
    if data.valid.nnz and len(choices) > 1:
        chosen = max(choices, key=lambda c: _evaluate(data, fit(data, c), "valid").mean(SELECTION))
    return chosen, _evaluate(data, fit(data, chosen), "test")


def _evaluate(data: Interactions, score: Score, part: str) -> Evaluation:
    truth = data.valid if part == "valid" else data.test
    seen = data.seen_before_valid if part == "valid" else data.seen_before_test
    counts = pairs_of_items(data.train)

    def full(users: Tensor) -> Tensor:
        return torch.from_numpy(score(users.numpy()))

    if data.negatives is not None:
        return evaluate_sampled(
            lambda users, items: full(users).gather(1, items), truth, data.negatives,
            popularity=counts,
        )  # fmt: skip
    return evaluate(full, truth, seen, popularity=counts)


def _fit_popularity(data: Interactions, _: float) -> Score:
    counts = popularity(data.train)
    return lambda users: np.tile(counts, (len(users), 1))


def _fit_knn(data: Interactions, neighbours: float) -> Score:
    similar, known = item_knn(data.train, int(neighbours)), data.seen_before_valid
    return lambda users: np.asarray((known[users] @ similar).toarray(), dtype=np.float32)


def _fit_ease(data: Interactions, lambda_: float) -> Score:
    weights, known = ease(data.train, lambda_), data.seen_before_valid
    return lambda users: np.asarray(known[users] @ weights, dtype=np.float32)
