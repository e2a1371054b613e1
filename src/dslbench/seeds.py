"""Random streams: named children of one seed, so that a draw added in one place moves no other."""

from __future__ import annotations

import zlib

import numpy as np


class Streams:
    """Independent generators by name (init, order, negatives, mask, dropout, ...).

    `streams["mask"]` is always the same generator object; `streams.fresh("mask")` restarts it.
    Names are hashed into the spawn key, so streams don't depend on the order of first use.
    """

    def __init__(self, seed: int, path: tuple[str, ...] = ()) -> None:
        self.seed = seed
        self._path = path
        self._generators: dict[str, np.random.Generator] = {}

    def child(self, name: str) -> Streams:
        """Streams of their own: the same names below it give other numbers."""
        return Streams(self.seed, (*self._path, name))

    def fresh(self, name: str) -> np.random.Generator:
        """A new generator at the start of the named stream."""
        key = tuple(zlib.crc32(part.encode("utf-8")) for part in (*self._path, name))
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key))
        )

    def __getitem__(self, name: str) -> np.random.Generator:
        if name not in self._generators:
            self._generators[name] = self.fresh(name)
        return self._generators[name]
