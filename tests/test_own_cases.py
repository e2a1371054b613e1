"""Files of the kinds people bring: each is read as what it is, or refused with the way out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from dslbench import data, paths
from dslbench.cli import datasets
from dslbench.errors import DataError, UsageError
from own_helpers import counts, grid, pairs, statement, write


def refusal(path: Path | str) -> DataError:
    with pytest.raises(DataError) as caught:
        data.load(str(path))
    assert "\n" not in caught.value.message
    assert caught.value.hint, "a refusal says what to type or write next"
    assert "\n" not in caught.value.hint
    return caught.value


AMAZON = "".join(
    f"{user},{item},{stars}.0,{1_000_000_000 + at}\n"
    for at, (user, item, stars) in enumerate(
        [
            ("A1", "B00AAA", 5), ("A1", "0000000078", 4), ("A1", "0000000079", 4),
            ("A2", "B00AAA", 5), ("A2", "0000000078", 5), ("A2", "0000000079", 5),
        ],
        start=1,
    )
)  # fmt: skip


def test_no_first_row_is_lost(tmp_path: Path) -> None:
    path = write(tmp_path, "ratings_Books.csv", AMAZON)
    assert counts(path) == (2, 3, 6)
    assert "timestamp = column 3" in statement(path)
    write(
        tmp_path,
        "ratings_Books.toml",
        "[columns]\nuser = 0\nitem = 1\nrating = 2\ntimestamp = 3\n",
    )
    assert counts(path) == (2, 3, 6)


def test_a_first_row_of_text_above_numbers_is_doubtful(tmp_path: Path) -> None:
    rows = "A1,B00AAA\nA2,0000000078\nA3,0000000079\n"
    error = refusal(write(tmp_path, "d.csv", rows))
    assert "line 1" in error.message
    assert "header = true, or header = false" in str(error.hint)
    write(tmp_path, "d.toml", "header = false\n")
    assert counts(tmp_path / "d.csv") == (3, 3, 3)


def test_positions_above_a_header_are_doubtful(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", "userId,movieId\n1,2\n1,3\n2,2\n")
    write(tmp_path, "d.toml", "[columns]\nuser = 0\nitem = 1\n")
    assert "looks like a header" in refusal(path).message
    write(tmp_path, "d.toml", "header = true\n[columns]\nuser = 0\nitem = 1\n")
    assert counts(path) == (2, 2, 3)


def test_a_dense_matrix_is_no_rating_list(tmp_path: Path) -> None:
    rows = "4,1.5,99,-2.0,3.5,99,0.5\n4,99,4.5,1.0,99,2.5,3.0\n4,2.0,2.5,99,99,-1.0,5.5\n"
    error = refusal(write(tmp_path, "jester.csv", rows))
    assert "7 columns without a header; which are the user and the item?" in error.message


SONGS = [f"Song {n}" for n in range(8)]


def plays(stray: str, at: tuple[int, ...]) -> str:
    rows = [f"{user},{song}" for user in "abc" for song in SONGS]
    return "user,item\n" + "\n".join(
        f"{r[0]},{stray}" if n in at else r for n, r in enumerate(rows)
    )


def test_stray_quotes_swallow_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "plays.csv", plays('"Heroes', (5, 20)))
    error = refusal(path)
    assert error.message == "plays.csv, line 7: a quote that is not closed in its line"
    write(tmp_path, "plays.toml", "quotes = false\n")
    assert counts(path) == (3, 9, 24)


def test_quotes_over_lines_are_refused(tmp_path: Path) -> None:
    rows = 'user,item,text\na,w,"good\nvery good"\na,x,fine\n'
    assert "line 2" in refusal(write(tmp_path, "d.csv", rows)).message


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_quotes_of_rfc_4180(tmp_path: Path, mark: str) -> None:
    rows = f'"user"{mark}"item"\n"a"{mark}"x {mark} ""y"""\na{mark}z\n"b"{mark}"z"\n'
    path = write(tmp_path, "d.csv", rows)
    assert pairs(path) == {("a", f'x {mark} "y"'), ("a", "z"), ("b", "z")}


def test_rows_of_other_lengths_are_refused(tmp_path: Path) -> None:
    rows = grid() + "c,v,1\n" + "a,b\n"
    assert "line 14: 3 columns, expected 2" in refusal(write(tmp_path, "d.csv", rows)).message


def test_an_empty_last_column(tmp_path: Path) -> None:
    rows = "timestamp,visitorid,event,itemid,transactionid\n" + "".join(
        f"14332212{u}{i}000,{u},{'transaction' if i == 3 else 'view'},{i},{'7' if i == 3 else ''}\n"
        for u in (1, 2, 3)
        for i in (1, 2, 3, 4)
    )
    path = write(tmp_path, "events.csv", rows)
    assert counts(path) == (3, 4, 12)
    assert "'event' is not used, all its kinds count alike: 'view' 9, 'transaction' 3" in statement(
        path
    )
    columns = '[columns]\nuser = "visitorid"\nitem = "itemid"\ntimestamp = "timestamp"\n'
    write(tmp_path, "events.toml", columns)
    assert counts(path) == (3, 4, 12)
    write(tmp_path, "events.toml", 'where = { event = ["transaction"] }\n' + columns)
    assert counts(path) == (3, 1, 3)
    assert "9 left out (where 'event' is not transaction)" in statement(path)
    trailing = write(tmp_path, "trailing.csv", grid().replace("\n", ",\n"))
    assert counts(trailing) == (3, 4, 12)


def test_pairs_are_no_lists_of_items(tmp_path: Path) -> None:
    sizes = (250, 40, 20)
    rows = "".join(f"{u}\t{i}\n" for u, n in enumerate(sizes, 1) for i in range(1, n + 1))
    assert counts(write(tmp_path, "by_user.txt", rows)) == (3, 250, 310)
    rows = "".join(f"{n % 250 + 1}\t{n % 7 + 1 + n // 250 * 7}\n" for n in range(500))
    assert counts(write(tmp_path, "by_time.txt", rows)) == (250, 14, 500)


def test_lists_of_one_length_are_doubtful(tmp_path: Path) -> None:
    path = write(tmp_path, "d.txt", "1 5 7\n2 5 8\n3 6 7\n")
    error = refusal(path)
    assert 'format = "adjacency"' in str(error.hint)
    write(tmp_path, "d.toml", 'format = "adjacency"\n')
    assert counts(path) == (3, 4, 6)


def test_separators_are_not_guessed_wrong(tmp_path: Path) -> None:
    names = ["Smith, Jo", "Smith, Al", "Smith, Kim", "Lee, Jo", "Lee, Al", "Lee, Kim"]
    rows = "".join(f"{user}\t{name}\n" for user in "abc" for name in names)
    assert counts(write(tmp_path, "authors.txt", rows)) == (3, 6, 18)
    rows = "".join(f"{u}\t{i} {(u + i) % 5 + 1}\n" for u in (1, 2, 3) for i in (1, 2, 3, 4))
    assert counts(write(tmp_path, "mixed.dat", rows)) == (3, 4, 12)
    error = refusal(write(tmp_path, "two.csv", "1;2,5;3\n1;3,5;4\n2;2,5;4\n"))
    assert "separator = " in str(error.hint)


CLICKS = "user_id,item_id,click,timestamp\n" + "".join(
    f"{u},{i},{int(i > 4)},{1_500_000_000 + i}\n" for u in (1, 2, 3) for i in range(1, 9)
)


def test_not_clicked_is_no_interaction(tmp_path: Path) -> None:
    path = write(tmp_path, "impressions.csv", CLICKS)
    error = refusal(path)
    assert "'click' holds '0' 12, '1' 12" in error.message
    write(tmp_path, "impressions.toml", "where = { click = 1 }\n")
    assert counts(path) == (3, 4, 12)
    write(tmp_path, "impressions.toml", "where = {}\n")
    assert counts(path) == (3, 8, 24)
    other = write(tmp_path, "weekend.csv", CLICKS.replace("click", "weekend"))
    assert "'weekend' is not used, rows of both its values count" in statement(other)


@pytest.mark.parametrize("no", ["0", "-1"])
def test_ratings_that_mean_no(tmp_path: Path, no: str) -> None:
    rows = f"user,item,rating\n1,1,{no}\n1,2,7\n2,1,8\n2,2,{no}\n"
    path = write(tmp_path, "d.csv", rows)
    error = refusal(path)
    assert "line 2" in error.message
    assert "min_rating = 7" in str(error.hint)
    write(tmp_path, "d.toml", "[filters]\nmin_rating = 7\n")
    assert counts(path) == (2, 2, 2)
    write(tmp_path, "d.toml", f"min_rating = {no}\n")
    assert counts(path) == (2, 2, 4)


def test_scores_of_impressions(tmp_path: Path) -> None:
    rows = "user,item,score\n1,1,0.91\n1,2,0.03\n2,1,0.5\n"
    assert "shares from 0.03 to 0.91" in refusal(write(tmp_path, "d.csv", rows)).message


def test_ids_of_test_that_never_occur_in_train(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    write(shop, "train.csv", grid("123", "1234"))
    write(shop, "test.csv", "user,item\n" + "".join(f"{u}.0,{i}.0\n" for u in "123" for i in "12"))
    error = refusal(shop)
    assert "no test user occurs in train.csv (here '1.0', there '1')" in error.message
    assert "'.0'" in str(error.hint)
    headless = tmp_path / "headless"
    write(headless, "train.csv", "item_id,user_id\n11,1\n12,1\n11,2\n12,2\n")
    write(headless, "test.csv", "1,12\n2,11\n")
    assert "is no header, where train.csv has one" in refusal(headless).message
    write(headless, "train.csv", "11,1\n12,1\n11,2\n12,2\n")
    write(headless, "test.csv", "user_id,item_id\n1,12\n2,11\n")
    assert "a header" in refusal(headless).message


def test_columns_of_a_folder_may_stand_in_another_order(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", grid())
    write(tmp_path, "test.csv", "item,user\nv,a\nw,b\nv,c\nx,a\ny,b\nz,c\n")
    assert ("a", "v") in pairs(tmp_path)
    write(tmp_path, "test.csv", "user,song\nv,a\nw,b\n")
    assert "other columns" in refusal(tmp_path).message


def test_ids_win_over_names(tmp_path: Path) -> None:
    rows = "user_id,user,item_id,item\n" + "".join(
        f"{u},{'Kim' if u < 4 else 'Lee'},{i},{('Hits', 'Hits', 'Best of', 'Live')[i - 1]}\n"
        for u in range(1, 7)
        for i in range(1, 5)
    )
    path = write(tmp_path, "e.csv", rows)
    assert counts(path) == (6, 4, 24)
    assert "user = 'user_id' (column 0, by its name)" in statement(path)
    assert "not used: user, item" in statement(path)


@pytest.mark.parametrize("none", ["\\N", "NULL", "NaN", "", "None", "N/A"])
def test_null_is_no_user(tmp_path: Path, none: str) -> None:
    rows = grid("1234").replace("1,", f"{none},")
    path = write(tmp_path, "e.csv", rows)
    error = refusal(path)
    assert "line 2: no user" in error.message
    assert "in 4 of 16 rows" in error.message
    write(tmp_path, "e.toml", 'missing = "drop"\n')
    assert counts(path) == (3, 4, 12)
    assert "4 left out (no user)" in statement(path)


def test_one_id_written_two_ways(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, "d.csv", "user,item\n1,5\n1.0,6\n2,5\n"))
    assert "'1.0' and '1' are both ids" in error.message
    assert pairs(write(tmp_path, "q.csv", 'user,item\n"1",5\n1,6\n01,6\n')) == {
        ("1", "5"), ("1", "6"), ("01", "6")
    }  # fmt: skip
    error = refusal(write(tmp_path, "x.csv", "user,item\n1.2E+11,5\n3,6\n"))
    assert "shortened" in error.message
    assert (
        "10,000 characters"
        in refusal(write(tmp_path, "l.csv", f"user,item\n{'x' * 10_000},5\nb,6\n")).message
    )


ORDERS = "user,item\n" + "".join(f"{u},{i}\n" for u in range(1, 9) for i in range(1, 13))


def test_content_is_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path, "orders.csv", ORDERS)
    others = [
        write(tmp_path, "orders_copy.csv", ORDERS),
        write(tmp_path / "deep" / "er", "orders.csv", ORDERS),
        write(tmp_path, "packed.csv.gz", gzip.compress(ORDERS.encode())),
    ]
    link = tmp_path / "link.csv"
    link.symlink_to(first)
    expected = data.load(str(first))
    for path in (*others, link):
        assert data.load(str(path)).digests == expected.digests
    monkeypatch.chdir(tmp_path)
    assert data.load("orders.csv").digests == expected.digests
    for protocol in ("strong", "loo-random-99"):
        found = [data.load(str(path), protocol=protocol) for path in (first, others[0])] if (
            protocol != "strong"
        ) else []  # fmt: skip
        if found:
            assert found[0].digests == found[1].digests
            assert (found[0].negatives == found[1].negatives).all()
    changed = write(tmp_path, "more.csv", ORDERS.replace("8,12", "9,12"))
    assert data.load(str(changed)).digests["content"] != expected.digests["content"]


def test_packed_files(tmp_path: Path) -> None:
    content = grid().encode()
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as file:
        file.writestr("__MACOSX/._ratings.csv", "x")
        file.writestr("ratings.csv", content)
    for name, packed in (
        ("a.csv.gz", gzip.compress(content)), ("a.csv.bz2", bz2.compress(content)),
        ("a.csv.xz", lzma.compress(content)), ("a.zip", box.getvalue()),
        ("a.csv", gzip.compress(content)),  # whatever it is called
    ):  # fmt: skip
        path = write(tmp_path, name, packed)
        assert counts(path) == (3, 4, 12)
        assert "unpacked from" in statement(path)


def test_packed_files_that_are_wrong(tmp_path: Path) -> None:
    content = grid().encode()
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as file:
        file.writestr("a.csv", content)
        file.writestr("b.csv", content)
    assert (
        "2 files, not one: a.csv, b.csv"
        in refusal(write(tmp_path, "two.zip", box.getvalue())).message
    )
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as file:
        file.writestr("../a.csv", content)
    with pytest.raises(DataError, match="unsafe path"):
        data.load(str(write(tmp_path, "evil.zip", box.getvalue())))
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as file:
        file.writestr("xl/workbook.xml", "<x/>")
    assert "save the sheet as csv" in str(refusal(write(tmp_path, "a.xlsx", box.getvalue())).hint)
    for name, packed in (
        ("none.csv.gz", b""), ("void.csv.gz", gzip.compress(b"")),
        ("cut.csv.gz", gzip.compress(content)[:-9]), ("zstd.csv.zst", b"\x28\xb5\x2f\xfd junk"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=name.partition(".")[0]):
            data.load(str(write(tmp_path, name, packed)))


def test_encodings(tmp_path: Path) -> None:
    text = grid(items="éxyz")
    for name, encoding in (("u8.csv", "utf-8-sig"), ("u16.csv", "utf-16"), ("mac.csv", "utf-8")):
        content = text.encode(encoding)
        if name == "mac.csv":
            content = content.replace(b"\n", b"\r")
        path = write(tmp_path, name, content)
        assert counts(path) == (3, 4, 12)
        assert ("a", "é") in pairs(path)
    path = write(tmp_path, "latin1.csv", text.encode("latin-1"))
    error = refusal(path)
    assert "line 2: not UTF-8 text" in error.message
    assert 'encoding = "latin-1"' in str(error.hint)
    write(tmp_path, "latin1.toml", 'encoding = "latin-1"\n')
    assert ("a", "é") in pairs(path)
    assert "utf-16-le" in str(refusal(write(tmp_path, "n.csv", text.encode("utf-16-le"))).hint)
    write(tmp_path, "latin1.toml", 'encoding = "klingon"\n')
    assert "unknown encoding" in refusal(path).message


def test_json(tmp_path: Path) -> None:
    rows = [{"reviewerID": u, "asin": i, "overall": 5.0} for u in "abc" for i in "wxyz"]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in (("r.json", lines), ("r.txt", lines), ("l.json", json.dumps(rows))):
        assert counts(write(tmp_path, name, content)) == (3, 4, 12)
    python = "".join(f"{row}\n" for row in rows)
    assert "ast.literal_eval" in str(refusal(write(tmp_path, "p.json", python)).hint)
    with pytest.raises(DataError, match=r"c\.json, line 12: not JSON \(cut\?\)"):
        data.load(str(write(tmp_path, "c.json", lines[:-20])))


@pytest.mark.parametrize("mark", [";", "\t", "|", "::", ","])
def test_any_separator_in_any_file(tmp_path: Path, mark: str) -> None:
    for name in ("a.csv", "a.tsv", "a.txt", "a.dat", "a"):
        assert counts(write(tmp_path, name, grid(mark=mark))) == (3, 4, 12)


def test_times(tmp_path: Path) -> None:
    def times(*values: str, head: str = "user,item,date\n", toml: str = "") -> list[str]:
        rows = "".join(f"a,{i},{value}\n" for i, value in zip("wxyz", values, strict=False))
        path = write(tmp_path, "t.csv", head + rows)
        write(tmp_path, "t.toml", toml)
        loaded = data.load(str(path), protocol="loo-last")
        assert loaded.item_ids is not None
        return [str(i) for i in loaded.item_ids[loaded.test.indices]]

    assert times("2020-01-02", "2021-01-01", "2019-01-01") == ["x"]
    assert times("2020-01-01T10:00:00+02:00", "2020-01-01T09:00:00Z", "2019-01-01T00:00:00Z") == [
        "x"
    ]
    for parts in (1, 10**3, 10**6, 10**9):
        assert times(*(str(s * parts) for s in (1_500_000_001, 1_500_000_003, 1_500_000_002))) == [
            "x"
        ]
    us = ("12/1/2010 8:26", "1/13/2011 8:26", "11/1/2010 8:26")
    with pytest.raises(DataError, match="in no known order") as caught:
        times(*us)
    assert 'time_format = "%m/%d/%Y %H:%M"' in str(caught.value.hint)
    assert times(*us, toml='time_format = "%m/%d/%Y %H:%M"\n') == ["x"]
    with pytest.raises(DataError, match=r"another unit|no time as the others"):
        times("1500000001", "1500000002000", "1500000003", head="user,item,timestamp\n")
    with pytest.raises(DataError, match="time zone"):
        times("2020-01-01T10:00:00Z", "2020-01-01T10:00:00", "2020-01-01T10:00:00")
    with pytest.raises(DataError, match="no timestamps"):  # minutes, hours, anything but a time
        times("3", "12", "7", head="user,item,time\n")


def test_two_times_are_a_choice(tmp_path: Path) -> None:
    rows = "user,item,date,time\n" + "".join(
        f"a,{i},2020-01-0{n},2020-01-0{n} 10:00:00\n" for n, i in enumerate("wxyz", 1)
    )
    error = refusal(write(tmp_path, "d.csv", rows))
    assert "which column is the timestamp, 'time' or 'date'" in error.message or (
        "'date' or 'time'" in error.message
    )
    assert '[columns] user = "user", item = "item", timestamp = ' in str(error.hint)


def test_a_header_in_the_middle(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, "d.csv", grid() + grid("de")))
    assert "line 14: the header stands here again" in error.message


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev", "eval", "d.valid", "my_val"])
def test_validation_files(tmp_path: Path, name: str) -> None:
    write(tmp_path, "train.csv", grid())
    write(tmp_path, f"{name}.csv", "user,item\na,v\nb,w\nc,w\na,x\nb,y\n")
    write(tmp_path, "test.csv", "user,item\nb,v\nb,x\nc,x\na,y\n")
    assert data.load(str(tmp_path)).valid.nnz == 1


def test_a_file_that_could_be_a_part(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", grid())
    write(tmp_path, "test.csv", "user,item\nb,v\nb,x\nc,x\na,y\n")
    write(tmp_path, "README.md", "about")
    write(tmp_path, "items.csv", "item,title,year\nw,Heroes,1977\nx,Low,1977\n")
    assert "not used: items.csv" in statement(tmp_path)
    write(tmp_path, "holdout.csv", "user,item\nb,u\n")
    error = refusal(tmp_path)
    assert "holdout.csv looks like train.csv but is not used" in error.message
    assert 'valid = "holdout.csv"' in str(error.hint)


def test_descriptions_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", grid())
    write(tmp_path, "d.toml", '[columns]\nuser = "who"\nitem = "item"\n')
    with pytest.raises(DataError, match="no column 'who' among user, item"):
        data.load(str(path))
    write(tmp_path, "d.toml", 'where = { event = "buy" }\n')
    with pytest.raises(DataError, match="no column 'event' among user, item"):
        data.load(str(path))
    write(tmp_path, "d.toml", 'where = { item = "buy" }\n')
    with pytest.raises(DataError, match="where leaves no row"):
        data.load(str(path))
    write(tmp_path, "d.toml", 'separator = "ab"\n')
    with pytest.raises(DataError, match="separator"):
        data.load(str(path))
    write(tmp_path, "d.toml", "header = false\n")
    assert "line 1: a header, where the file is read as one without" in refusal(path).message


ISO = "2014-04-07T10:5"


@pytest.mark.parametrize(
    ("name", "content", "toml", "words"),
    [
        ("d.csv", "stars,who,track\n1,a,w\n2,b,x\n", '[columns]\nitem = "track"', "which column is the user"),
        ("d.csv", "user,item\na,w\n", '[columns]\nuser = "user"\nitem = "user"', "for user and item"),
        ("d.csv", "1,2,3\n4,5,6\n", "header = false\n[columns]\nuser = 1", "which column is the user alone"),
        ("d.csv", "1,2,3\n4,5,6\n", "header = false\n[columns]\nrating = 0", "takes column 0 for user and"),
        ("d.csv", 'user,item\n1,"19,20,21"\n2,"19,20"\n', "", "one row is many interactions"),
        ("d.csv", "a,2024-03-01\nb,2024-03-02\n", "", "column 1 of two holds times"),
        ("d.csv", f"1,{ISO}0,21\n1,{ISO}1,22\n2,{ISO}2,21\n", "", "column 1 holds times"),
        ("d.csv", "1433221211000,1,30\n1433221211000,1,31\n1433221212000,2,30\n", "", "column 0 holds t"),
        ("d.csv", "".join(f"{k},{k % 3},{100 + k}\n" for k in range(9)), "", "column 0 counts the rows"),
        ("d.csv", "user,item\na,w\n\ufeffuser,item\nd,w\n", "", "line 3: the header stands here again"),
        ("d.csv", 'user,item\na,w\n"User", item\nd,w\n', "", "line 3: the header stands here again"),
        ("d.csv", "user,item\n----,----\na,w\n", "", "line 2: a line that is drawn"),
        ("d.csv", "user,item\na,w\n\ufeffd,w\n", "", "mark of byte order"),
        ("d.csv", "user_id;item_id\n1,23450E+11;0\n1,23450E+11;1\n", "", "a spreadsheet has shortened"),
        ("d.csv", "ann,std::vector\nann,std::map\nbob,std::vector\n", "", "'::' or by commas"),
        ("d.txt", "ann,std::vector\nann,std::map\nbob,std::vector\n", "", "'::' or by commas"),
        ("d.csv", "user_id,item_id,click\n1,1,0\n1,2,1\n1,3,\n2,1,0\n", "", "do rows of all of them count"),
        ("d.csv", "user_id,item_id,like\n1,1,0\n1,2,1\n1,3,-1\n2,1,0\n", "", "do rows of all of them count"),
        ("d.csv", 'user_id,item_id\n1,"[10, 20]"\n2,"[10, 40]"\n', "", "one row is many interactions"),
        ("d.txt", "001 010 20 30\n002 10 40\n003 20 010\n", "", "leading zeros"),
        ("d.txt", "1 10 20 30\n2 10 40\n3 20 30 40 50\n", "min_rating = 4", "min_rating in d.toml"),
        ("d.txt", "1 10 20 30\n2 10 40\n3 20 30 40 50\n", "where = { x = 1 }", "where in d.toml"),
        ("d.csv", "user,item,date\na,w,2020-01-01\na,x,\nb,w,2020-01-02\n", "", "line 3: no timestamp"),
        ("d.csv", "user,item\na,w,\nb,x,\n", "", "line 1: 2 columns, expected 3"),
    ],
)  # fmt: skip
def test_what_could_be_read_two_ways_is_refused(
    tmp_path: Path, name: str, content: str, toml: str, words: str
) -> None:
    path = write(tmp_path, name, content)
    if toml:
        write(tmp_path, "d.toml", toml)
    assert words in refusal(path).message


USERS = [2018000013 + 7 * u for u in range(60)]
PLAIN = {
    "big ids": (
        "d.csv",
        "".join(f"{u},{i},{1 + (u + i) % 5}\n" for u in USERS for i in range(8)),
        480,
    ),
    "melted by item": (
        "d.csv",
        "".join(f"{u},{i},4\n" for i in range(9) for u in range(1, 300)),
        2691,
    ),
    "names in brackets": ("d.csv", "user,item\na,[REC]\na,[Untitled]\nb,x\nb,[REC]\n", 4),
    "colons after a tab": (
        "d.txt",
        "".join(f"u{u}\tns::c{i}\n" for u in range(5) for i in range(6)),
        30,
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_what_looks_odd_but_is_plain_is_read(tmp_path: Path, case: str) -> None:
    name, content, pairs_in_it = PLAIN[case]
    assert counts(write(tmp_path, name, content))[2] == pairs_in_it


def test_rows_that_may_say_no_are_mentioned(tmp_path: Path) -> None:
    rows = [
        f"u{k % 5},i{k},{('ok', 'cancelled')[k % 4 == 3]},{(1, 2, -1)[k % 3]},-7.5"
        for k in range(20)
    ]
    path = write(tmp_path, "d.csv", "user,item,status,quantity,lat\n" + "\n".join(rows) + "\n")
    said = statement(path)
    assert "'status' is not used, rows of both its values count: 'ok' 15, 'cancelled' 5" in said
    assert "'quantity' is not used, and its 6 rows below 0 count, too" in said
    assert "'lat'" not in said.partition("attention")[2]


def test_hints_can_be_pasted(tmp_path: Path) -> None:
    rows = "".join(f"u{k % 4},i{k},{('0', '👍')[k % 2]}\n" for k in range(12))
    path = write(tmp_path, "d.csv", "user,item,click\n" + rows)
    hint = str(refusal(path).hint)
    write(tmp_path, "d.toml", hint.partition("d.toml: ")[2].partition(";")[0])
    assert counts(path) == (2, 6, 6)
    days = write(tmp_path, "e.csv", "user,item,date\na,w,01/03/2024\nb,w,28/03/2024\n")
    assert 'time_format = "%d/%m/%Y"' in str(refusal(days).hint)
    matrix = write(
        tmp_path,
        "m.csv",
        "user," + ",".join(f"item{k}" for k in range(9)) + "\na" + ",1" * 9 + "\n",
    )
    assert "melt" in str(refusal(matrix).hint)


def test_columns_that_are_not_described_are_found_by_name(tmp_path: Path) -> None:
    rows = "".join(f"5,{u},{i},2020-01-0{k}\n" for u in "abc" for k, i in enumerate("wxyz", 1))
    path = write(tmp_path, "d.csv", "stars,user_id,track,when\n" + rows)
    write(tmp_path, "d.toml", '[columns]\nitem = "track"\ntimestamp = "when"\n')
    assert counts(path) == (3, 4, 12) and ("a", "w") in pairs(path)


def test_a_matrix_has_ratings_as_a_table_has(tmp_path: Path) -> None:
    values = np.arange(40).reshape(8, 5) % 5 + 1
    sparse.save_npz(tmp_path / "m.npz", sparse.csr_matrix(values))
    assert counts(tmp_path / "m.npz") == (8, 5, 40)
    write(tmp_path, "m.toml", "min_rating = 4\n")
    assert counts(tmp_path / "m.npz") == (8, 2, 16)
    (tmp_path / "m.toml").unlink()
    for shift, words in ((-3, "rating -2 (the matrix)"), (0.0, "holds shares from 0.1 to 0.5")):
        other = values + shift if shift else values / 10
        sparse.save_npz(tmp_path / "m.npz", sparse.csr_matrix(other))
        assert words in refusal(tmp_path / "m.npz").message
    write(tmp_path, "m.toml", "header = true\n")
    assert "header in m.toml says nothing" in refusal(tmp_path / "m.npz").message


def test_ids_of_a_parquet_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    path, frame = write(tmp_path, "m.parquet", b"PAR1"), pd.DataFrame()
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(pd, "read_parquet", lambda _, **given: (asked.append(given), frame)[1])
    items = [1, 2, 3, 4]
    users = pd.array([2**60 + 1, 2**60 + 2, None, 2**60 + 3], dtype="Int64")
    frame = pd.DataFrame({"user": users, "item": items})
    write(tmp_path, "m.toml", 'missing = "drop"\n')
    assert counts(path) == (3, 3, 3)  # floats could not tell these users apart
    assert asked[-1] == {"dtype_backend": "numpy_nullable"}
    frame = pd.DataFrame({"user": [b"a", b"b", b"a", b"c"], "item": items})
    assert ("a", "1") in pairs(path)
    for item in ([[1, 2], [3], [1], [2]], [{"id": 1}] * 4):
        frame = pd.DataFrame({"user": items, "item": item})
        assert "one row is many interactions" in refusal(path).message
    frame = pd.DataFrame(
        {"user": items, "item": items, "timestamp": [1.6e18, 1.7e18, 1.6e18, 1.6e18]}
    )
    assert counts(path) == (4, 4, 4)  # nanoseconds need not be exact
    frame = pd.DataFrame({"user": [2.0**60, 1.0, 2.0, 3.0], "item": items})
    assert "floats beyond 2^53" in refusal(path).message


@pytest.mark.parametrize(
    ("name", "content", "toml", "words"),
    [
        ("d.csv", "user,item\na,w\n", "[columns]\nitem = -1", "-1 is no position: they begin at 0"),
        ("d.json", '{"user": ' + "1" * 5000 + ', "item": 1}\n', "", "line 1: not JSON"),
    ],
    ids=["a position below 0", "a number of 5,000 digits"],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    tmp_path: Path, name: str, content: str, toml: str, words: str
) -> None:
    path = write(tmp_path, name, content)
    if toml:
        write(tmp_path, "d.toml", toml)
    with pytest.raises(DataError, match=words):
        data.load(str(path))


def test_parquet_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    def fake(path: Path, **_: str) -> pd.DataFrame:
        start = 0 if "0000" in Path(path).name else 2
        users = [float(u) for u in range(start, start + 2) for _ in range(5)]
        return pd.DataFrame({"user_id": users, "item_id": [*range(5), *range(5)], "extra": "x"})

    monkeypatch.setattr(pd, "read_parquet", fake)
    for shard in ("part-0000.parquet", "part-0001.parquet"):
        write(tmp_path / "shop", shard, b"PAR1")
    write(tmp_path / "shop", "_SUCCESS", "")  # as Spark says that all are there
    assert counts(tmp_path / "shop") == (4, 5, 20)
    assert ("0", "4") in pairs(tmp_path / "shop")
    datasets.download(["mine"], False, tmp_path / "shop", False, False)
    assert counts("mine") == (4, 5, 20)


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dslbench.cli import download

    path = write(tmp_path, "d.csv", grid(head="user,item\n"))
    download.download(inspect=path)
    out = capsys.readouterr().out
    for words in (
        "d.csv: read as text, one interaction a line, UTF-8", "divided by commas", "line 1 is a header",
        "user = 'user' (column 0, by its name)", "12 rows read; none left out",
        "first pair: user 'a', item 'w'", "d: 3 users, 4 items, 12 pairs",
    ):  # fmt: skip
        assert words in out
    assert not list(Path(os.environ["DSLBENCH_HOME"]).glob("data/*"))
    with pytest.raises(UsageError, match="goes alone"):
        download.download(names=["x"], inspect=path)


def test_an_import_says_what_was_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "d.csv", grid())
    datasets.download(["mine"], False, path, False, False)
    assert "user = 'user' (column 0" in capsys.readouterr().out
    notes = data.load("mine").notes
    assert any(
        note.startswith("d.csv: text, one interaction a line; user 'user'") for note in notes
    )


def test_a_file_that_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "d.csv", grid())
    read = paths.read_bytes

    def growing(where: Path) -> bytes:
        content = read(where)
        if where == path:
            with where.open("ab") as file:
                file.write(b"d,w\n")
        return content

    monkeypatch.setattr(paths, "read_bytes", growing)
    assert "changed while it was read" in refusal(path).message


@pytest.mark.parametrize(
    ("name", "content", "words", "way_out"),
    [
        ("m.csv", "5,3,0,1\n4,0,0,1\n1,1,0,5\n1,0,0,4\n", "what column 3 is", "[columns] user = 0"),
        ("s.txt", "u1 The Who\nu1 The The\nu2 The Who\n", "what column 2 is", "[columns] user = 0"),
        ("r.csv", 'user,item\n"1",a,x\n"2",a,y\n', "line 1: 2 columns, expected 3", "row names"),
        ("e.csv", "sep=;\n" + grid(mark=";"), "a note for Excel", "tail -n +2"),
        ("d.csv", "user,item,date\na,x,20180101\nb,x,20180102\n", "'20180101'", "%Y%m%d"),
        ("c.csv", "user;item;rating\na;x;1,5\nb;x;2,5\n", "is the comma a decimal", "without a rating"),
        ("n.json", '{"user": {"id": 1}, "item": "x"}\n', "'user' holds no id", "jq -c"),
        ("w.csv", "<html><body>no</body></html>\n", "markup", "refused"),
        ("k.txt", "# from to\n1\t2\n1\t3\n2\t3\n", "a comment", "grep -v"),
        ("b.csv", "B000000001,A123456789\nB000000002,A123456789\n", "Amazon's items", "item = 0"),
        ("o.csv", "user,item\n", "no rows below it", "cut"),
    ],
)  # fmt: skip
def test_kinds_that_are_known_and_refused(
    tmp_path: Path, name: str, content: str, words: str, way_out: str
) -> None:
    error = refusal(write(tmp_path, name, content))
    assert words in error.message
    assert way_out in str(error.hint)


def test_words_on_what_may_mean_no(tmp_path: Path) -> None:
    rows = "".join(f"{u},{i},0\n" for u in "123" for i in "4567")
    assert "is 0 in every row" in statement(write(tmp_path, "a.csv", "user,item,click\n" + rows))
    assert "user '-1' is an id" in statement(write(tmp_path, "b.csv", "user,item\n-1,2\n3,4\n"))
