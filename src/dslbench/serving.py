"""A trained model in the ids of those who brought the data: who is asked for, and what is recommended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import ValidationError
from scipy import sparse

from dslbench import artefact, registry
from dslbench.artefact import StoredModel
from dslbench.data.interactions import Interactions, no_pairs, pairs_to_csr
from dslbench.errors import DataError, UsageError, reason_of
from dslbench.evaluation.ranking import Ranker, is_finite
from dslbench.known import Known
from dslbench.ops.scores import ProductScorer, Scorer
from dslbench.references.base import Model, scorer_over
from dslbench.runs import fitted
from dslbench.runs.assemble import rebuild, trained_on
from dslbench.spec import RunSpec
from dslbench.words import number

Id = str | int
LeaveOut = Literal["all", "before-test", "nothing"]


class Recommender:
    """A stored model that takes and gives original ids.

    Attributes:
        users, items: (N,) and (M,) original ids, as texts, in the order of the model's rows.
        has_seen: whether it knows what users have seen; where not, nothing is left out of lists.
        backbone: name of the model's backbone; `none` of a reference.
        source: where what users have seen comes from, in words.
    """

    def __init__(self, packed: StoredModel, dataset: str | None = None) -> None:
        """From a model file's content; `dataset` names the data it was trained on, where it needs them.

        Raises `DataError` where the file is no model of this version, or lacks what it needs.
        """
        self._packed = packed
        self._reference: Model | None = None  # read when it is first asked for
        try:
            self._spec = RunSpec.model_validate(packed.spec)
            over_pairs = self._folds_in = self._spec.is_reference
            if not self._spec.is_reference:
                kind = registry.backbone(self._spec.backbone)
                over_pairs, self._folds_in = kind.scores_from_pairs, kind.folds_in
            known = Known.read(packed.known) if packed.known else None
        except (ValidationError, UsageError, ValueError, KeyError, TypeError) as error:
            raise artefact.misfit(packed, reason_of(error)) from None
        self.backbone = self._spec.backbone
        self._data, self.has_seen, self.source = self._find_data(known, dataset, over_pairs)
        # Constants of training, which some models make from the pairs, are not needed to serve.
        self._scorer = self._scorer_of(
            self._data if over_pairs else Known(self._shape).data("", "")
        )
        self._ranker: tuple[tuple[LeaveOut, int], Ranker] | None = None  # of the last question
        self.users, self.items = self._data.user_names, self._data.item_names
        self._rows = {one: row for row, one in enumerate(self.users)}
        self._columns = {one: column for column, one in enumerate(self.items)}

    @classmethod
    def load(cls, path: Path | str, dataset: str | None = None) -> Recommender:
        """From a model file, as `dslbench train --export` writes it."""
        return cls(artefact.read(path), dataset)

    def recommend(
        self, users: Sequence[Id], k: int = 10, leave_out: LeaveOut = "all"
    ) -> list[list[str]]:
        """The k best items of each user, best first, fewer where there are fewer.

        Args:
            users: original ids.
            leave_out: of what the user has seen: all of it; what was known before the test, as in
                evaluation; or nothing.

        Raises `UsageError` for an id that the model does not know.
        """
        rows = self._numbers(users, self._rows, "user")
        return [found for _, found in self._ranked(self._ranker_of(leave_out, k), rows)]

    def recommend_all(
        self, k: int = 10, leave_out: LeaveOut = "all"
    ) -> Iterator[tuple[str, list[str]]]:
        """Each user with their list, in the order of `users`, computed while they are taken."""
        rows = np.arange(len(self.users), dtype=np.int64)
        for row, found in self._ranked(self._ranker_of(leave_out, k), rows):
            yield self.users[row], found

    def recommend_for(self, items: Sequence[Id], k: int = 10) -> list[str]:
        """The k best items for somebody who was not trained and has these; they are left out.

        Raises `UsageError` where the backbone cannot score new users, or does not know an item.
        """
        if not self._folds_in:
            able = [
                name for name in registry.working("backbone") if registry.backbone(name).folds_in
            ]
            raise UsageError(
                f"{self.backbone} knows only users that it was trained on",
                f"a model of {' or '.join(able)} recommends for new ones",
            )
        columns = self._numbers(items, self._columns, "item")
        given = pairs_to_csr(np.zeros(len(columns), dtype=np.int64), columns, self._shape)
        known = Known(self._shape, pairs={"fold_in": given}).data("", "")
        ranker = self._new_ranker(self._scorer_of(known), given, k)
        [(_, found)] = self._ranked(ranker, np.zeros(1, dtype=np.int64))
        return found

    @property
    def _shape(self) -> tuple[int, int]:
        return self._data.n_users, self._data.n_items

    def _scorer_of(self, over: Interactions) -> Scorer:
        """The model's scorer of the users of these data."""
        if not self._spec.is_reference:
            return rebuild(self._packed, over).scorer()
        if self._reference is None:
            self._reference = fitted.read(self._packed, self._shape)
        return scorer_over(self._reference, over.seen_before_valid)

    def _find_data(
        self, known: Known | None, dataset: str | None, needed: bool
    ) -> tuple[Interactions, bool, str]:
        """The data that a model is served over, whether they say what was seen, and their origin."""
        name, protocol = self._spec.dataset, self._spec.protocol
        if dataset is None and known is not None and known.pairs is not None:
            return known.data(name, protocol), True, "the model file"
        try:
            return trained_on(self._packed, dataset), True, f"data set '{dataset or name}'"
        except DataError as error:
            if dataset is not None:
                raise
            if needed or known is None:
                what = "what users have seen" if needed else "ids"
                raise DataError(
                    f"{self._packed.name} lacks {what}, and its data set is not here: {error.message}",
                    "name the data by --dataset, or write the model with --with-seen",
                ) from None
        return known.data(name, protocol), False, "nowhere"

    def _seen(self, leave_out: LeaveOut) -> sparse.csr_matrix:
        if leave_out not in get_args(LeaveOut):
            raise UsageError(
                f"leave_out is '{leave_out}'", f"one of {', '.join(get_args(LeaveOut))}"
            )
        if leave_out == "nothing" or not self.has_seen:
            return no_pairs(self._shape)
        return self._data.seen_before_test if leave_out == "before-test" else self._data.seen

    def _numbers(
        self, ids: Sequence[Id], known: dict[str, int], what: str
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if isinstance(ids, str | bytes):
            raise UsageError(
                f"'{ids!r}' is one {what}, not a list of them", f"give a list: [{ids!r}]"
            )
        texts = [str(one).strip() for one in ids]
        unknown = [one for one in texts if one not in known]
        if unknown:
            more = f" and {number(len(unknown) - 1, 'more')}" if len(unknown) > 1 else ""
            raise UsageError(
                f"{self._packed.name} knows no {what} '{unknown[0]}'{more}",
                f"it knows {number(len(known), what)}, such as '{next(iter(known), '')}'",
            )
        return np.array([known[one] for one in texts], dtype=np.int64)

    def _ranker_of(self, leave_out: LeaveOut, k: int) -> Ranker:
        """What ranks, kept for the next question of the same kind: it looks at all vectors first."""
        if self._ranker is None or self._ranker[0] != (leave_out, k):
            ranker = self._new_ranker(self._scorer, self._seen(leave_out), k)
            self._ranker = (leave_out, k), ranker
        return self._ranker[1]

    def _new_ranker(self, scorer: Scorer, seen: sparse.csr_matrix, k: int) -> Ranker:
        if not isinstance(k, int):
            raise UsageError(f"k is {k}, not a number of items", "k is a whole number")
        if isinstance(scorer, ProductScorer) and not is_finite(scorer):
            raise artefact.misfit(
                self._packed, "its values are so large that scores are no numbers"
            )
        return Ranker(scorer, seen, k, seed=self._spec.seed)

    def _ranked(
        self, ranker: Ranker, rows: np.ndarray[Any, Any]
    ) -> Iterator[tuple[int, list[str]]]:
        step = ranker.most_at_once
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            found, _ = ranker(some)
            for row, best in zip(some.tolist(), found.tolist(), strict=True):
                yield row, [self.items[item] for item in best if item >= 0]
