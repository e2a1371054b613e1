"""An order of a graph's nodes in which those that share neighbours lie together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import ArpackError, svds

# Rows of fewer nodes lie in a core's cache in whatever order.
_LEAST = 16_384
_COORDINATES, _CLUSTER = 7, 128

Int32 = npt.NDArray[np.int32]


def order_by_neighbours(normalised: sparse.csr_matrix) -> Int32 | None:
    """An order of the nodes of a bipartite graph, users before items.

    Nodes are bisected by their main direction among the leading singular vectors, again and again,
    down to clusters of about 128. So a cluster's neighbours are in a few clusters of the other side.

    Args:
        normalised: (N, M), D^-1/2 A D^-1/2 between users and items.

    Returns:
        (N + M,) numbers of the nodes, users from 0 and items from N; None where an order would not
        help, or is not found.
    """
    n_users, n_items = normalised.shape
    if n_users + n_items < _LEAST or min(n_users, n_items) <= _COORDINATES + 1:
        return None
    start = np.random.default_rng(0).standard_normal(min(n_users, n_items), dtype=np.float32)
    try:
        u, s, vt = svds(normalised, k=_COORDINATES + 1, tol=1e-2, v0=start)
    except ArpackError:  # no convergence, say
        return None
    # The largest says how popular a node is, and nothing of its neighbours.
    found = np.concatenate([u, vt.T])[:, np.argsort(-s)[1:]]
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    rank = np.empty(n_users + n_items, dtype=np.int64)
    rank[_bisected(found, np.arange(len(found)))] = np.arange(len(found))
    users, items = np.argsort(rank[:n_users]), np.argsort(rank[n_users:])
    return np.concatenate([users, n_users + items]).astype(np.int32)


def _bisected(x: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of rows of x, halved along the direction in which they differ most."""
    if len(ids) <= _CLUSTER:
        return ids
    centred = x[ids] - x[ids].mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    ids, half = ids[np.argsort(centred @ direction, kind="stable")], len(ids) // 2
    return np.concatenate([_bisected(x, ids[:half]), _bisected(x, ids[half:])])
