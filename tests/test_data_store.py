from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_helpers import N_ITEMS, N_USERS, entry_text, install_catalog, write_dataset
from dslbench import data, home
from dslbench.cli import datasets
from dslbench.data import library
from dslbench.data.interactions import digest, pairs_to_csr
from dslbench.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variant = (
        entry_text("small-again")
        .replace("[expect]", 'files_of = "small"\n[expect]', 1)
        .split("[[files]]")[0]
    )
    texts = [entry_text("small"), entry_text("other", seed=1), variant]
    toy = 'name = "toy"\ntitle = "t"\nformat = "toy"\ndefault_protocol = "given"\n' + "".join(
        f'[[files]]\nname = "{role}"\nrole = "{role}"\n' for role in ("train", "test")
    )
    install_catalog(monkeypatch, tmp_path / "catalog", *texts, toy)


def bring(name: str, source: Path, **options: bool) -> None:
    flags = {"all_": False, "verify": False, "force": False, **options}
    datasets.download([name], source=source, **flags)


def test_import_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring("small", write_dataset(tmp_path / "files"))
    out = capsys.readouterr().out
    assert "small: imported from files, verified: 30 users, 25 items" in out
    assert "passed: md5, digest" in out
    assert "be kind" in out
    assert "Someone, 2020" in out
    loaded = data.load("small")
    assert (loaded.n_users, loaded.n_items) == (N_USERS, N_ITEMS)
    assert loaded.valid.nnz > 0
    assert loaded.protocol == "given"
    assert data.load("small", protocol="paper").valid.nnz == 0
    text = (library.folder("small") / "manifest.json").read_text()
    assert str(tmp_path) not in text


def test_other_order_of_items_passes_by_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring("small", write_dataset(tmp_path / "files", shuffle=True))
    assert "digest of the pairs (the bytes differ" in capsys.readouterr().out
    manifest = library.read_manifest("small")
    assert manifest is not None
    assert manifest.verified
    assert {file.checks for file in manifest.files} == {("digest",)}


def test_single_file_with_its_sibling(tmp_path: Path) -> None:
    bring("small", write_dataset(tmp_path / "files") / "train.txt")
    assert data.load("small").n_users == N_USERS


def test_single_file_without_sibling(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "files")
    (folder / "test.txt").unlink()
    with pytest.raises(DataError, match=r"no test\.txt found for 'small'"):
        bring("small", folder / "train.txt")


def make_zip(path: Path, folder: Path, prefix: str) -> Path:
    with zipfile.ZipFile(path, "w") as box:
        for file in sorted(folder.iterdir()):
            box.write(file, f"{prefix}{file.name}")
    return path


def make_tar(path: Path, folder: Path, prefix: str) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as box:
        for file in sorted(folder.iterdir()):
            box.add(file, f"{prefix}{file.name}")
    return path


@pytest.mark.parametrize("prefix", ["", "data/small/"])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_import_archive(tmp_path: Path, kind: str, prefix: str) -> None:
    folder = write_dataset(tmp_path / "files")
    make = make_zip if kind == "a.zip" else make_tar
    bring("small", make(tmp_path / kind, folder, prefix))
    assert data.load("small").n_users == N_USERS


def test_archive_with_two_data_sets_takes_the_named_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as box:
        for name, seed in (("small", 0), ("other", 1)):
            for file in write_dataset(tmp_path / name, seed).iterdir():
                box.write(file, f"{name}/{file.name}")
    bring("other", tmp_path / "both.zip")
    bring("small", tmp_path / "both.zip")


@pytest.mark.parametrize("path", ["../train.txt", "/train.txt", "a/../../train.txt"])
def test_unsafe_archive_paths(tmp_path: Path, path: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as box:
        box.writestr(path, "0 1\n")
    with pytest.raises(DataError, match="unsafe path"):
        bring("small", tmp_path / "bad.zip")
    assert not list(tmp_path.glob("train.txt"))
    assert library.read_manifest("small") is None


def test_links_in_archives(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as box:
        info = tarfile.TarInfo("train.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        box.addfile(info)
    with pytest.raises(DataError, match="link or special file"):
        bring("small", tmp_path / "bad.tar")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_archive_members_are_bounded_by_what_the_catalog_expects(
    make: Callable[[Path, Path, str], Path], tmp_path: Path
) -> None:
    """A member of 3 MB, packed into a few kB, for a data set of a few kB."""
    folder = write_dataset(tmp_path / "files")
    with (folder / "train.txt").open("ab") as file:
        file.write(b"\n" * 3_000_000)
    source = make(tmp_path / ("a.zip" if make is make_zip else "a.tar.gz"), folder, "")
    with pytest.raises(DataError, match=r"train.txt unpacks to more than 1,[\d,]+ bytes"):
        bring("small", source)
    assert not list(home.data_dir().glob("**/train.txt"))


def test_broken_archive(tmp_path: Path) -> None:
    source = make_tar(tmp_path / "a.tar.gz", write_dataset(tmp_path / "files"), "")
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError):
        bring("small", source)
    assert library.read_manifest("small") is None


def test_wrong_file_shows_both_hashes(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "files")
    text = (folder / "train.txt").read_text()
    lines = text.splitlines()
    first = lines[0].split()
    free = next(str(i) for i in range(N_ITEMS) if str(i) not in first[1:])
    lines[0] = " ".join([*first[:-1], free])
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        bring("small", folder)
    assert caught.value.exit_code == 3
    assert "md5 is" in caught.value.message
    assert "digest of the pairs is" in caught.value.message
    assert caught.value.message.count("expected") == 2
    assert "my-small" in (caught.value.hint or "")


def test_truncated_file_says_what_is_missing(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "files")
    content = (folder / "train.txt").read_bytes()
    (folder / "train.txt").write_bytes(content[: content.rindex(b" ")])
    with pytest.raises(DataError, match=r"expected \d+ pairs, found \d+; line 30 has no newline"):
        bring("small", folder)


def test_failed_import_leaves_the_good_one(tmp_path: Path) -> None:
    bring("small", write_dataset(tmp_path / "files"))
    before = {p.name: p.read_bytes() for p in library.folder("small").iterdir()}
    bad = write_dataset(tmp_path / "bad", seed=3)
    with pytest.raises(DataError):
        bring("small", bad)
    assert {p.name: p.read_bytes() for p in library.folder("small").iterdir()} == before
    assert [p.name for p in library.folder("small").parent.iterdir()] == ["small"]


def test_not_on_disk_says_what_to_type() -> None:
    with pytest.raises(DataError, match="not on this machine") as caught:
        data.load("small")
    assert caught.value.hint == "dslbench download small"


@pytest.mark.parametrize(
    "call", [data.load, lambda n: datasets.download([n], False, None, False, False)]
)
def test_unknown_name(call: object) -> None:
    with pytest.raises(UsageError, match="unknown data set 'smal'") as caught:
        call("smal")  # type: ignore[operator]
    assert caught.value.hint == "did you mean 'small'?"


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        bring("small", tmp_path / "nowhere")


def damage_file(folder: Path) -> None:
    (folder / "train.txt").write_text("0 1\n")


def damage_same_size(folder: Path) -> None:
    content = (folder / "train.txt").read_bytes()
    line, _, rest = content.partition(b"\n")
    head, *items = line.split()
    swapped = [items[0].replace(b"1", b"2") if items[0] != b"1" else b"2", *items[1:]]
    changed = b" ".join([head, *swapped]) + b"\n" + rest
    if changed == content or len(changed) != len(content):
        changed = content[:-2] + (b"1" if content[-2:-1] != b"1" else b"2") + content[-1:]
    (folder / "train.txt").write_bytes(changed)


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"version": 1')


def remove_file(folder: Path) -> None:
    (folder / "test.txt").unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_file, damage_same_size, damage_manifest, remove_file],
    ids=lambda f: f.__name__,
)
def test_damage_is_noticed_on_load(tmp_path: Path, damage: object) -> None:
    bring("small", write_dataset(tmp_path / "files"))
    damage(library.folder("small"))  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        data.load("small")
    assert caught.value.hint == "dslbench download small --force"
    with pytest.raises(DataError):
        datasets.download(["small"], False, None, True, False)
    bring("small", write_dataset(tmp_path / "files"))  # importing again mends it
    data.load("small")


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring("small", write_dataset(tmp_path / "files"))
    capsys.readouterr()
    datasets.download(["small"], False, None, True, False)
    assert "small: intact, verified" in capsys.readouterr().out
    datasets.download([], False, None, True, False)
    assert "small: intact" in capsys.readouterr().out


def test_default_is_the_most_recently_downloaded(tmp_path: Path) -> None:
    name, why = data.default_dataset()
    assert name == "toy"
    assert "no data set is downloaded" in why
    bring("small", write_dataset(tmp_path / "a"))
    bring("other", write_dataset(tmp_path / "b", seed=1))
    assert data.default_dataset()[0] == "other"
    datasets.download(["small"], False, None, False, False)  # already here
    assert data.default_dataset()[0] == "small"
    datasets.download(["small-again"], False, None, False, False)
    assert data.default_dataset() == (
        "small-again",
        "'small-again' is the data set most recently downloaded",
    )
    damage_manifest(library.folder("small"))
    assert data.default_dataset()[0] == "other"


def test_variant_uses_the_files_of_its_base(tmp_path: Path) -> None:
    bring("small-again", write_dataset(tmp_path / "files"))
    assert library.stored_names() == ["small"]
    again, small = data.load("small-again"), data.load("small")
    assert again.name == "small-again"
    assert again.digests["test"] == small.digests["test"]
    assert again.digests["valid"] != small.digests["valid"]  # seeds are keyed by name


def test_import_all_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "all" / "small")
    write_dataset(tmp_path / "all" / "other", seed=5)
    with pytest.raises(DataError, match="1 of 2 data sets failed: other"):
        datasets.download([], True, tmp_path / "all", False, False)
    assert "small: imported" in capsys.readouterr().out


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring("small", write_dataset(tmp_path / "files"))
    damage_target = write_dataset(tmp_path / "b", seed=1)
    bring("other", damage_target)
    remove_file(library.folder("other"))
    capsys.readouterr()
    datasets.list_datasets(True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["small"]["on_disk"] is True
    assert rows["small"]["verified"] is True
    assert rows["small"]["users"] == N_USERS
    assert rows["small"]["density"] == pytest.approx(
        rows["small"]["interactions"] / (N_USERS * N_ITEMS)
    )
    assert rows["other"]["verified"] is False
    assert "test.txt is missing" in rows["other"]["problem"]
    assert rows["toy"]["on_disk"] is True
    datasets.list_datasets(False)
    captured = capsys.readouterr()
    assert "DAMAGED" in captured.out
    assert "test.txt is missing" in captured.err


def test_toy_needs_no_download(capsys: pytest.CaptureFixture[str]) -> None:
    datasets.download(["toy"], False, None, False, False)
    assert "embedded" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_folder_not_writable(tmp_path: Path, own_home: Path) -> None:
    source = write_dataset(tmp_path / "files")
    own_home.mkdir()
    own_home.chmod(0o500)
    try:
        with pytest.raises(DataError, match="cannot write"):
            bring("small", source)
    finally:
        own_home.chmod(0o700)


def test_home_is_a_file(tmp_path: Path, own_home: Path) -> None:
    own_home.write_text("not a folder")
    with pytest.raises(DataError, match="cannot write in"):
        bring("small", write_dataset(tmp_path / "files"))


def test_original_ids_from_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        entry_text("small") + '[[files]]\nname = "user_list.txt"\nrole = "users"\noptional = true\n'
    )
    install_catalog(monkeypatch, tmp_path / "catalog2", text)
    folder = write_dataset(tmp_path / "files")
    bring("small", folder)  # optional: may be missing
    assert data.load("small").user_ids is None
    listed = "org_id remap_id\n" + "".join(f"u{n} {n}\n" for n in range(N_USERS))
    (folder / "user_list.txt").write_text(listed)
    bring("small", folder)
    ids = data.load("small").user_ids
    assert ids is not None
    assert ids[7] == "u7"


def test_the_real_catalog_is_sound() -> None:
    import dslbench.data as package
    from dslbench.data.entries import _read_catalog
    from dslbench.data.protocols import BASIC

    real = _read_catalog(Path(package.__file__).parent / "catalog")
    six = {"ml-1m", "citeulike", "foursquare", "gowalla", "yelp2018", "amazon-book"}
    assert six | {"toy", "ml-1m-ultragcn", "ml-1m-r3", "foursquare-20", "citeulike-a"} <= set(real)
    for name, entry in real.items():
        assert entry.default_protocol in BASIC
        assert entry.expect.users
        assert entry.expect.items
        assert entry.terms
        assert entry.citation
        if entry.generated:
            continue
        for file in entry.files:
            assert file.urls or file.archives, name
            hashes = [file.md5, file.sha256, file.git_blob, file.digest]
            assert any(hashes), (name, file.name)


def test_catalog_import_is_cheap() -> None:
    import subprocess
    import sys

    code = (
        "import sys, dslbench.data, dslbench.data.entries as e; e.catalog();"
        "heavy = {'torch', 'numba', 'scipy', 'pandas', 'pooch', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tar_is_not_taken_for_text(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as box:
        info = tarfile.TarInfo("readme")
        info.size = 2
        box.addfile(info, io.BytesIO(b"hi"))
    with pytest.raises(DataError, match=r"no train\.txt and no test\.txt found"):
        bring("small", tmp_path / "a.tar")


def test_archive_vouches_for_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = b"".join(b"%d::%d::%d::%d\n" % (u, i, 3, 99 + i) for u in (1, 3) for i in (5, 7, 9))
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as box:
        box.writestr("ml/ratings.dat", rows)
    md5 = hashlib.md5((tmp_path / "ml.zip").read_bytes()).hexdigest()
    text = (
        'name = "ml"\ntitle = "t"\nformat = "ratings"\nterms = "t"\n[[files]]\n'
        'name = "ratings.dat"\nrole = "all"\naliases = ["ratings.other.dat"]\npairs = 6\n'
        'digest = "{}"\n[[files.archives]]\nurl = "https://example.com/ml.zip"\n'
        f'member = "ml/ratings.dat"\nmd5 = "{md5}"\n'
    )
    pairs = digest(pairs_to_csr([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], (2, 3)))
    install_catalog(monkeypatch, tmp_path / "catalog3", text.format(pairs))
    bring("ml", tmp_path / "ml.zip")
    assert "passed: md5 of the archive, digest" in capsys.readouterr().out
    loaded = data.load("ml", protocol="temporal")
    assert loaded.item_ids is not None
    assert list(loaded.item_ids[loaded.test.indices]) == ["9", "9"]
    assert not any("another order" in note for note in data.load("ml", protocol="dsl-loo").notes)

    (tmp_path / "ratings.other.dat").write_bytes(
        b"".join(b"%d::%d::3\n" % (u, i) for u in (3, 1) for i in (9, 5, 7))
    )
    bring("ml", tmp_path / "ratings.other.dat")
    assert "passed: digest\n" in capsys.readouterr().out
    with pytest.raises(DataError, match="no timestamps"):
        data.load("ml", protocol="temporal")
    assert any("another order" in note for note in data.load("ml", protocol="paper").notes)
