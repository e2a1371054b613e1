"""The paper's printed figures beside what its own formulas give (`cost/paper.py`).

Inputs are those the figures come from: the sizes of the data sets, and constants of the released
code (batch 1024 and 1000 epochs for LightGCN; batch 512, 200 epochs, 100 negatives and array sizes
for NeuMF). Where an input was fitted to the figures themselves, the entry says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dslbench.cost import paper
from dslbench.data import catalog
from dslbench.report import published
from dslbench.report.notes import CONTRADICTED, INCONSISTENT
from dslbench.report.published import Figure, Setting

Verdict = Literal["reproduced", "rounding", "inconsistent", "not reproducible"]
# What the computed value rests on: a formula whose inputs come from data and code, one with a
# constant fitted to the figures, or another printed figure.
Basis = Literal["formula", "fitted", "printed", ""]
# A computed value, what it rests on, and the keys of the notes to it.
Found = tuple[float | None, Basis, tuple[str, ...]]

NOT_DECODED: Found = (None, "", ("unknown",))


@dataclass(frozen=True)
class Entry:
    """One printed figure.

    Attributes:
        section: which of the audit's tables it belongs to.
        setting: row of the paper's table.
        quantity: column of the paper's table.
        printed: the figure.
        computed: what the formula gives; None where none was found.
    """

    section: str
    setting: Setting
    quantity: str
    printed: Figure
    computed: float | None
    basis: Basis
    notes: tuple[str, ...]

    @property
    def steps_off(self) -> float | None:
        """Distance in units of the last printed digit."""
        if self.computed is None:
            return None
        return abs(self.computed - self.printed.value) / self.printed.step

    @property
    def equal(self) -> bool:
        """Whether the computed value rounds to the printed digits (a tie may go either way)."""
        return self.steps_off is not None and self.steps_off <= 0.5 + 1e-6

    @property
    def verdict(self) -> Verdict:
        """`rounding`: one off in the last digit. `inconsistent`: see its notes, digits apart."""
        if INCONSISTENT & set(self.notes):
            return "inconsistent"
        if self.equal:
            return "reproduced"
        near = self.steps_off is not None and self.steps_off <= 1.5
        if near and not CONTRADICTED & set(self.notes):
            return "rounding"
        return "not reproducible"

    @property
    def difference(self) -> float | None:
        """Computed relative to printed, less 1."""
        if self.computed is None or self.printed.value == 0:
            return None
        return self.computed / self.printed.value - 1


@dataclass(frozen=True)
class _Small:
    """Sizes of a small data set in the released code.

    `users` are tested, `pairs` trained on; `code_users` and `code_items` are the array sizes.
    """

    users: int
    pairs: int
    code_users: int
    code_items: int


_SMALL = {
    "ml-1m": _Small(6_040, 994_169, 6_041, 3_954),
    "citeulike": _Small(5_219, 120_361, 5_220, 25_189),
    "foursquare": _Small(15_443, 1_180_805, 15_444, 28_594),
}
_CONVNCF_PAIR = {"dense": 74_900, "dsl": 19_120}  # fitted
_ULTRAGCN = {"amazon-book": (200, 500), "yelp2018": (150, 800), "gowalla": (500, 1500)}
_LAST_BATCH = {  # hits among the users of the last test batch: NeuMF, + DSL, ConvNCF, + DSL
    "ml-1m": (408, (321, 307, 316, 326)),
    "citeulike": (35, (14, 14, 12, 13)),
    "foursquare": (83, (41, 47, 44, 41)),
}


def entries() -> list[Entry]:
    """Every audited figure, in the order of the paper."""
    return [*_table2(), *_table3(), *_averages(), *_memory(), *_quality(), *_decay()]


def _large(dataset: str) -> tuple[int, int, int]:
    """Users, items and training pairs of a verified data set."""
    expect = catalog()[dataset].expect
    assert expect.users is not None and expect.items is not None and expect.train is not None
    return expect.users, expect.items, expect.train


def _density(setting: Setting) -> float:
    return 1 - (setting.sparsity or 0.0)


def _table2() -> Iterator[Entry]:
    formulas: dict[str, Callable[[Setting, str, Figure], Found]] = {
        "neumf": _neumf,
        "convncf": _convncf,
        "multvae": _autoencoder,
        "cdae": _autoencoder,
        "lightgcn": _lightgcn,
        "ultragcn": _ultragcn,
    }
    results = published.of("DSL, Table 2")
    for dataset in dict.fromkeys(result.setting.dataset for result in results):
        for result in results:
            setting = result.setting
            if setting.dataset != dataset:
                continue
            for quantity in ("train_macs", "infer_macs"):
                printed = result.values[quantity]
                found = formulas[setting.backbone](setting, quantity, printed)
                yield Entry(f"Table 2, {dataset}", setting, quantity, printed, *found)


def _lightgcn(setting: Setting, quantity: str, printed: Figure) -> Found:
    users, items, pairs = _large(setting.dataset)
    assert setting.embedding_size is not None and setting.layers is not None
    edges = _large("yelp2018")[2] if setting.dataset == "amazon-book" else pairs
    shape = (users, items, edges, setting.embedding_size, setting.layers)
    density, notes = _density(setting), ["n+m"]
    if density < 1:
        notes.append("layers")
    if setting.dataset == "amazon-book":
        notes.append("edges")
    if quantity == "infer_macs":
        return paper.lightgcn_infer(*shape, density), "formula", tuple(notes)
    steps = 1000 * paper.batches(pairs, 1024)
    computed = paper.lightgcn_train(*shape, steps, density)
    return computed, "formula", (*notes, *_rounded(computed, printed))


def _ultragcn(setting: Setting, quantity: str, printed: Figure) -> Found:
    users, items, pairs = _large(setting.dataset)
    assert setting.embedding_size is not None
    shape, density = (users, items, setting.embedding_size), _density(setting)
    if quantity == "infer_macs":
        return paper.ultragcn_infer(*shape, density), "formula", ("flops",)
    epochs, negatives = _ULTRAGCN[setting.dataset]
    steps = epochs * paper.batches(pairs, 1024)
    notes = ("flops", "epochs", *(("config",) if setting.dataset == "gowalla" else ()))
    computed = paper.ultragcn_train(*shape, steps, 1024, negatives, density=density)
    return computed, "fitted", notes


def _neumf(setting: Setting, quantity: str, printed: Figure) -> Found:
    pair = paper.neumf_pair(16, 16, (32, 16, 8), _density(setting))
    computed, notes = _pairwise(setting, quantity, pair)
    if quantity == "train_macs" and setting.dataset == "citeulike":
        notes = ("neumf-rows",)
    return computed, "fitted", ("tower", *notes)


def _convncf(setting: Setting, quantity: str, printed: Figure) -> Found:
    computed, notes = _pairwise(setting, quantity, _CONVNCF_PAIR[setting.method])
    if quantity == "train_macs" and setting.dataset == "foursquare":
        notes = (*notes, "convncf-rows")
    return computed, "fitted", ("pair", *notes)


def _pairwise(setting: Setting, quantity: str, pair: float) -> tuple[float, tuple[str, ...]]:
    data = _SMALL[setting.dataset]
    if quantity == "infer_macs":
        return paper.pairwise_infer(data.users, 512, pair), ()
    steps = 200 * paper.batches(data.pairs, 512)
    special = {"ml-1m": ("one-out",), "foursquare": ("check-ins",)}
    return paper.pairwise_train(steps, 512, 100, pair), special.get(setting.dataset, ())


def _autoencoder(setting: Setting, quantity: str, printed: Figure) -> Found:
    """CDAE's inference; for the rest only DSL's row relative to the dense one is understood."""
    if setting.backbone == "cdae" and quantity == "infer_macs":
        data = _SMALL[setting.dataset]
        sizes = (data.code_users, data.code_items, 256)
        computed = paper.cdae_infer(*sizes, density=_density(setting))
        return computed, "fitted", ("width", *_rounded(computed, printed))
    if setting.method == "dense":
        return NOT_DECODED
    dense = published.find(
        "DSL, Table 2",
        quantity,
        dataset=setting.dataset,
        backbone=setting.backbone,
        method="dense",
    )
    return dense.value * _density(setting), "printed", ("ratio",)


def _rounded(computed: float, printed: Figure) -> tuple[str, ...]:
    """The note on figures that come from rounded ones, where it applies."""
    off = abs(computed - printed.value) / printed.step
    return ("rounded",) if 0.5 + 1e-6 < off <= 1.5 else ()


def _table3() -> Iterator[Entry]:
    users, items, pairs = _large("yelp2018")
    steps = 1000 * paper.batches(pairs, 1024)
    notes: dict[str, tuple[str, ...]] = {
        "dense": ("n+m",),
        "rp": ("layers",),
        "dsl": ("layers",),
        "omp": ("layers",),
        "wr": ("rounds",),
        "lth_mrs": ("rounds",),
        "pep": ("search",),
        "rkd": ("student",),
        "tkd": ("tkd",),
        "autoemb": ("automl",),
        "esapn": ("automl",),
    }
    for result in published.of("DSL, Table 3"):
        setting = result.setting
        if setting.embedding_size is None or setting.layers is None:
            continue
        shape = (users, items, pairs, setting.embedding_size, setting.layers)
        factor = paper.method_factor(
            setting.method,
            lambda density: paper.c_paper(density, 3),
            _density(setting),
        )
        if setting.method == "tkd":
            factor = 5 / 3
        printed = result.values["train_macs"]
        computed = None if factor is None else paper.lightgcn_train(*shape, steps) * factor
        basis: Basis = "fitted" if setting.method in ("tkd", "pep") else "formula"
        noted = notes.get(setting.method, ())
        if computed is None:
            basis = ""
        else:
            noted += _rounded(computed, printed)
        yield Entry("Table 3, MACs (Tr.)", setting, "train_macs", printed, computed, basis, noted)


def _averages() -> Iterator[Entry]:
    for result in published.of("DSL, Table 3"):
        if "average_macs" not in result.values:
            continue
        ratios = []
        for size in (64, 128):
            dense, own = (
                published.find("DSL, Table 3", "train_macs", method=name, embedding_size=size)
                for name in ("dense", result.setting.method)
            )
            ratios.append(own.value / dense.value)
        computed = 100 * (sum(ratios) / 2 - 1)
        yield Entry(
            "Table 3, Average MACs",
            result.setting,
            "average_macs",
            result.values["average_macs"],
            computed,
            "printed",
            ("mean",),
        )


def _memory() -> Iterator[Entry]:
    for result in published.of("DSL, Table 3"):
        setting = result.setting
        if setting.method in ("rp", "dsl") and "memory" in result.values:
            dense = published.find(
                "DSL, Table 3", "memory", method="dense", embedding_size=setting.embedding_size
            )
            yield Entry(
                "Other values", setting, "memory", result.values["memory"],
                dense.value * _density(setting), "printed", ("half",),
            )  # fmt: skip


def _quality() -> Iterator[Entry]:
    order = [(name, method) for name in ("neumf", "convncf") for method in ("dense", "dsl")]
    for result in published.of("DSL, Table 2"):
        setting = result.setting
        if setting.backbone in ("neumf", "convncf"):
            users, hits = _LAST_BATCH[setting.dataset]
            computed = hits[order.index((setting.backbone, setting.method))] / users
            yield Entry(
                "Other values", setting, "hr@20", result.values["hr@20"],
                computed, "fitted", ("last-batch",),
            )  # fmt: skip
    for result in published.of("DSL, Table 3"):
        setting = result.setting
        twin = {"rkd": ("lcm", "lcm"), "lth_mrs": ("lth_mrs", "ticket")}.get(setting.method)
        if twin is None or setting.embedding_size is None:
            continue
        for quantity in ("recall@20", "ndcg@20"):
            other = published.find(
                "LTH-MRS", quantity, method=twin[0], embedding_size=setting.embedding_size
            )
            yield Entry(
                "Other values", setting, quantity, result.values[quantity],
                other.value, "printed", (twin[1],),
            )  # fmt: skip


def _decay() -> Iterator[Entry]:
    """Table 4's cosine is DSL as it is: Table 2 should say the same."""
    for result in published.of("DSL, Table 4"):
        setting = result.setting
        if setting.decay != "cosine":
            continue
        for quantity, printed in result.values.items():
            same = published.find(
                "DSL, Table 2", quantity,
                dataset=setting.dataset, backbone="lightgcn", layers=3, method="dsl",
            )  # fmt: skip
            notes = ("decay",) if abs(printed.value - same.value) > 1.5 * printed.step else ()
            yield Entry(
                "Other values", setting, quantity, printed, same.value, "printed", notes
            )  # fmt: skip
