"""Checks on genuine files; skipped unless DSLBENCH_REAL_DATA names a folder that has them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dslbench import data
from dslbench.cli import datasets
from dslbench.data import library
from dslbench.errors import DataError

REAL = Path(os.environ.get("DSLBENCH_REAL_DATA", "-"))
pytestmark = pytest.mark.skipif(
    not REAL.is_dir(), reason="DSLBENCH_REAL_DATA names no folder of genuine files"
)

EXPECTED = {
    "gowalla": ("gowalla", 29_858, 40_981, 1_027_370),
    "citeulike": ("citeulike", 5_219, 25_181, 125_580),
    "citeulike-a": ("citeulike-a", 5_551, 16_980, 204_986),
    "foursquare": ("foursquare", 15_443, 28_593, 588_534),
    "foursquare-20": ("foursquare", 14_617, 28_593, 572_840),
    "ml-1m": ("ml-1m", 6_040, 3_706, 1_000_209),
    "ml-1m-r3": ("ml-1m", 6_039, 3_628, 836_478),
    "ml-1m-ultragcn": ("ml-1m-ultragcn", 6_022, 3_043, 895_699),
}


def bring(name: str, source: Path) -> None:
    datasets.download([name], False, source, False, False)


@pytest.mark.parametrize("name", EXPECTED)
def test_statistics_and_digests(name: str) -> None:
    folder, users, items, interactions = EXPECTED[name]
    bring(name, REAL / folder)
    manifest = library.read_manifest(folder)
    assert manifest is not None
    assert manifest.verified
    loaded = data.load(name)
    assert (loaded.n_users, loaded.n_items) == (users, items)
    assert loaded.train.nnz + loaded.valid.nnz + loaded.test.nnz == interactions


def test_time_order_is_refused_without_timestamps() -> None:
    bring("ml-1m", REAL / "ml-1m")
    with pytest.raises(DataError, match="no timestamps"):
        data.load("ml-1m", protocol="temporal")


def test_partial_file_is_refused_but_welcome_as_own_data() -> None:
    with pytest.raises(DataError, match="expected 2,380,730 pairs, found 1,799,675"):
        bring("amazon-book", REAL / "amazon-book")
    bring("my-amazon", REAL / "amazon-book")
    loaded = data.load("my-amazon")
    assert loaded.train.nnz + loaded.valid.nnz == 1_799_675


def test_gowalla_is_read_in_two_seconds() -> None:
    bring("gowalla", REAL / "gowalla")
    start = time.perf_counter()
    data.load("gowalla")
    assert time.perf_counter() - start < 2
