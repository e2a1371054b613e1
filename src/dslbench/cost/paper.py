"""What the DSL paper calls "MACs", as its Tables 2 and 3 count them.

The paper prints figures, not formulas. These were worked out from the figures; `report/audit.py` sets
both side by side. They are not multiply-accumulates: LightGCN's propagation is multiplied by the
number of rows, UltraGCN counts two operations for each product, NeuMF pads its batches, training is
the forward pass alone, and explorations, pretraining, PEP's retraining and the dense round of
LTH-MRS are free. They serve for comparison with the paper and for nothing else.

Sizes are counts: `users` N, `items` M, `edges` training pairs (a graph has twice as many non-zeros),
`size` d, `layers` L, `steps` iterations of a whole training. `density` is 1 - sparsity of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dslbench.backbones.neumf import NeuMFHyper
from dslbench.data.interactions import Interactions

Relative = Callable[[float], float]

CANDIDATES = 101  # scored per user at inference: one positive and 100 sampled negatives
TEST_BATCH = 1024  # to which UltraGCN's users are padded at inference
ROUNDS = tuple(0.9**k for k in range(1, 7))  # densities of the rounds in Table 3 (46.9 % sparsity)


class PaperCosts(NamedTuple):
    """The two columns "MACs (Tr.)" and "MACs (In.)"; None where no formula is known."""

    train_macs: float | None
    infer_macs: float | None


def batches(count: int, batch: int) -> int:
    """Batches that `count` examples make, the last one perhaps incomplete."""
    return -(-count // batch)


def c_paper(density: float, layers: int) -> float:
    """LightGCN's cost at a density relative to dense: one of L layers dense, L - 1 at the density.

    2/3 for three layers at 50 % sparsity (Table 3, RP and DSL). It is the wrong way round: only the
    first layer multiplies the sparse table, the others a dense result.
    """
    return (1 + (layers - 1) * density) / layers


def lightgcn_propagation(
    users: int, items: int, edges: int, size: int, layers: int, density: float = 1.0
) -> float:
    """(N + M) nnz(A) d L c(density), nnz(A) = 2 edges (Table 2).

    Section 3.3 of the paper has nnz(A) d L: the factor N + M counts the rows a second time.
    """
    return (users + items) * 2 * edges * size * layers * c_paper(density, layers)


def lightgcn_train(
    users: int, items: int, edges: int, size: int, layers: int, steps: int, density: float = 1.0
) -> float:
    """One propagation a step: no scores, no backward pass (Tables 2 and 3)."""
    return steps * lightgcn_propagation(users, items, edges, size, layers, density)


def lightgcn_infer(
    users: int, items: int, edges: int, size: int, layers: int, density: float = 1.0
) -> float:
    """One propagation, and N M d for all scores, which is dense (Table 2)."""
    return lightgcn_propagation(users, items, edges, size, layers, density) + users * items * size


def ultragcn_train(
    users: int,
    items: int,
    size: int,
    steps: int,
    batch: int,
    negatives: int,
    neighbours: int = 10,
    density: float = 1.0,
) -> float:
    """Steps times dot products at density squared, norms of whole tables and work per score (Table 2).

    Counts floating-point operations, two for a product. The weights 4 and 8 of the last two terms
    are fitted to the printed figures.
    """
    products = 2 * size * batch * (1 + negatives + neighbours) * density**2
    return steps * (products + 4 * size * (users + items) + 8 * batch * (1 + negatives))


def ultragcn_infer(users: int, items: int, size: int, density: float = 1.0) -> float:
    """2 N' M d density^2, N' users padded to whole batches of 1024 (Table 2)."""
    return 2 * batches(users, TEST_BATCH) * TEST_BATCH * items * size * density**2


def neumf_pair(size: int, mlp_size: int, widths: Sequence[int], density: float = 1.0) -> float:
    """One pair's cost: 1560 dense and 1042 at density 0.5 for the released shape (Table 2).

    The perceptron without its last layer, and the prediction layer. The first layer is counted at
    the density, the prediction layer half at it and half dense (fitted: it explains the last 6).
    """
    tower = [a * b for a, b in zip((2 * mlp_size, *widths), widths, strict=False)][:-1]
    head = (size + widths[-1]) * (1 + density) / 2
    return sum(tower[:1]) * density + sum(tower[1:]) + head


def pairwise_train(steps: int, batch: int, negatives: int, pair: float) -> float:
    """Forward cost of every pair of every padded batch: NeuMF and ConvNCF (Table 2)."""
    return steps * batch * (1 + negatives) * pair


def pairwise_infer(users: int, batch: int, pair: float) -> float:
    """101 candidates for each user, users padded to whole batches: NeuMF and ConvNCF (Table 2)."""
    return batches(users, batch) * batch * CANDIDATES * pair


def cdae_infer(
    users: int, items: int, width: int, projection: bool = True, density: float = 1.0
) -> float:
    """N (2 M K + K^2) density: encoder, decoder, and a K x K product on the user (Table 2)."""
    return users * (2 * items * width + (width**2 if projection else 0)) * density


def method_factor(
    method: str, c: Relative, density: float, rounds: Sequence[float] = ROUNDS
) -> float | None:
    """A method's training cost relative to one dense training (Table 3); None where not decoded.

    Args:
        method: its name in dslbench.
        c: cost of one training at a density relative to a dense one.
        density: of the final table; for RKD the student's size over the teacher's.
        rounds: densities of the rounds after the dense one (WR, LTH-MRS).
    """
    match method:
        case "dense":
            return c(1.0)
        case "rp" | "dsl":
            return c(density)
        case "omp":
            return 1 + c(density)
        case "wr" | "lth_mrs":  # the dense round is not counted
            return sum(c(of_round) for of_round in rounds)
        case "pep":  # the search, at its mean density; retraining is not counted
            return c((1 + density) / 2)
        case "rkd":
            return 1 + density
    return None


class _Formulas(NamedTuple):
    """A backbone's costs as functions of density, for one run's data and hyper-parameters."""

    train: Relative | None
    infer: Relative


def _lightgcn(hyper: Mapping[str, Any], epochs: int, data: Interactions) -> _Formulas:
    pairs, layers = int(data.train.nnz), hyper["layers"]
    steps = epochs * batches(pairs, hyper["batch_size"])
    shape = (data.n_users, data.n_items, pairs, hyper["embedding_size"], layers)
    return _Formulas(
        lambda density: lightgcn_train(*shape, steps, density),
        lambda density: lightgcn_infer(*shape, density),
    )


def _ultragcn(hyper: Mapping[str, Any], epochs: int, data: Interactions) -> _Formulas:
    batch = hyper["batch_size"]
    steps = epochs * batches(int(data.train.nnz), batch)
    shape = (data.n_users, data.n_items, hyper["embedding_size"])
    drawn = (hyper["negative_num"], hyper["neighbours"])
    return _Formulas(
        lambda density: ultragcn_train(*shape, steps, batch, *drawn, density),
        lambda density: ultragcn_infer(*shape, density),
    )


def _neumf(hyper: Mapping[str, Any], epochs: int, data: Interactions) -> _Formulas:
    shape = NeuMFHyper.model_validate(dict(hyper) | {"epochs": epochs})
    sizes = (shape.embedding_size, shape.mlp_size, shape.widths)
    batch, negatives = hyper["batch_size"], hyper["negative_num"]
    pairs = int(data.train.nnz)
    if hyper["loss"] == "mixed":  # a batch counts single pairs, negatives among them
        pairs, negatives = pairs * (1 + negatives), 0
    steps = epochs * batches(pairs, batch)
    return _Formulas(
        lambda density: pairwise_train(steps, batch, negatives, neumf_pair(*sizes, density)),
        lambda density: pairwise_infer(data.n_users, batch, neumf_pair(*sizes, density)),
    )


def _cdae(hyper: Mapping[str, Any], epochs: int, data: Interactions) -> _Formulas:
    shape = (data.n_users, data.n_items, hyper["embedding_size"], hyper["user_projection"])
    return _Formulas(None, lambda density: cdae_infer(*shape, density))


# ConvNCF and Mult-VAE are not here: no architecture explains their printed figures.
_FORMULAS: dict[str, Callable[[Mapping[str, Any], int, Interactions], _Formulas]] = {
    "lightgcn": _lightgcn,
    "ultragcn": _ultragcn,
    "neumf": _neumf,
    "cdae": _cdae,
}
_MASKED = ("rp", "omp", "wr", "lth_mrs", "pep", "dsl")


class Setting(Protocol):
    """What the formulas ask of a run: `dslbench.spec.RunSpec` has it."""

    backbone: str
    method: str
    sparsity: float
    epochs: int
    hyper: dict[str, Any]
    options: dict[str, Any]

    @property
    def method_options(self) -> Any:
        """The options as an object of the method's class."""


def paper_costs(spec: Setting, data: Interactions) -> PaperCosts:
    """A run's cost by the paper's convention, at the run's own data, epochs and batch size.

    None where no formula is known for the backbone or the method. Inference of distilled and
    size-searched models is one of these: Table 3 does not print it.
    """
    make = _FORMULAS.get(spec.backbone)
    if make is None or spec.hyper.get("layers") == 0:  # without a layer there is nothing to count
        return PaperCosts(None, None)
    formulas, density = make(spec.hyper, spec.epochs, data), 1 - spec.sparsity
    train = _train(spec, density, formulas.train) if formulas.train else None
    masked = spec.method == "dense" or spec.method in _MASKED
    return PaperCosts(train, formulas.infer(density) if masked else None)


def _train(spec: Setting, density: float, cost: Relative) -> float | None:
    """Cost of the trainings that this run's options ask for."""
    dense, options = cost(1.0), spec.options
    if spec.method in _MASKED and spec.sparsity == 0:
        return dense  # one training, whatever the method
    if (spec.method, options.get("init")) == ("omp", "none"):
        return dense  # pruned after training, and not trained again
    if (spec.method, options.get("when")) == ("rp", "trained"):
        return dense
    rounds: Sequence[float] = ROUNDS
    if spec.method in ("wr", "lth_mrs"):
        schedule = spec.method_options
        count = schedule.round_count(spec.sparsity)
        rounds = [1 - schedule.sparsity_after(k, spec.sparsity) for k in range(1, count + 1)]
    factor = method_factor(spec.method, lambda at: cost(at) / dense, density, rounds)
    return None if factor is None else dense * factor
