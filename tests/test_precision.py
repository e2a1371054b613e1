"""Values of few bits: exact bytes, bounded errors, tables that serve what is stored, refused damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_helpers import run
from dslbench import artefact
from dslbench.errors import DataError, UsageError
from dslbench.ops import low_bits
from dslbench.runs import local, store
from dslbench.runs.assemble import rebuild
from dslbench.tables.spec import TableSpec, normal
from dslbench.tables.stored import (
    BITS,
    Bitmap,
    Csr,
    Dense,
    Factors,
    Prefix,
    Rows,
    Stored,
    Values,
)  # fmt: skip
from dslbench.tables.stored.quotient import Plan, Quotient
from dslbench.tables.stored.values import ServedValues, values_bytes

STORE = Path(__file__).parent / "fixtures" / "store-format-2"
PRECISIONS = list(BITS)
WHOLE = [name for name in PRECISIONS if name.startswith("int")]
Shapes = st.tuples(st.integers(1, 12), st.sampled_from([1, 7, 8, 63, 64, 65]))

IN_A_PROCESS = local.Process.run


def matrix(n: int, d: int, seed: int, spread: float = 1.0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal((n, d)) * spread).astype(np.float32)


def forms(full: np.ndarray[Any, Any], seed: int) -> list[Stored]:
    """The same matrix, or a part of it, in every form."""
    n, d = full.shape
    rng = np.random.default_rng(seed)
    mask = rng.random((n, d)) < 0.4
    widths = rng.choice(sorted({1, max(1, d // 2), d}), n)
    maps = {
        (0, int(w)): (rng.standard_normal((w, d)).astype(np.float32), np.zeros(d, np.float32))
        for w in np.unique(widths)
    }
    values = Values.of(full[np.arange(d) < widths[:, None]], widths)
    k = int(rng.integers(1, d + 1))
    own = np.flatnonzero(rng.random(n) < 0.3).astype(np.int32)
    plan = Plan((n,), (int(rng.integers(1, n + 1)),), own)
    base = full[rng.integers(n, size=plan.places()[2])]
    return [
        Dense.of(full), Bitmap.of(full, mask), Csr.of(full, mask), Prefix.of(full, widths),
        Rows((n, d), values, widths, (n,), maps),
        Factors.of(full[:, :k], rng.standard_normal((k, d)).astype(np.float32)),
        Quotient.of(base, plan, "mult"), Quotient.of(base, plan, "add"),
    ]  # fmt: skip


@given(shape=Shapes, seed=st.integers(0, 9), spread=st.sampled_from([1e-5, 0.1, 50.0]))
@settings(max_examples=30, deadline=None)
def test_every_form_at_every_precision_is_as_large_as_the_formula_and_comes_back(
    shape: tuple[int, int], seed: int, spread: float
) -> None:
    full = matrix(*shape, seed, spread)
    ids = torch.from_numpy(np.random.default_rng(seed).integers(shape[0], size=5))
    spec = TableSpec("t", (("user", shape[0]),), shape[1], normal(1.0))
    for plain in forms(full, seed):
        beside = plain.nbytes - 4 * plain.values.count  # type: ignore[attr-defined]
        for precision in PRECISIONS:
            table = plain.rounded(precision)
            assert table.precision == precision and type(table) is type(plain)
            assert table.nbytes == beside + values_bytes(plain.values.lengths, precision)  # type: ignore[attr-defined]
            assert table.parameters == plain.parameters
            model = artefact.StoredModel({"t": table}, {}, {}, {})
            content = artefact.to_bytes(model)
            again = artefact.from_bytes(content).tables["t"]
            assert artefact.to_bytes(artefact.StoredModel({"t": again}, {}, {}, {})) == content
            assert np.array_equal(again.unpack(), table.unpack())
            served = again.table(spec)
            assert np.array_equal(served.full().numpy(), table.unpack())
            if isinstance(
                table, Rows | Factors
            ):  # products of other numbers of rows are rounded otherwise
                torch.testing.assert_close(served.rows(ids), served.full()[ids], rtol=0, atol=1e-3)
            else:
                assert torch.equal(served.rows(ids), served.full()[ids])
            assert again.rounded("fp32").unpack().dtype == np.float32


def test_bytes_of_a_row_of_64() -> None:
    rows = np.full(10, 64)
    sizes = {name: values_bytes(rows, name) / 10 / 256 for name in PRECISIONS}
    assert {k: round(v, 3) for k, v in sizes.items()} == {
        "fp32": 1.0, "fp16": 0.5, "bf16": 0.5, "int8": 0.258, "int6": 0.195, "int4": 0.133,
        "int3": 0.102, "int2": 0.07,
    }  # fmt: skip


@given(seed=st.integers(0, 99), spread=st.sampled_from([1e-6, 1e-3, 1.0, 1e4]))
@settings(max_examples=40, deadline=None)
def test_no_value_is_off_by_more_than_half_a_step(seed: int, spread: float) -> None:
    full = matrix(9, 33, seed, spread) * np.logspace(-2, 2, 9, dtype=np.float32)[:, None]
    for precision in ("int8", "int6", "int4"):
        values = Dense.of(full, precision).values
        step = values._scale()[:, None]
        assert (np.abs(values.flat().reshape(full.shape) - full) <= step * (0.5 + 1e-5)).all()
        # and a step is as small as reaching the row's largest value allows
        peak = np.abs(full).max(axis=1, keepdims=True)
        assert (step <= peak / low_bits.largest(BITS[precision]) * (1 + 2**-9)).all()


def test_values_on_the_grid_of_their_row_and_zeros_are_exact() -> None:
    for precision in WHOLE:
        most = low_bits.largest(BITS[precision])
        q = np.random.default_rng(0).integers(-most, most + 1, (20, 17))
        q[:, 0], q[3] = most, 0
        full = (q * 0.25).astype(np.float32)
        assert np.array_equal(Dense.of(full, precision).unpack(), full), precision


@pytest.mark.parametrize(("precision", "most"), [("int8", 0.006), ("int6", 0.026), ("int4", 0.11),
                                                 ("int3", 0.25), ("int2", 0.45)])  # fmt: skip
def test_errors_of_gaussian_rows(precision: str, most: float) -> None:
    full = matrix(2000, 64, 0)
    error = np.linalg.norm(Dense.of(full, precision).unpack() - full) / np.linalg.norm(full)
    assert most / 2 < error < most
    if precision in ("int2", "int3"):  # least squares beats the scale that reaches everything
        step = np.abs(full).max(axis=1, keepdims=True) / low_bits.largest(BITS[precision])
        assert error < 0.95 * np.linalg.norm(np.rint(full / step) * step - full) / np.linalg.norm(
            full
        )


def test_devices_without_kernels_decode_alike() -> None:
    lengths = np.array([5, 0, 9, 1])
    flat = matrix(1, int(lengths.sum()), 1).reshape(-1)
    ids = torch.tensor([2, 0, 2, 1, 3])
    for precision in WHOLE:
        served = ServedValues(Values.of(flat, lengths, precision))
        expected, begin = served.of_rows(ids)
        bits = BITS[precision]
        places = torch.from_numpy(low_bits.starts_of(low_bits.row_bytes(lengths, bits)))[ids]
        found = low_bits._decode_by_torch(served.kept, places, served.scale[ids], bits, begin)
        assert torch.equal(found, expected)


def test_bfloat16_is_rounded_to_the_nearest_even() -> None:
    full = np.array([[1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -(1.0 + 2**-7), 3.1]], dtype=np.float32)
    expected = torch.from_numpy(full).to(torch.bfloat16).float().numpy()
    assert np.array_equal(Dense.of(full, "bf16").unpack(), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_what_is_no_number_is_not_rounded(bad: float, precision: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        Dense.of(np.array([[1.0, bad]]), precision)


def test_values_beyond_a_range_and_unknown_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="beyond the range of fp16"):
        Dense.of(np.array([[1.0, 1e5]]), "fp16")
    big = np.array([[1e30, -3e36], [0.0, 0.0], [1e-30, 0.0]], dtype=np.float32)
    kept = Dense.of(big, "int8").unpack()
    assert np.allclose(kept[0], big[0], rtol=0, atol=3e36 / 254) and (kept[1:] == 0).all()
    with pytest.raises(UsageError, match="unknown precision 'int5'"):
        Dense.of(big, "int5")


def damaged(**change: Any) -> bytes:
    """A file of int4 rows in which something is not as it is written."""
    table = Dense.of(matrix(4, 7, 0), "int4")
    arrays, about = table.arrays(), table.about()
    for key, value in change.items():
        if key in arrays:
            arrays[key] = value(arrays[key].copy())
        else:
            about[key] = value

    class Changed(Dense):
        def arrays(self) -> Any:
            return arrays

        def about(self) -> Any:
            return about

    changed = Changed(table.shape, table.values)
    return artefact.to_bytes(artefact.StoredModel({"t": changed}, {}, {}, {}))


def with_first(value: float) -> Any:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array.reshape(-1)[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("bytes of codes", {"codes": lambda x: x[:-1]}), ("never written", {"codes": with_first(8)}),
        ("never written", {"codes": lambda x: x | 0xF0}), ("greater than zero", {"scale": with_first(0)}),
        ("greater than zero", {"scale": with_first(-1)}), ("finite", {"scale": with_first(np.nan)}),
        ("is float64", {"scale": np.float64}), ("precision 'int5' is not known", {"precision": "int5"}),
        ("range of float32", {"exponent": -126}), ("range of float32", {"exponent": 127}),
        ("exponent", {"exponent": 1000}), ("exponent", {"exponent": "x"}),
        ("is missing", {"precision": "fp16"}),
    ],
)  # fmt: skip
def test_damaged_codes_are_refused_in_one_line(said: str, change: dict[str, Any]) -> None:
    artefact.from_bytes(damaged())
    with pytest.raises(DataError, match=said) as caught:
        artefact.from_bytes(damaged(**change))
    assert "\n" not in caught.value.message


def test_a_file_cut_within_a_byte_of_codes_is_refused() -> None:
    content = damaged()
    for cut in range(1, 20):
        with pytest.raises(DataError):
            artefact.from_bytes(content[:-cut])


def test_a_run_is_judged_at_several_precisions_and_a_stored_one_at_more(
    tmp_path: Path, runs_in_this_process: None
) -> None:
    own = [
        "--dataset",
        "toy",
        "--epochs",
        "2",
        "--set",
        "embedding_size=8",
        "--backbone",
        "lightgcn",
    ]
    code, out, err = run("compare", *own, "--method", "dense", "--method", "rp", "--format", "json")
    assert code == 0, err
    dense, masked = json.loads(out)
    sizes = {s["precision"]: s["bytes"] for s in dense["stored"]}
    assert sizes == {
        name: values_bytes(np.full(1800, 8), name) for name in ("fp32", "fp16", "int8", "int4")
    }
    assert sizes["fp32"] == dense["budget"]["table_bytes"] == dense["budget"]["dense_table_bytes"]
    beside = 1800 * (1 + 1)  # a bitmap's byte and a count a row
    assert masked["stored"][1]["bytes"] == 900 * 8 * 2 + beside
    for stored in (*dense["stored"], *masked["stored"]):
        assert set(stored["quality"]) == set(dense["quality"])
    assert dense["stored"][0]["quality"] == dense["quality"]
    assert (
        "bytes" not in dense["spec"]
        and dense["id"]
        == json.loads(run("compare", *own, "--method", "dense", "--format", "json")[1])[0]["id"]
    )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.Process, "run", IN_A_PROCESS)
        code, out, err = run(
            "compare", *own, "--method", "dense", "--precision", "int2", "--precision", "int4", "--format",
            "json",
        )  # fmt: skip
    assert code == 0 and "0 to make" in err and "judging toy lightgcn dense" in err
    (again,) = json.loads(out)
    assert again["cost"] == dense["cost"] and again["finished"] == dense["finished"]
    assert [s["precision"] for s in again["stored"]] == ["fp32", "fp16", "int8", "int4", "int2"]
    kept = store.per_user(dense["id"])
    assert kept is not None
    assert kept["recall@20|int2"].mean() == pytest.approx(
        again["stored"][-1]["quality"]["recall@20"]
    )

    file = tmp_path / "m.safetensors"
    code, _, err = run("train", *own, "--export", str(file), "--precision", "int4")
    assert code == 0, err
    model = rebuild(artefact.read(file))
    assert model.tables()["embedding"].pack().nbytes == sizes["int4"]
    code, out, _ = run("report", "--table", "bytes", "--format", "csv")
    assert code == 0 and out.count("Baseline, int2") == 1
    code, out, _ = run("report", "--table", "bytes")
    assert "smallest stored model that loses under 1%" in out or "No stored model" in out
    for wrong in (["--precision", "int5", "--export", "x"], ["--precision", "int4"]):
        assert run("train", *own, *wrong)[0] == 2


def test_values_at_the_edges_of_a_range_are_refused_or_as_good_as_elsewhere() -> None:
    full = matrix(50, 64, 0)
    usual = {p: np.linalg.norm(Dense.of(full, p).unpack() - full) for p in WHOLE}
    for factor in (1e-28, 1e-9, 1e30):
        scaled = full * np.float32(factor)
        for precision in WHOLE:
            error = np.linalg.norm(
                (Dense.of(scaled, precision).unpack() - scaled) / np.float32(factor)
            )
            assert error == pytest.approx(usual[precision], rel=0.02), (factor, precision)
    for factor in (1e-36, 1e38):
        for precision in WHOLE:
            with pytest.raises(ValueError, match="beyond the range"):
                Dense.of(np.clip(full, -1, 1) * np.float32(factor), precision)
    with pytest.raises(ValueError, match="beyond the range of fp16"):
        Dense.of(full * np.float32(1e-9), "fp16")


def test_judging_again_changes_the_record_and_values_by_user_only(
    own_home: Path, runs_in_this_process: None
) -> None:
    shutil.copytree(STORE / "runs", own_home / "runs")
    (old,) = (r for r in store.read_all(pytest.fail) if r["spec"]["method"] == "dense")
    own = [
        "--dataset",
        "toy",
        "--epochs",
        "2",
        "--set",
        "embedding_size=4",
        "--backbone",
        "lightgcn",
    ]
    assert run("train", *own)[0] == 0
    (new,) = (r for r in store.read_all(pytest.fail) if r.get("stored"))
    folder = store.folder(new["id"])
    record = json.loads((folder / "run.json").read_text()) | {
        "carbon_g": 3
    }  # of some later version
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "history.json").write_text("[")
    before = (folder / "model.safetensors").read_bytes()
    assert run("compare", *own, "--method", "dense", "--precision", "int3")[0] == 0
    again = store.read(new["id"])
    assert again["carbon_g"] == 3 and again["stored"][-1]["precision"] == "int3"
    assert (folder / "history.json").read_text() == "["
    assert (folder / "model.safetensors").read_bytes() == before
    (folder / "users.npz").write_bytes(b"PK")
    code, _, err = run("compare", *own, "--method", "dense", "--precision", "int2")
    assert code == 1 and "no readable values by user" in err
    assert (folder / "users.npz").read_bytes() == b"PK"
    (folder / "run.json").write_text(json.dumps(again | {"format": 9}))
    code, _, err = run("compare", *own, "--method", "dense")
    assert code == 1 and "a newer dslbench wrote it" in err and "--force" in err
    assert json.loads((folder / "run.json").read_text())["format"] == 9
    assert old["format"] == 2
