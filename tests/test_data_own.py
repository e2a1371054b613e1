from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from data_helpers import adjacency, random_lists, write_dataset
from dslbench import data
from dslbench.cli import datasets
from dslbench.data.delimited import read_table
from dslbench.data.entries import Columns, DatasetEntry
from dslbench.data.interactions import Interactions
from dslbench.data.raw import Raw
from dslbench.data.sniff import sniff
from dslbench.errors import DataError, UsageError

PAIRS = {("b", "y"), ("b", "x"), ("a", "y"), ("c", "z"), ("c", "y")}


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs_of(loaded: Interactions) -> set[tuple[str, str]]:
    """All pairs under their original ids."""
    assert loaded.user_ids is not None
    assert loaded.item_ids is not None
    everything = (loaded.train + loaded.valid + loaded.test).tocoo()
    users, items = loaded.user_ids[everything.row], loaded.item_ids[everything.col]
    return {(str(u), str(i)) for u, i in zip(users, items, strict=True)}


ROWS = "".join(
    f"{row},{1_300_000_000 + at}\n"
    for at, row in enumerate(["b,y,5", "b,x,4", "a,y,3", "c,z,2", "c,y,1"])
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", ROWS),
        ("d.csv", "user_id,item_id,rating,timestamp\n" + ROWS),
        ("d.csv", "\ufeffitem,time,user\n" + "y,1,b\nx,2,b\ny,3,a\nz,4,c\ny,5,c\n"),
        ("d.csv", ROWS.replace("\n", "\r\n").rstrip()),
        ("d.csv", '"b","y"\n"b","x"\n"a","y"\n"c","z"\n"c","y"\n'),
        ("d.tsv", ROWS.replace(",", "\t")),
        ("d.txt", ROWS.replace(",", "\t")),
        ("d.txt", ROWS.replace(",", " ")),
        ("d.dat", ROWS.replace(",", "::")),
        (
            "d.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            + ROWS.replace(",", "\t"),
        ),
    ],
)
def test_delimited(tmp_path: Path, name: str, content: str) -> None:
    loaded = data.load(str(written(tmp_path, name, content)))
    assert pairs_of(loaded) == PAIRS
    assert loaded.name == "d"
    assert loaded.user_ids is not None
    assert list(loaded.user_ids) == ["a", "b", "c"]


def test_temporal_of_own_data(tmp_path: Path) -> None:
    path = written(tmp_path, "d.csv", "user,item,rating,timestamp\n" + ROWS)
    loaded = data.load(str(path), protocol="loo-last")
    assert loaded.item_ids is not None
    assert {str(i) for i in loaded.item_ids[loaded.test.indices]} == {"x", "y"}


def test_iso_dates(tmp_path: Path) -> None:
    rows = "user,item,time\na,x,2010-10-19T23:55:27Z\na,y,2010-10-18T22:17:43Z\n"
    loaded = data.load(str(written(tmp_path, "d.csv", rows)), protocol="loo-last")
    assert loaded.item_ids is not None
    assert list(loaded.item_ids[loaded.test.indices]) == ["x"]


def test_third_column_of_epochs_is_time(tmp_path: Path) -> None:
    path = written(tmp_path, "d.csv", "1,5,1300000002\n1,6,1300000001\n")
    loaded = data.load(str(path), protocol="loo-last")
    assert loaded.item_ids is not None
    assert list(loaded.item_ids[loaded.test.indices]) == ["5"]
    assert any("timestamp 2" in note for note in loaded.notes)


def test_ids_are_text(tmp_path: Path) -> None:
    loaded = data.load(str(written(tmp_path, "d.csv", "7,1\n007,1\n10,2\n9,2\n")))
    assert loaded.user_ids is not None
    assert set(loaded.user_ids) == {"007", "10", "7", "9"}


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    loaded = data.load(str(written(tmp_path, "d.csv", "10,1\n9,1\n100,2\n")))
    assert loaded.user_ids is not None
    assert list(loaded.user_ids) == ["9", "10", "100"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "1,2,3\n4,5\n", "d.csv, line 2: 2 columns, expected 3"),
        ("d.csv", "1,2\n4,5,6\n", "d.csv, line 2: 3 columns, expected 2"),
        ("d.csv", "1,2\n\n,5\n", "d.csv, line 3: no user"),
        ("d.csv", "1,2,3\n4,5,x\n", "d.csv, line 2: rating 'x' is not a number"),
        ("d.csv", "1,2,3\n4,5,nan\n", "d.csv, line 2: rating 'nan' is not a number"),
        ("d.csv", "a,b\nu,v\n", "d.csv, line 1: it cannot be told whether 'a, b' is a header"),
        ("d.csv", "user,rating\n1,2\n", "d.csv: which column is the item?"),
        ("d.csv", "1\n2\n", "d.csv, line 1: 1 column, expected at least 2"),
        ("d.csv", b"1,2\n\xff\xfe,3\n", "d.csv, line 2: not UTF-8 text"),
        ("d.csv", "", "d.csv is empty"),
        ("d.dat", "1::2::3\n1::2\n", "d.dat, line 2: 2 columns, expected 3"),
        ("d.inter", "who:token\titem:token\n1\t2\n", "d.inter: which column is the user?"),
        ("d.npz", "not a zip", "d.npz is not a sparse matrix saved by scipy"),
        ("d.txt", "x y\n1\n", "d.txt, line 2: 1 column, expected 2"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        data.load(str(path))
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_adjacency_and_counted(tmp_path: Path) -> None:
    lists = random_lists()
    expected = {(str(u), str(i)) for u, row in enumerate(lists) for i in row}
    counted = "".join(" ".join(map(str, [len(row), *row])) + "\n" for row in lists)
    for name, content in (("a.txt", adjacency(lists)), ("c.dat", counted.encode())):
        assert pairs_of(data.load(str(written(tmp_path, name, content)))) == expected


def test_huge_ids_cost_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "2000000000 2147483647 5\n1 5 7\n3 5\n")
    loaded = data.load(str(path))
    assert (loaded.n_users, loaded.n_items) == (3, 3)
    assert pairs_of(loaded) == {
        ("2000000000", "2147483647"), ("2000000000", "5"), ("1", "5"), ("1", "7"), ("3", "5")
    }  # fmt: skip
    datasets.download(["huge"], False, path, False, False)
    assert pairs_of(data.load("huge")) == pairs_of(loaded)


def test_npz(tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(np.array([[0, 2.0, 1], [0, 0, 0], [5, 0, 0]]))
    sparse.save_npz(tmp_path / "m.npz", matrix)
    assert pairs_of(data.load(str(tmp_path / "m.npz"))) == {("0", "1"), ("0", "2"), ("2", "0")}


def test_parquet(tmp_path: Path) -> None:
    path = written(tmp_path, "m.parquet", b"PAR1")
    with pytest.raises(DataError, match=r"m\.parquet"):
        data.load(str(path))


def test_folder(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "mine")
    loaded = data.load(str(folder))
    assert loaded.name == "mine"
    assert loaded.protocol == "given"
    assert loaded.test.nnz == 60
    (folder / "train.more.txt").write_text("0 1\n")
    with pytest.raises(DataError, match="several files could be train"):
        data.load(str(folder))


def test_folder_with_validation_and_overlap(tmp_path: Path) -> None:
    for name, text in (
        ("train.csv", "u,a\nu,b\nv,a\n"), ("valid.csv", "u,c\nw,b\n"), ("test.csv", "u,a\nv,b\nw,a\n")
    ):  # fmt: skip
        written(tmp_path, name, text)
    loaded = data.load(str(tmp_path))
    assert (loaded.train.nnz, loaded.valid.nnz, loaded.test.nnz) == (3, 2, 2)
    assert "1 test pairs that are in train too are left out" in loaded.notes
    assert "1 test users have no training pairs" in loaded.notes
    assert any("1 items never occur in train" in note for note in loaded.notes)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train and test files"):
        data.load(str(tmp_path))


def test_missing_path() -> None:
    with pytest.raises(DataError, match="does not exist"):
        data.load("./nowhere.csv")


def test_toml(tmp_path: Path) -> None:
    written(tmp_path, "raw.data", "who|what|stars\nu1|i1|5\nu1|i2|2\nu2|i1|4\nu2|i3|3\n")
    description = written(
        tmp_path,
        "mine.toml",
        'file = "raw.data"\nformat = "csv"\nseparator = "|"\n'
        '[columns]\nuser = "who"\nitem = "what"\nrating = "stars"\n[filters]\nmin_rating = 3\n',
    )
    loaded = data.load(str(description))
    assert loaded.name == "mine"
    assert pairs_of(loaded) == {("u1", "i1"), ("u2", "i1"), ("u2", "i3")}


def test_toml_beside_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "d.csv", ROWS)
    text = 'name = "named"\nprotocol = "temporal"\n[columns]\nuser = 0\nitem = 1\ntimestamp = 3\n'
    written(tmp_path, "d.toml", text)
    loaded = data.load(str(path))
    assert (loaded.name, loaded.protocol) == ("named", "temporal")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file = ", "mine.toml: not valid TOML"),
        ('fiel = "x"', "mine.toml: fiel: Extra inputs are not permitted"),
        ('file = "none.csv"', "none.csv does not exist"),
        ('file = "../d.csv"', "does not exist"),
        ('format = "csv"', "mine.toml: names no file"),
        ('file = "d.csv"\nformat = "toy"', "mine.toml: format"),
        ('file = "d.csv"\n[filters]\nk_core = 9', "no interactions are left by the filters"),
        ('file = "d.csv"\nprotocol = "magic"', "unknown protocol 'magic'"),
        ('train = "d.csv"\ntest = "d.csv"\n[filters]\nk_core = 2', "filters (k_core) need all"),
    ],
)
def test_bad_toml(tmp_path: Path, text: str, message: str) -> None:
    written(tmp_path, "d.csv", ROWS)
    with pytest.raises((DataError, UsageError)) as caught:
        data.load(str(written(tmp_path, "mine.toml", text)))
    assert message in caught.value.message


def filtered(tmp_path: Path, rows: list[tuple[int, int]], filters: str) -> set[tuple[str, str]]:
    written(tmp_path, "f.csv", "".join(f"{u},{i}\n" for u, i in rows))
    text = f'file = "f.csv"\n[filters]\n{filters}\n'
    return pairs_of(data.load(str(written(tmp_path, "f.toml", text))))


def test_one_pass_minimum_leaves_rare_items(tmp_path: Path) -> None:
    rows = [(1, 1), (1, 2), (2, 1)]
    assert filtered(tmp_path, rows, "min_user_items = 2") == {("1", "1"), ("1", "2")}


def test_k_core_reaches_the_fixed_point(tmp_path: Path) -> None:
    core = [(u, i) for u in (1, 2) for i in (1, 2)]
    chain = [(3, 2), (3, 3), (4, 3), (4, 4)]  # falls apart from its end, link by link
    expected = {(str(u), str(i)) for u, i in core}
    assert filtered(tmp_path, core + chain, "k_core = 2") == expected


def test_import_under_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_dataset(tmp_path / "gowalla")
    datasets.download(["mine"], False, folder, False, False)
    out = capsys.readouterr().out
    assert "your own data, nothing to verify it against" in out
    assert data.default_dataset()[0] == "mine"
    loaded = data.load("mine")
    assert loaded.name == "mine"
    assert loaded.test.nnz == 60
    (tmp_path / "gowalla" / "train.txt").unlink()
    assert data.load("mine").digests == loaded.digests
    datasets.download(["mine"], False, None, True, False)
    assert "mine: intact" in capsys.readouterr().out
    datasets.list_datasets(False)
    assert "own data" in capsys.readouterr().out


def test_own_data_never_bears_a_known_name(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "gowalla")
    assert data.load(str(folder)).name == "own-gowalla"
    with pytest.raises(DataError, match=r"gowalla's train\.txt"):
        datasets.download(["gowalla"], False, folder, False, False)


@pytest.mark.parametrize("name", ["../x", ".x", "a b", "a/b"])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        datasets.download([name], False, write_dataset(tmp_path / "d"), False, False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0 1 2\n1 5\n", "adjacency"),
        ("0 1\n1 5\n2 7\n", "tsv"),
        ("2 1 2\n1 5\n0\n", "counted"),
        ("0 1\n0 5\n2 7\n", "tsv"),
        ("1::2::3\n", "ratings"),
        ("a,b\n", "csv"),
    ],
)
def test_sniffing(tmp_path: Path, content: str, expected: str) -> None:
    assert sniff(written(tmp_path, "f.txt", content)).formats[0] == expected


@given(st.binary(max_size=60), st.sampled_from(["csv", "tsv", "ratings", "inter", "npz"]))
def test_any_bytes_give_a_table_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(content)
    entry = DatasetEntry.model_validate({"name": "f", "title": "f", "format": kind})
    try:
        raw = read_table(path, entry)
    except DataError as error:
        assert "fuzz" in error.message
        assert "\n" not in error.message
    else:
        assert isinstance(raw, Raw)
        assert len(raw.users) == len(raw.items)


BYTES = st.one_of(
    st.binary(max_size=80),
    st.text("0123456789 \n\t,:-.ab\r", max_size=80).map(str.encode),
    st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=9).map(
        lambda rows: "\n".join(" ".join(map(str, row)) for row in rows).encode()
    ),
)


@settings(deadline=None)
@given(
    BYTES,
    st.sampled_from(["txt", "csv", "dat", "tsv", "inter", "npz"]),
    st.sampled_from(["default", "temporal", "dsl-loo", "strong"]),
)
def test_any_file_gives_interactions_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, protocol: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_bytes(content)
    try:
        loaded = data.load(str(path), protocol=protocol)
    except DataError as error:
        assert "any" in error.message
        assert "\n" not in error.message
        return
    assert loaded.train.shape == loaded.valid.shape == loaded.test.shape
    total = loaded.train + loaded.valid + loaded.test
    assert total.nnz == loaded.train.nnz + loaded.valid.nnz + loaded.test.nnz > 0
    assert loaded.digests == data.load(str(path), protocol=protocol).digests


def test_both_ways_of_reading_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(f"{u},{i},{r}\n" for u, i, r in rng.integers(0, 50, (500, 3)))
    path = written(tmp_path, "n.csv", rows)
    entry = DatasetEntry(name="n", title="n", format="csv", columns=Columns(rating=2))
    fast = read_table(path, entry)
    monkeypatch.setattr("dslbench.data.delimited._integers", lambda *_: None)
    monkeypatch.setattr("dslbench.data.delimited._CHUNK_ROWS", 64)
    slow = read_table(path, entry)
    for one, other in ((fast.users, slow.users), (fast.items, slow.items)):
        assert (one == other).all()
    assert fast.ratings is not None
    assert slow.ratings is not None
    assert (fast.ratings == slow.ratings).all()
    assert fast.user_labels is not None
    assert slow.user_labels is not None
    assert list(fast.user_labels) == list(slow.user_labels)


def test_import_of_a_description(tmp_path: Path) -> None:
    written(tmp_path, "raw.csv", "user,item,stars,timestamp\n" + ROWS)
    path = written(tmp_path, "mine.toml", 'file = "raw.csv"\nprotocol = "loo-last"\n')
    datasets.download(["stored"], False, path, False, False)
    path.unlink()
    (tmp_path / "raw.csv").unlink()
    loaded = data.load("stored")
    assert (loaded.name, loaded.protocol) == ("stored", "loo-last")
    assert pairs_of(loaded) == PAIRS


def test_a_last_line_without_newline_is_mentioned(tmp_path: Path) -> None:
    """It may be cut; for published files checksums tell, for one's own only a word can."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.txt").write_text("0 1 2 3\n1 2 3 4\n2 3 4 5")
    (folder / "test.txt").write_text("0 4\n1 5\n2 1\n")
    notes = data.load(str(folder), protocol="paper").notes
    assert any(note == "train.txt: line 3 has no newline and seems cut" for note in notes)
    (folder / "train.txt").write_text("0 1 2 3\n1 2 3 4\n2 3 4 5\n")
    assert not any("newline" in note for note in data.load(str(folder), protocol="paper").notes)
