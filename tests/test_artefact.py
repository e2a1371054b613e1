"""The model file: exact round trips, honest sizes, and one line for anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from dslbench import artefact
from dslbench.artefact import StoredModel
from dslbench.errors import DataError
from dslbench.evaluation.ranking import Ranker
from dslbench.runs.assemble import rebuild
from dslbench.tables.spec import TableSpec, normal
from dslbench.tables.stored import Bitmap, Csr, Dense, Rows, Stored, Values, sizes_by_form
from model_file_helpers import joined, parts

FORMS = ["dense", "csr", "bitmap"]


def packed(n: int, d: int, density: float, form: str = "bitmap", seed: int = 0) -> StoredModel:
    rng = np.random.default_rng(seed)
    mask = rng.random((n, d)) < density
    full = np.where(mask, rng.standard_normal((n, d)), 0).astype(np.float32)
    forms = {"dense": Dense.of, "csr": Csr.of, "bitmap": Bitmap.of}
    table = Dense.of(full) if form == "dense" else forms[form](full, mask)  # type: ignore[operator]
    rest = {"layer.weight": rng.standard_normal((3, 2)).astype(np.float32), "steps": np.array(7)}
    return StoredModel({"t": table}, rest, {"dataset": "toy"}, {"train": "abc"})


@given(
    n=st.integers(1, 40),
    d=st.sampled_from([1, 7, 8, 9, 64, 255, 256, 300]),
    density=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_round_trip_is_exact_in_every_form(n: int, d: int, density: float) -> None:
    spec = TableSpec("t", (("user", n),), d, normal(1.0))
    ids = torch.from_numpy(np.random.default_rng(1).integers(n, size=7))
    for form in FORMS:
        model = packed(n, d, density, form)
        content = artefact.to_bytes(model)
        again, before = artefact.from_bytes(content), model.tables["t"]
        table = again.tables["t"]
        assert type(table) is type(before) and artefact.to_bytes(again) == content
        assert np.array_equal(table.unpack(), before.unpack())
        assert np.array_equal(table.live(), before.live())
        assert np.array_equal(table.entries(), table.live().sum(axis=1))
        assert table.parameters == before.parameters == table.entries().sum()
        assert table.sizes()[form] == table.nbytes == sum(x.nbytes for x in table.arrays().values())
        assert all(packed(n, d, density, k).tables["t"].nbytes == size
                   for k, size in table.sizes().items() if form != "dense")  # fmt: skip
        served = table.table(spec)
        assert np.array_equal(served.full().numpy(), table.unpack())
        assert torch.equal(served.rows(ids), served.full()[ids])
        assert served.live() == table.parameters
        assert (again.spec, again.digests) == (model.spec, model.digests)
        assert all(np.array_equal(again.rest[k], x) for k, x in model.rest.items())


def test_sizes_are_those_of_the_files() -> None:
    for density, most in [(0.5, 0.55), (0.1, 0.14)]:
        model = packed(4000, 64, density)
        sizes = sizes_by_form(model.tables.values())
        for form in FORMS:
            on_disk = len(artefact.to_bytes(packed(4000, 64, density, form)))
            assert sizes[form] <= on_disk < sizes[form] + 2000  # header and the rest
        assert sizes["dense"] == 4000 * 64 * 4
        assert sizes["bitmap"] / sizes["dense"] <= most
        assert sizes["csr"] / sizes["dense"] == pytest.approx(density * 1.25, abs=0.01)


def test_damage_and_strangers_are_refused_in_one_line(tmp_path: Path) -> None:
    good = artefact.to_bytes(packed(10, 8, 0.5))
    stranger = save({"x": np.zeros(3, dtype=np.float32)})
    cases = {
        "empty": b"", "cut": good[:-10], "text": b"hello there, not a tensor", "stranger": stranger,
        "header": b"\xff" * 8 + good[8:],
    }  # fmt: skip
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            artefact.read(path)
        assert str(path) in caught.value.message and "\n" not in caught.value.message
    with pytest.raises(DataError, match="cannot be read"):
        artefact.read(tmp_path / "missing")


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_is_never_served(draw: st.DataObject) -> None:
    model = packed(6, 8, 0.5)
    good = artefact.to_bytes(model)
    place = draw.draw(st.integers(0, 8 * len(good) - 1))
    content = bytearray(good)
    content[place // 8] ^= 1 << place % 8
    try:
        again = artefact.from_bytes(bytes(content))
    except DataError:
        return
    assert artefact.to_bytes(again) == good  # of the header's blanks


def test_a_file_without_checksums_is_read() -> None:
    good = artefact.to_bytes(packed(6, 8, 0.5))
    assert artefact.to_bytes(artefact.from_bytes(joined(*parts(good)))) == good


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_flipped_bytes_never_crash_the_reader(draw: st.DataObject) -> None:
    content = bytearray(artefact.to_bytes(packed(6, 8, 0.5)))
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    try:
        artefact.from_bytes(bytes(content))
    except DataError as error:
        assert "\n" not in error.message


def test_a_model_comes_back_and_ranks_the_same() -> None:
    from dslbench import data as datasets
    from dslbench import registry
    from dslbench.runs.assemble import make_lab
    from dslbench.spec import resolve

    spec = resolve(
        dataset="toy", backbone="lightgcn", method="rp", sparsity=0.5, seed=0, epochs=1,
        settings=["embedding_size=8"],
    )  # fmt: skip
    data = datasets.load("toy")
    lab = make_lab(spec, data, torch.device("cpu"))
    kind = registry.method("rp")
    model = kind(kind.options_type.model_validate(spec.options), 0.5).run(lab)
    kept = artefact.pack(model, spec.model_dump(mode="json"), data.digests)
    content = artefact.to_bytes(kept)
    again = rebuild(artefact.from_bytes(content))
    users = torch.arange(50)
    assert torch.equal(again.scorer()(users), model.scorer()(users))
    best, _ = Ranker(again.scorer(), data.seen_before_test, 10)(np.array([3, 4]))
    assert best.shape == (2, 10)
    seen = set(data.seen_before_test[3].indices.tolist())
    scores = again.scorer()(torch.tensor([3]))[0]
    expected = [i for i in scores.argsort(descending=True).tolist() if i not in seen][:10]
    assert best[0].tolist() == expected
    other = StoredModel(kept.tables, kept.rest, kept.spec, {**kept.digests, "train": "other"})
    with pytest.raises(DataError, match="trained on other data"):
        rebuild(other)


def test_entries_of_rows_are_what_is_stored_whatever_the_values() -> None:
    def stored(mask: list[list[int]]) -> Stored:
        live = np.array(mask, dtype=bool)
        # A stored entry counts whatever its value: 0 is what a regrown one starts from.
        return Bitmap.of(np.zeros(live.shape), live)

    widths = np.array([1, 3])
    maps = {(0, w): (np.ones((w, 3), np.float32), np.ones(3, np.float32)) for w in (1, 3)}
    model = StoredModel(
        {
            "a": stored([[0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]),
            "b": stored([[0], [1]]),
            "c": Dense.of(np.ones((4, 2))),
            "d": Rows((2, 3), Values.of(np.ones(4, np.float32), widths), widths, (2,), maps),
        },
        {}, {}, {},
    )  # fmt: skip
    for tables in (model.tables, artefact.from_bytes(artefact.to_bytes(model)).tables):
        found = {name: table.entries().tolist() for name, table in tables.items()}
        assert found == {"a": [0, 2, 0, 1], "b": [0, 1], "c": [2] * 4, "d": [1, 3]}
