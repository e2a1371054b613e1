"""Comparisons at equal bytes: what methods choose, and that it is what they then take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_helpers import run
from dslbench import registry
from dslbench.errors import UnsuitableError, UsageError
from dslbench.runs import equal_bytes
from dslbench.runs.equal_bytes import Way, parse, way
from dslbench.spec import resolve

DENSE = 1800 * 16 * 4  # toy at embedding_size=16
SMALL = [
    "--dataset",
    "toy",
    "--epochs",
    "1",
    "--set",
    "embedding_size=16",
    "--backbone",
    "lightgcn",
]

DENSE_SPEC = resolve(
    dataset="toy", backbone="lightgcn", method="dense", sparsity=0, seed=0,
    settings=["embedding_size=16"],
)  # fmt: skip


def chosen(method: str, size: str, backbone: str = "lightgcn") -> Way:
    kind = registry.method(method)
    spec = resolve(
        dataset="toy", backbone=backbone, method=method, sparsity=0.5 if kind.uses_sparsity else 0,
        seed=0, epochs=1, settings=["embedding_size=16"],
    )  # fmt: skip
    return way(spec, parse(size))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0.133", (0.133, True)), (".5", (0.5, True)), ("1", (1.0, True)), ("1e-2", (0.01, True)),
        ("13%", (0.13, True)), ("2MiB", (2 * 2**20, False)), ("1.5 kb", (1500.0, False)),
        ("70000B", (70000.0, False)),
    ],
)  # fmt: skip
def test_sizes(text: str, size: tuple[float, bool]) -> None:
    assert parse(text) == size


@pytest.mark.parametrize(
    "text", ["", "half", "0", "-1", "2", "2 bananas", "nan", "inf", "1,5", "1e400B", "120%"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--bytes"):
        parse(text)


@pytest.mark.parametrize("share", ["0.9", "0.5", "0.25", "0.133", "0.09"])
@pytest.mark.parametrize("method", registry.names("method"))
def test_what_is_chosen_is_within_the_size_and_near_it(method: str, share: str) -> None:
    target = round(float(share) * DENSE)
    try:
        found = chosen(method, share)
    except UnsuitableError as error:
        assert "takes at least" in error.message and (error.hint or "").startswith("--bytes 0.")
        least = float((error.hint or "").split()[1])
        assert least > float(share)
        assert chosen(method, f"{least}").nbytes <= least * DENSE
        return
    assert found.nbytes <= found.target == target
    if method not in ("dense", "lsq", "lpt", "pq"):  # these have few sizes
        one_step = {
            "narrow": 1800 * 4,
            "rkd": 1800 * 4,
            "tkd": 1800 * 4,
            "svd": 1816 * 4,
            "qr": 64 * 64,
        }
        assert found.nbytes > target - one_step.get(method, 4 * 16)
    assert found.precision in (None, "fp32", "fp16", "bf16", "int8", "int6", "int4", "int3", "int2")


def test_few_bits_before_few_entries() -> None:
    assert chosen("dense", "0.5").precision in ("fp16", "bf16")
    assert chosen("dense", "0.2").precision == "int4"
    assert chosen("dsl", "0.13").precision == "int4"
    assert chosen("dsl", "0.25").precision == "int8"
    assert chosen("lsq", "0.2").spec.options["precision"] == "int4"
    assert chosen("lpt", "0.2").precision == "int4" and chosen("lpt", "0.3").precision is None
    assert chosen("pq", "0.5").spec.options["parts"] <= 16


def test_too_few_bytes_say_the_least() -> None:
    with pytest.raises(
        UnsuitableError, match=r"dsl takes at least [\d,]+ bytes \(0\.0\d+ of dense"
    ) as caught:
        chosen("dsl", "0.01")
    assert chosen("dsl", (caught.value.hint or "").split()[1]).nbytes
    with pytest.raises(UnsuitableError, match="dense takes at least 10,800 bytes"):
        chosen("dense", "0.01")
    with pytest.raises(UsageError, match="no method comes to so few bytes"):
        equal_bytes.ways([DENSE_SPEC], ["9B"])
    with pytest.raises(UsageError, match=r"more than all of dense's 115,200"):
        chosen("dense", "1GiB")


def test_runs_take_what_was_expected(own_home: Path, runs_in_this_process: None) -> None:
    methods = [
        "dense",
        "autoemb",
        "dsl",
        "lpt",
        "lsq",
        "magprune",
        "mde",
        "narrow",
        "pq",
        "qr",
        "svd",
    ]
    named = [part for name in methods for part in ("--method", name)]
    code, out, err = run("compare", *SMALL, *named, "--bytes", "0.2", "--format", "json")
    assert code == 0, err
    target = round(0.2 * DENSE)
    assert "dsl: sparsity 0." in err and f"of {target:,} bytes expected" in err
    seen = set()
    for record in json.loads(out):
        method = record["spec"]["method"]
        wanted = chosen(method, "0.2")
        precision = wanted.precision or record["stored"][0]["precision"]
        (stored,) = (s for s in record["stored"] if s["precision"] == precision)
        # where rows differ, what each leaves of its last byte is known afterwards
        uneven = 1800 / 2 if registry.method(method).rows_differ else 0
        if method in ("autoemb", "esapn"):  # which maps are kept is known after the search
            uneven += 4 * 2 * 36 * 16
        assert abs(stored["bytes"] - wanted.nbytes) <= uneven, method
        assert stored["bytes"] <= target + uneven
        seen.add(method)
    assert seen == set(methods)
    code, out, err = run(
        "compare", *SMALL, "--method", "dense", "--method", "dsl", "--bytes", "0.2"
    )
    assert code == 0, err
    assert (
        "0 to make" in err
        and "Baseline, int4" in out
        and "DSL" in out
        and "fp32" not in out.split("Bytes: of")[0]
    )


@pytest.mark.parametrize(
    "more", [["--sparsity", "0.5"], ["--precision", "int4"], ["--budget-by", "macs"]]
)
def test_what_excludes_it(more: list[str]) -> None:
    code, out, err = run("compare", *SMALL, "--bytes", "0.2", *more)
    assert code == 2 and out == "" and f"--bytes chooses what {more[0]}" in err


def test_what_is_chosen_cannot_be_set() -> None:
    spec = resolve(
        dataset="toy", backbone="lightgcn", method="pq", sparsity=0, seed=0, epochs=1,
        settings=["pq.parts=3"],
    )  # fmt: skip
    with pytest.raises(UsageError, match="--bytes chooses pq"):
        way(spec, parse("0.2"))


@pytest.mark.parametrize("method", ["narrow", "svd", "qr", "mde", "dsl"])
def test_a_little_less_is_a_little_less(method: str) -> None:
    """Also where all entries at some precision come to just so much."""
    kept = []
    for share in ("0.51", "0.5", "0.49"):
        found = chosen(method, share)
        kept.append((1 - found.spec.sparsity) * (16 if found.precision == "fp16" else 32))
    assert kept[0] >= kept[1] * 0.95 and kept[1] >= kept[2] * 0.95 and min(kept) > 12


def test_where_widths_are_coarse_more_bits_are_taken() -> None:
    found = chosen("narrow", "0.3", "convncf")
    assert found.nbytes > 0.75 * found.target
