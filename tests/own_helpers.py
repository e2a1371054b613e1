"""Files of the kinds that people bring, written anew, and what is read from them."""

from __future__ import annotations

from pathlib import Path

from dslbench import data
from dslbench.data.interactions import Interactions


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def counts(path: Path | str) -> tuple[int, int, int]:
    """Users, items, pairs."""
    loaded = data.load(str(path))
    parts = (loaded.train, loaded.valid, loaded.test)
    return loaded.n_users, loaded.n_items, sum(part.nnz for part in parts)


def pairs_of(loaded: Interactions) -> set[tuple[str, str]]:
    """All pairs under their original ids."""
    everything = (loaded.train + loaded.valid + loaded.test).tocoo()
    users = everything.row if loaded.user_ids is None else loaded.user_ids[everything.row]
    items = everything.col if loaded.item_ids is None else loaded.item_ids[everything.col]
    return {(str(u), str(i)) for u, i in zip(users, items, strict=True)}


def pairs(path: Path | str) -> set[tuple[str, str]]:
    return pairs_of(data.load(str(path)))


def statement(path: Path | str) -> str:
    """All that an import says."""
    return "\n".join(data.load(str(path)).source["statement"])


def grid(
    users: str = "abc", items: str = "wxyz", mark: str = ",", head: str = "user,item\n"
) -> str:
    """Every user with every item."""
    rows = "".join(f"{u}{mark}{i}\n" for u in users for i in items)
    return head.replace(",", mark) + rows
