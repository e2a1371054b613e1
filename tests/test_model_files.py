"""Model files that someone or something has changed: refused in one line, on reading or on rebuilding."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dslbench import artefact
from dslbench.errors import DataError, DslbenchError
from dslbench.runs.assemble import rebuild
from dslbench.tables.stored import Csr
from model_file_helpers import joined, parts


def trained(method: str, backbone: str = "lightgcn") -> bytes:
    """The file of a small trained model."""
    from dslbench import data as datasets
    from dslbench import registry
    from dslbench.runs.assemble import make_lab
    from dslbench.spec import resolve

    spec = resolve(
        dataset="toy", backbone=backbone, method=method, sparsity=0.5, seed=0, epochs=1,
        settings=["embedding_size=8"],
    )  # fmt: skip
    data = datasets.load("toy")
    lab = make_lab(spec, data, torch.device("cpu"))
    kind = registry.method(method)
    model = kind(kind.options_type.model_validate(spec.options), 0.5).run(lab)
    return artefact.to_bytes(artefact.pack(model, spec.model_dump(mode="json"), data.digests))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {
        "bitmap": trained("rp", "multvae"),
        "rows": trained("autoemb"),
        "dense": trained("dense", "neumf"),
    }


def refused(content: bytes, path: Path) -> str:
    """The one line by which a file is refused on reading or rebuilding."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        rebuild(artefact.read(str(path)))
    assert "\n" not in caught.value.message and str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


def with_nan(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x = x.copy()
    x.reshape(-1)[0] = np.nan
    return x


Parts = dict[str, np.ndarray[Any, Any]]


def without_table(arrays: Parts, about: Any) -> None:
    for name in [k for k in arrays if k.startswith("encoder.")]:
        del arrays[name]
    del about["tables"]["encoder"]


def without_map(arrays: Parts, about: Any) -> None:
    segment, width = about["tables"]["embedding"]["maps"].pop()
    for part in ("map", "bias"):
        del arrays[f"embedding.{part}.{segment}.{width}"]


def to(
    name: str, change: Callable[[Any], Any], new: str | None = None
) -> Callable[[Any, Any], Any]:
    """Replaces an array by what is made of it."""
    return lambda arrays, _: arrays.update({new or name: change(arrays[name])})


def say(*path: str, **new: Any) -> Callable[[Any, Any], Any]:
    """Changes an entry of the metadata."""

    def change(_: Any, about: Any) -> None:
        for key in path:
            about = about[key]
        about.update(new)

    return change


CHANGES: list[tuple[str, str, Callable[[Any, Any], Any]]] = [
    ("it lacks weight", "bitmap", lambda a, _: a.pop("rest.updates")),
    ("that the model has not", "bitmap", to("encoder.values", np.copy, "rest.x")),
    ("belongs to no table", "bitmap", to("encoder.values", np.copy, "x.values")),
    ("no finite numbers", "bitmap", to("encoder.values", with_nan)),
    ("is float64", "bitmap", to("encoder.values", np.float64)),
    ("is int64", "bitmap", to("encoder.counts", np.int64)),
    ("don't add up", "bitmap", to("encoder.bits", np.invert)),
    ("it lacks table 'encoder'", "bitmap", without_table),
    ("form 'crs' of a table is not known here", "bitmap", say("tables", "encoder", form="crs")),
    ("has shape", "bitmap", say("tables", "encoder", shape=[-1, 8])),
    # found without counting them one by one, which would take hours
    ("values for 80,", "dense", say("tables", "gmf_user", shape=[10**13, 8])),
    ("rows of no columns", "dense", say("tables", "gmf_user", shape=[10**13, 0])),
    ("its spec is not one", "bitmap", lambda _, about: about["spec"].pop("epochs")),
    ("its spec is not one", "bitmap", say("spec", backbone="multave")),
    ("its spec is not one", "bitmap", say("spec", "hyper", dropout="much")),
    ("does not fit the model", "rows", say("spec", "hyper", embedding_size=16)),
    ("does not fit the model", "dense", say("spec", backbone="lightgcn")),
    ("other data", "dense", say("digests", train="x")),
    ("is no table of values", "dense", say(digests=[1])),
    ("no map for width", "rows", without_map),
]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "form", "change"), CHANGES, ids=[message for message, _, _ in CHANGES]
)
def test_a_file_whose_parts_do_not_fit_is_refused(
    message: str, form: str, change: Callable[[Any, Any], Any], files: dict[str, bytes],
    tmp_path: Path,
) -> None:  # fmt: skip
    arrays, about = parts(files[form])
    change(arrays, about)
    assert message in refused(joined(arrays, about), tmp_path / "m.safetensors")


def test_a_weight_of_another_shape_or_type_is_refused(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    arrays, about = parts(files["dense"])
    name = next(k for k in arrays if k.startswith("rest.") and arrays[k].size > 1)
    for other in (arrays[name][:1], arrays[name].astype(np.float64)):
        found = refused(joined(arrays | {name: other}, about), tmp_path / "m")
        assert f"weight '{name.removeprefix('rest.')}'" in found


def test_columns_in_disorder_are_refused() -> None:
    table = Csr.of(np.ones((2, 3)), np.array([[1, 1, 0], [0, 1, 1]]) > 0)
    model = artefact.StoredModel({"t": table}, {}, {}, {})
    arrays, about = parts(artefact.to_bytes(model))
    artefact.from_bytes(joined(arrays, about))
    arrays["t.columns"] = arrays["t.columns"][[1, 0, 2, 3]]
    with pytest.raises(DataError, match="not in order"):
        artefact.from_bytes(joined(arrays, about))


VALUES: list[Any] = [
    None, -1, 0, 3, 10**15, 1e300, float("inf"), "", "x", "\x1b[31m\n", True, [], [1], {}, {"a": 1},
]  # fmt: skip


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one thing changed: bytes, a part of its metadata, or an array."""
    kind = rng.integers(4)
    if kind == 0:  # cut, or bytes changed
        if rng.random() < 0.3:
            return content[: int(rng.integers(len(content)))]
        raw = np.frombuffer(content, dtype=np.uint8).copy()
        raw[rng.integers(len(raw) if rng.random() < 0.5 else 3000, size=3)] = rng.integers(256)
        return raw.tobytes()
    arrays, about = parts(content)
    if kind == 1:  # an array
        name = str(rng.choice(list(arrays)))
        x = arrays[name]
        changes = [
            lambda: x.astype(np.float16), lambda: x.astype(np.int64), lambda: x[None],
            lambda: x.reshape(-1)[:-1], lambda: x.reshape(-1)[:0], lambda: np.array(7),
            lambda: np.concatenate([x, x]) if x.ndim else x[None],
        ]  # fmt: skip
        arrays[name] = np.ascontiguousarray(changes[int(rng.integers(len(changes)))]())
    elif kind == 2:  # a name
        name = str(rng.choice(list(arrays)))
        arrays[rng.choice(["rest.", "", "x", name + "x", "rest." + name])] = arrays.pop(name)
    else:  # the metadata
        about = copy.deepcopy(about)
        node: Any = about
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = keys[int(rng.integers(len(keys)))]
            if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.15:
                break
            node = node[key]
        if rng.random() < 0.3:
            del node[key]
        else:
            node[key] = VALUES[int(rng.integers(len(VALUES)))]
    return joined(arrays, about)


def test_no_mutation_of_a_file_gives_a_traceback(files: dict[str, bytes], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "m.safetensors"
    for number in range(int(os.environ.get("DSLBENCH_FUZZ", "150"))):
        content = mutated(list(files.values())[number % len(files)], rng)
        path.write_bytes(content)
        try:
            model = rebuild(artefact.read(path))
        except DslbenchError as error:
            assert isinstance(error, DataError), error.message
            assert error.message.isprintable() and str(path) in error.message
            assert len(error.message) < 500
        else:
            assert all(bool(p.isfinite().all()) for p in model.parameters())
