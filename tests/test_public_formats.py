# ruff: noqa: E501
"""The table of public formats in data/README.md: what it says to write is what reads a file of each.

Each file is made up, in the format of the real one. The description of a format is taken from
data/README.md itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dslbench import data
from dslbench.errors import DataError
from own_helpers import pairs, write

PAGE = Path(__file__).parents[1] / "data" / "README.md"
CELLS = re.compile(r"^\| ([^|]+) \| `([^|]+)` \| (.*) \|$", re.MULTILINE)
TABLE = PAGE.read_text(encoding="utf-8").partition("### Public formats")[2].partition("\n### ")[0]
ROWS = {name.strip(): (file, cell) for name, file, cell in CELLS.findall(TABLE)}
NOT_READ = (
    "Netflix Prize",
    "MIND",
    "Steam (Kang, McAuley)",
)  # a command turns them into what is read


@dataclass(frozen=True)
class Format:
    """A file's name and content, and the pairs in it that count."""

    content: str
    expected: set[tuple[str, str]]
    encoding: str = "utf-8"


def lines(*rows: str) -> str:
    return "".join(row + "\n" for row in rows)


TWO = {("1", "10"), ("1", "20"), ("2", "10"), ("2", "30")}
LETTERS = {("A1", "B1"), ("A1", "B2"), ("A2", "B1"), ("A2", "B3")}
FILES = {
    "MovieLens 100K": Format(
        lines("1\t10\t3\t881250949", "1\t20\t3\t891717742", "2\t10\t1\t878887116", "2\t30\t2\t880606923"),
        TWO,
    ),
    "MovieLens 1M, 10M": Format(
        lines("1::10::5::978300760", "1::20::3::978302109", "2::10::3::978301968", "2::30::4::978300275"),
        TWO,
    ),
    "MovieLens 20M, 25M, 32M": Format(
        lines("userId,movieId,rating,timestamp", "1,10,5.0,1147880044", "1,20,3.5,1147868817",
              "2,10,5.0,1147868828", "2,30,5.0,1147878820"),
        TWO,
    ),
    "Amazon 2014, ratings only": Format(
        lines("A1,B1,5.0,1353110400", "A1,B2,4.0,1353110401", "A2,B1,1.0,1353110402", "A2,B3,5.0,1353110403"),
        LETTERS,
    ),
    "Amazon 2014, 2018, reviews": Format(
        lines(*(f'{{"reviewerID": "{u}", "asin": "{i}", "helpful": [2, 3], "reviewText": "a, \\"b\\"", "overall": 5.0,'
                f' "unixReviewTime": 125280000{n}, "reviewTime": "09 13, 2009"}}'
                for n, (u, i) in enumerate(sorted(LETTERS)))),
        LETTERS,
    ),
    "Amazon 2018, ratings only": Format(
        lines("B1,A1,5.0,1353110400", "B2,A1,4.0,1353110401", "B1,A2,1.0,1353110402", "B3,A2,5.0,1353110403"),
        LETTERS,
    ),
    "Amazon 2023": Format(
        lines("user_id,parent_asin,rating,timestamp", "A1,B1,5.0,1588687728923", "A1,B2,4.0,1588687728924",
              "A2,B1,1.0,1588687728925", "A2,B3,5.0,1588687728926"),
        LETTERS,
    ),
    "BookCrossing": Format(
        lines('"User-ID";"ISBN";"Book-Rating"', '"1";"10";"0"', '"1";"20";"5"', '"2";"10";"8"', '"2";"caf\xe9";"7"'),
        {("1", "20"), ("2", "10"), ("2", "caf\xe9")},
        "latin-1",
    ),
    "RetailRocket": Format(
        lines("timestamp,visitorid,event,itemid,transactionid", "1433221332117,1,view,10,", "1433224214164,1,view,20,",
              "1433221999827,2,transaction,10,4000", "1433221955914,2,transaction,30,4001"),
        {("2", "10"), ("2", "30")},
    ),
    "Taobao (UserBehavior)": Format(
        lines("1,10,7,pv,1511544070", "1,20,7,buy,1511561733", "2,10,7,buy,1511572885", "2,30,8,pv,1511593493"),
        {("1", "20"), ("2", "10")},
    ),
    "Yelp": Format(
        lines(*(f'{{"review_id": "r{n}", "user_id": "{u}", "business_id": "{i}", "stars": 4.0, "useful": 1,'
                f' "text": "Good\\nfood", "date": "2018-07-07 22:09:1{n}"}}'
                for n, (u, i) in enumerate(sorted(LETTERS)))),
        LETTERS,
    ),
    "Last.fm 360K": Format(
        lines('0a1\tm1\tbetty blowtorch\t2137', '0a1\tm2\t"weird al" yankovic\t1099', '0b2\tm1\tbetty blowtorch\t23',
              '0b2\t\tvoid\t19'),
        {("0a1", "m1"), ("0a1", "m2"), ("0b2", "m1")},
    ),
    "Last.fm (hetrec)": Format(
        lines("userID\tartistID\tweight", "1\t10\t13883", "1\t20\t11690", "2\t10\t11351", "2\t30\t10300"),
        TWO,
    ),
    "Steam (200K, Kaggle)": Format(
        lines("1,10,purchase,1.0,0", "1,10,play,273.0,0", "1,20,purchase,1.0,0", '2,"The Elder Scrolls, V",play,2.5,0'),
        {("1", "10"), ("2", "The Elder Scrolls, V")},
    ),
    "Steam (Kang, McAuley)": Format(
        lines(*(f"{{u'username': u'{u}', u'product_id': u'{i}', u'date': u'2017-12-0{n + 1}', u'text': u'it\\'s'}}"
                for n, (u, i) in enumerate(sorted(LETTERS)))),
        LETTERS,
    ),
    "Netflix Prize": Format(
        lines("10:", "1,3,2005-09-06", "2,5,2005-05-13", "20:", "1,4,2005-10-19", "30:", "2,4,2005-12-26"), TWO
    ),
    "Goodreads": Format(
        lines(*(f'{{"user_id": "{u}", "book_id": "{i}", "review_id": "r{n}", "isRead": true, "rating": 4,'
                f' "date_added": "Fri Jul 28 10:1{n}:00 -0700 2017", "date_updated": ""}}'
                for n, (u, i) in enumerate(sorted(LETTERS)))),
        LETTERS,
    ),
    "H&M": Format(
        lines("t_dat,customer_id,article_id,price,sales_channel_id", "2018-09-20,A1,B1,0.0508,2", "2018-09-20,A1,B2,0.0304,2",
              "2018-09-21,A2,B1,0.0152,1", "2018-09-22,A2,B3,0.0169,2"),
        LETTERS,
    ),
    "Online Retail": Format(
        lines("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
              "536365,B1,\"WHITE, HOLDER\",6,12/1/2010 8:26,2.55,A1,UK", "536366,B2,LANTERN,6,12/1/2010 8:27,3.39,A1,UK",
              "536367,B1,HEART,6,1/13/2011 8:28,2.75,A2,UK", "536368,B3,FLAG,-1,1/14/2011 8:29,3.39,A2,UK",
              "536369,B3,FLAG,2,1/14/2011 8:29,3.39,,UK"),
        LETTERS,
    ),
    "Gowalla (SNAP)": Format(
        lines("1\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t10", "1\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t20",
              "2\t2010-10-17T23:42:03Z\t30.2557309927\t-97.7633857727\t10", "2\t2010-10-17T19:26:05Z\t30.2634181234\t-97.7575966669\t30"),
        TWO,
    ),
    "Foursquare (NYC, TKY)": Format(
        lines(*(f"{u}\t{i}\t4bf58dd8d48988d127951735\tArts & Crafts Store\t40.7\t-74.0\t-240\tTue Apr 03 18:0{n}:09 +0000 2012"
                for n, (u, i) in enumerate(sorted(TWO)))),
        TWO,
    ),
    "KuaiRec": Format(
        lines("user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio",
              "1,10,4381,6067,2020-07-05 05:27:48.378,20200705,1593898068.378,0.7221",
              "1,20,11635,6100,2020-07-05 05:28:00.057,20200705,1593898080.057,1.9073",
              "2,10,22422,10867,2020-07-05 05:29:09.479,20200705,1593898149.479,2.0633",
              "2,30,4479,7908,2020-07-05 05:30:43.285,20200705,1593898243.285,2.5663"),
        {("1", "20"), ("2", "10"), ("2", "30")},
    ),
    "MIND": Format(
        lines("1\tA1\t11/11/2019 9:05:58 AM\tB7 B8\tB1-1 B9-0", "2\tA1\t11/12/2019 6:11:30 PM\tB7\tB2-1 B8-0 B1-0",
              "3\tA2\t11/14/2019 7:01:48 AM\t\tB3-1 B1-1 B2-0"),
        LETTERS,
    ),
    "RecBole atomic files": Format(
        lines("user_id:token\titem_id:token\trating:float\ttimestamp:float", "1\t10\t3.0\t881250949.0",
              "1\t20\t3.0\t891717742.0", "2\t10\t1.0\t878887116.0", "2\t30\t2.0\t880606923.0"),
        TWO,
    ),
    "LightGCN, NGCF lists": Format(lines("1 10 20", "2 10 30", "3 10"), TWO | {("3", "10")}),
}  # fmt: skip


def test_every_row_of_the_table_has_a_file() -> None:
    assert set(ROWS) == set(FILES)
    assert len(ROWS) >= 20


@pytest.mark.parametrize("name", FILES)
def test_what_the_table_says_reads_the_file(name: str, tmp_path: Path) -> None:
    file, cell = ROWS[name]
    example = FILES[name]
    path = write(tmp_path, file, example.content.encode(example.encoding))
    wanted = re.findall(r"`([^`]+)`", cell)
    toml = [part for part in wanted if not part.startswith(("awk", "python"))]
    commands = [part for part in wanted if part.startswith(("awk", "python"))]
    if name in NOT_READ:
        with pytest.raises(DataError) as caught:
            data.load(str(path))
        assert caught.value.hint
        (command,) = commands
        command = re.sub("^python", sys.executable, command)
        subprocess.run(command.replace("\\|", "|"), shell=True, cwd=tmp_path, check=True)
        path = tmp_path / command.split()[-1]
    if toml:
        text = "\n".join(part.replace("; ", "\n") for part in toml)
        path.with_name(path.name.split(".")[0] + ".toml").write_text(text + "\n")
    assert pairs(path) == example.expected
