from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_helpers import SHAPE, adjacency, random_lists
from dslbench.data import parse
from dslbench.data.entries import DatasetEntry, FileSpec
from dslbench.data.raw import Raw
from dslbench.data.reading import read, read_lists
from dslbench.errors import DataError

ADJACENCY = DatasetEntry(name="x", title="x", format="adjacency")


def lists(content: bytes, counted: bool = False) -> Raw:
    raw = read_lists(content, "train.txt", counted=counted)
    raw.to_csr((max(raw.n_users, 1), max(raw.n_items, 1)))
    return raw


def pairs(raw: Raw) -> list[tuple[int, int]]:
    return list(zip(raw.users.tolist(), raw.items.tolist(), strict=True))


def test_adjacency() -> None:
    assert pairs(lists(b"0 5 3\n2 1\n")) == [(0, 5), (0, 3), (2, 1)]


@pytest.mark.parametrize(
    "content",
    [
        b"0 5 3\r\n2 1\r\n",  # CRLF
        b"0 5 3\n2 1",  # no final newline
        b"\xef\xbb\xbf0 5 3\n2 1\n",  # byte-order mark
        b"\n0  5\t3 \n\n2 1\n\n",  # blank lines, tabs, trailing blanks
        b"0 5 3\n1 \n2 1\n",  # a user without items
        b"00 05 0000000000000000003\n2 1\n",  # leading zeros
    ],
)
def test_same_pairs_however_written(content: bytes) -> None:
    assert pairs(lists(content)) == [(0, 5), (0, 3), (2, 1)]


def test_user_without_items_counts() -> None:
    raw = lists(b"0 1\n1\n2 \n")
    assert (raw.n_users, len(raw.users)) == (3, 1)


def test_counted() -> None:
    assert pairs(lists(b"2 5 3\n0\n1 1\n", counted=True)) == [(0, 5), (0, 3), (2, 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0 1\n1 x 2\n", "line 2: 'x' is not a non-negative integer"),
        (b"0 1\n\n1 2.5\n", "line 3: '2.5' is not a non-negative integer"),
        (b"0 1\n1 -2\n", "line 2: negative id -2"),
        (b"0 1\r\n1 2147483648\r\n", "line 2: id 2147483648 is larger than 2147483647"),
        (b"0 99999999999999999999999999\n", "line 1: id 99999999999999999999... is larger"),
        (b"0 1\n1 2 3 2\n", "line 2: item 2 appears twice for user 1"),
        (b"0 1\n1 2\n0 3\n", "line 3: user 0 already has a line"),
        (b"0 1\n1 \x00\n", "line 2: '\\x00' is not a non-negative integer"),
        (b"0 1\n1 \xff\xfe\n", "line 2"),
    ],
)
def test_refused_with_line(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        lists(content)
    assert f"train.txt, {message}" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"2 5 3\n3 1 2\n1 1\n", "line 2: the count says 3 items, the line has 2"),
        (b"2 5 3\n3 1 2", "line 2: the count says 3 items, the line has 2 (the file seems cut)"),
        (b"2 5 5\n", "line 1: item 5 appears twice"),
    ],
)
def test_counted_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        lists(content, counted=True)
    assert f"train.txt, {message}" in caught.value.message


def test_id_out_of_range_names_line() -> None:
    raw = read_lists(b"0 1\n1 2 9\n", "t", counted=False)
    with pytest.raises(DataError, match=r"t, line 2: item 9 is outside 0\.\.4"):
        raw.to_csr((2, 5))


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    content = adjacency(random_lists())
    whole = pairs(lists(content))
    bad = content.replace(b"\n", b"\n\n", 5) + b"77 1 oops\n"
    for size in (1, 7, 64):
        monkeypatch.setattr(parse, "BLOCK_BYTES", size)
        assert pairs(lists(content)) == whole
        with pytest.raises(DataError, match="line 36: 'oops'"):
            lists(bad)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "train.txt", ADJACENCY)


@given(st.binary(max_size=60))
def test_any_bytes_give_pairs_or_one_clear_error(content: bytes) -> None:
    for counted in (False, True):
        try:
            raw = read_lists(content, "f", counted=counted)
            if raw.n_users > 10**6 or raw.n_items > 10**6:
                continue
            matrix = raw.to_csr((max(raw.n_users, 1), max(raw.n_items, 1)))
            assert matrix.nnz == len(raw.users)
        except DataError as error:
            assert error.message.startswith("f, line ")
            assert "\n" not in error.message


@given(
    st.lists(st.lists(st.integers(0, 40), unique=True, max_size=8), max_size=8),
    st.sampled_from([b"\n", b"\r\n", b" \n", b"\n\n"]),
)
def test_what_is_written_is_read(items: list[list[int]], newline: bytes) -> None:
    content = b"".join(
        " ".join(map(str, [user, *row])).encode() + newline for user, row in enumerate(items)
    )
    expected = [(user, item) for user, row in enumerate(items) for item in row]
    assert pairs(lists(content)) == expected


def test_canonical_digest_needs_no_order() -> None:
    from dslbench.data.interactions import digest

    straight, reverse = (
        read_lists(adjacency(random_lists(), shuffle), "f", counted=False).to_csr(SHAPE)
        for shuffle in (False, True)
    )
    assert digest(straight) == digest(reverse)


def test_digest_is_the_documented_hash() -> None:
    import hashlib

    from dslbench.data.interactions import digest, pairs_to_csr

    matrix = pairs_to_csr([1, 0, 1], [2, 1, 0], (2, 3))
    expected = b"2 3 3\n" + np.array([[0, 1], [1, 0], [1, 2]], dtype="<i4").tobytes()
    assert digest(matrix) == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a/b", "a\\b", ""])
def test_file_names_stay_in_the_folder(name: str) -> None:
    with pytest.raises(ValueError):
        FileSpec(name=name, role="all")
