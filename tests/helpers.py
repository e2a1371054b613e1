"""What nearly every test needs: a small random data set, and where to train on it."""

from __future__ import annotations

import numpy as np
import torch

from dslbench.data.interactions import Interactions, pairs_to_csr

# Where the contracts are to hold: on a GPU, too, if there is one.
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make_interactions(
    n_users: int = 40, n_items: int = 30, density: float = 0.25, seed: int = 0, valid: bool = True
) -> Interactions:
    """Random pairs dealt into train, validation and test; every user has at least two in train."""
    rng = np.random.default_rng(seed)
    shape = (n_users, n_items)
    known = rng.random(shape) < density
    known[np.arange(n_users), np.arange(n_users) % n_items] = True
    known[np.arange(n_users), (np.arange(n_users) + 1) % n_items] = True
    part = rng.random(shape)
    part[np.arange(n_users), np.arange(n_users) % n_items] = 0
    part[np.arange(n_users), (np.arange(n_users) + 1) % n_items] = 0
    bounds = [(0.0, 0.7), (0.7, 0.8), (0.8, 1.0)]
    masks = [known & (part >= a) & (part < b) for a, b in bounds]
    if not valid:
        masks = [masks[0] | masks[1], np.zeros(shape, dtype=bool), masks[2]]
    train, valid_part, test = (pairs_to_csr(*np.nonzero(m), shape) for m in masks)
    return Interactions("random", "default" if valid else "paper", train, valid_part, test)
