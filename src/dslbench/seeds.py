"""Random streams: named children of one seed, so that a draw added in one place moves no other."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Path = tuple[str, ...]


class Streams:
    """Independent generators by name (init, order, negatives, mask, dropout, ...).

    `streams["mask"]` is always the same generator object; `streams.fresh("mask")` restarts it.
    Names are hashed into the spawn key, so streams don't depend on the order of first use.

    What is drawn over time comes from `streams[name]`: where these stand is kept in checkpoints.
    `fresh` is for what is drawn all at once.
    """

    def __init__(
        self,
        seed: int,
        path: Path = (),
        generators: dict[Path, np.random.Generator] | None = None,
    ) -> None:
        self.seed = seed
        self._path = path
        # Shared by a family, by full path.
        self._generators = {} if generators is None else generators

    @property
    def path(self) -> Path:
        """The names that lead to them."""
        return self._path

    def child(self, name: str) -> Streams:
        """Streams below a name: the same names there give other numbers."""
        return Streams(self.seed, (*self._path, name), self._generators)

    def fresh(self, name: str) -> np.random.Generator:
        """A new generator at the start of the named stream."""
        return self._start((*self._path, name))

    def _start(self, path: Path) -> np.random.Generator:
        key = tuple(zlib.crc32(part.encode("utf-8")) for part in path)
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key))
        )

    def __getitem__(self, name: str) -> np.random.Generator:
        return self._at((*self._path, name))

    def _at(self, path: Path) -> np.random.Generator:
        if path not in self._generators:
            self._generators[path] = self._start(path)
        return self._generators[path]

    @property
    def root(self) -> Streams:
        """The streams of the whole run, of which these are a part."""
        return Streams(self.seed, (), self._generators)

    def at_start(self, path: Path) -> Any:
        """Where the stream of a full path stands before anything is drawn from it."""
        return self._start(path).bit_generator.state

    def state(self) -> dict[Path, Any]:
        """Where the streams stand that were drawn from, here and below."""
        depth = len(self._path)
        return {
            path: rng.bit_generator.state
            for path, rng in self._generators.items()
            if path[:depth] == self._path
        }

    def restore(self, state: Mapping[Path, Any]) -> None:
        """Put streams back to where they stood; generators handed out move along."""
        for path, found in state.items():
            self._at(path).bit_generator.state = found
