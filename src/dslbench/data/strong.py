"""Strong generalisation (Mult-VAE): test users whose items no model has trained on.

As the reference code does it: users with fewer than 5 items are dropped; of the others, drawn at
random, some are held out for validation and as many for test; the items are those the training
users have; 20 % of a held-out user's items, rounded down, are to be found, the rest is given
(`Interactions.fold_in`). 500 + 500 users are held out (10 000 + 10 000 from 100 000 users on), but
never more than a tenth of the users each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslbench.data.entries import DatasetEntry
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.data.labels import rank_ids
from dslbench.data.published import Published
from dslbench.data.splits import from_end, split_generator
from dslbench.errors import DataError

MIN_ITEMS = 5
HELD_OUT, HELD_OUT_LARGE, LARGE = 500, 10_000, 100_000


def split_users(entry: DatasetEntry, published: Published) -> Interactions:
    """Split by users. Raises DataError where too few users have enough items."""
    log = published.log
    counts = np.bincount(log.users, minlength=published.shape[0])
    enough = np.flatnonzero(counts >= MIN_ITEMS)
    held = min(HELD_OUT_LARGE if len(enough) >= LARGE else HELD_OUT, len(enough) // 10)
    if held < 1:
        raise DataError(
            f"data set '{entry.name}': strong generalisation needs at least 10 users with"
            f" {MIN_ITEMS} items or more, there are {len(enough)}",
            hint="--protocol random",
        )
    generator = split_generator(published.key, "strong")
    drawn = enough[np.argsort(generator.random(len(enough)), kind="stable")]
    group = np.full(published.shape[0], -1)
    group[drawn] = 0
    group[drawn[-2 * held : -held]] = 1
    group[drawn[-held:]] = 2

    in_train = group[log.users] == 0
    vocabulary = np.bincount(log.items[in_train], minlength=published.shape[1]) > 0
    kept = (group[log.users] >= 0) & vocabulary[log.items]
    user_codes, users = rank_ids(log.users[kept])
    item_codes, items = rank_ids(log.items[kept])
    shape = (len(user_codes), len(item_codes))
    groups = group[user_codes][users]

    by_pair = np.lexsort((items, users))
    draws = np.empty(len(users))
    draws[by_pair] = generator.random(len(users))
    position = from_end(users, np.lexsort((draws, users)), shape[0])
    sizes = np.bincount(users, minlength=shape[0])
    wanted = np.where(sizes >= MIN_ITEMS, sizes // 5, 0)
    is_target = (groups > 0) & (position < wanted[users])
    train, fold_in, valid, test = (
        pairs_to_csr(users[chosen], items[chosen], shape)
        for chosen in (
            groups == 0,
            (groups > 0) & ~is_target,
            (groups == 1) & is_target,
            (groups == 2) & is_target,
        )
    )
    data = Interactions(
        name=entry.name,
        protocol="strong",
        train=train,
        valid=valid,
        test=test,
        fold_in=fold_in,
        notes=(
            *published.notes,
            f"strong generalisation: {held:,} users held out for validation and {held:,} for test,"
            " 80 % of their items given",
        ),
    )
    return replace(
        data,
        user_ids=user_codes if published.user_ids is None else published.user_ids[user_codes],
        item_ids=item_codes if published.item_ids is None else published.item_ids[item_codes],
        content=published.key if entry.own else None,
    )
