"""Random streams: named children of one seed, so that a draw added in one place moves no other."""

from __future__ import annotations

import zlib

import numpy as np


class Streams:
    """Independent generators by name (init, order, negatives, mask, dropout, ...).

    `streams["mask"]` is always the same generator object; `streams.fresh("mask")` restarts it.
    Names are hashed into the spawn key, so streams don't depend on the order of first use.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, np.random.Generator] = {}

    def fresh(self, name: str) -> np.random.Generator:
        """A new generator at the start of the named stream."""
        key = zlib.crc32(name.encode("utf-8"))
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(key,)))
        )

    def __getitem__(self, name: str) -> np.random.Generator:
        if name not in self._generators:
            self._generators[name] = self.fresh(name)
        return self._generators[name]
