"""Training, comparing and shrinking from Python.

    import dslbench as ds

    run = ds.train("lightgcn", dataset="toy", method="dsl", sparsity=0.5)
    run.quality["recall@20"]
    run.model.recommend(["17"], k=10)

Everything goes through the same store and worker processes as the command line: what is stored is not made
again. Errors are `dslbench.errors.DslbenchError`, with the line that the command line would print.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer
from pydantic import ConfigDict, ValidationError, validate_call

from dslbench import artefact, output, registry
from dslbench import data as datasets
from dslbench.artefact import StoredModel
from dslbench.cli import runner, shrinking
from dslbench.cli.datasets import check_not_data
from dslbench.cli.runner import Where
from dslbench.data.interactions import Interactions
from dslbench.errors import RunError, UsageError
from dslbench.known import Known
from dslbench.output import say, warn
from dslbench.report import command, shrunk
from dslbench.report.columns import COLUMNS, Record
from dslbench.report.tables import TableModel
from dslbench.runs import fitted, plan, store
from dslbench.runs.assemble import data_of_record, rebuild, trained_on
from dslbench.runs.smallest import Answer, Tried
from dslbench.serving import Id, LeaveOut, Recommender
from dslbench.spec import RunSpec, check_length, check_used, resolve

P = ParamSpec("P")
T = TypeVar("T")
Settings = Mapping[str, Any]
Array = npt.NDArray[np.float32]


def _checked(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which raises `UsageError` in one line for an argument of a wrong type.

    Sets, arrays and numbers of numpy or pandas go as lists and numbers of Python.
    """
    checked: Callable[..., T] = validate_call(config=ConfigDict(strict=True))(function)
    known = signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        # TypeError for a name that there is not, as everywhere.
        given = known.bind(*args, **kwargs).arguments
        try:
            return checked(**{name: _plain(value) for name, value in given.items()})
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(
                f"{function.__name__}: {first['loc'][0]}: {first['msg'].lower()} "
                f"(got {' '.join(reprlib.repr(first['input']).split())})",
                f"help(dslbench.{function.__name__})",
            ) from None

    return call


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | pd.Index | pd.Series):
        return value.tolist()
    return list(value) if isinstance(value, Set) else value


@dataclass(frozen=True)
class Model:
    """A stored model, which takes and gives original ids.

    Attributes:
        stored: its tables as they lie in the file.
        over: the data that it was trained on.
    """

    stored: StoredModel
    over: Interactions

    @cached_property
    def _recommender(self) -> Recommender:
        known = Known.of(self.over, pairs=True).arrays()
        return Recommender(replace(self.stored, known=known))

    @property
    def users(self) -> list[str]:
        """Original ids of the N users."""
        return self._recommender.users

    @property
    def items(self) -> list[str]:
        """Original ids of the M items."""
        return self._recommender.items

    def recommend(
        self, users: Sequence[Id], k: int = 10, leave_out: LeaveOut = "all"
    ) -> list[list[str]]:
        """The k best items of each user, best first; see `dslbench.serving.Recommender.recommend`."""
        return self._recommender.recommend(users, k, leave_out)

    def recommend_for(self, items: Sequence[Id], k: int = 10) -> list[str]:
        """The k best items for somebody new who has these; `UsageError` where the backbone cannot."""
        return self._recommender.recommend_for(items, k)

    def vectors(self) -> tuple[Array, Array]:
        """What scores are computed from: users (N, w) and items (M, w), propagated where the model does so.

        Raises `UsageError` for a backbone that has no such vectors, and for a reference.
        """
        if self.stored.reference:
            raise UsageError("a reference has no vectors of users")
        import torch

        model = rebuild(self.stored, self.over).eval()
        with torch.no_grad():
            users, items = model.vectors(
                torch.arange(self.over.n_users), torch.arange(self.over.n_items)
            )
        return users.cpu().numpy(), items.cpu().numpy()

    def tables(self) -> dict[str, Array]:
        """The tables by name, as they are stored, each as a whole matrix."""
        return {name: one.unpack() for name, one in self.stored.tables.items()}

    def save(self, path: str | Path, *, with_seen: bool = False) -> None:
        """Write a model file for `dslbench recommend`; with what users have seen it needs no data set."""
        check_not_data(str(self.stored.spec["dataset"]), Path(path))
        known = Known.of(self.over, pairs=with_seen).arrays()
        content = artefact.to_bytes(replace(self.stored, known=known))
        output.put(Path(path), content)


@dataclass(frozen=True)
class Run:
    """A stored run.

    Attributes:
        record: the whole record (docs/file-format.md).
    """

    record: dict[str, Any]

    @property
    def id(self) -> str:
        """12 hexadecimal digits; the run's folder in the store."""
        return str(self.record["id"])

    @property
    def quality(self) -> dict[str, float]:
        """Metrics on test of the model as it is stored."""
        return dict(self.record["quality"])

    @cached_property
    def model(self) -> Model:
        """The model as it is stored, a reference's fitted again; raises `RunError` where it was not kept."""
        packed = fitted.model_of(self.record)
        return Model(packed, trained_on(packed))

    def at(self, precision: str) -> Model:
        """The model at another precision: fp16, bf16, int8, int6, int4, int3 or int2."""
        packed = fitted.model_of(self.record, precision)
        return Model(packed, trained_on(packed))

    def history(self) -> pd.DataFrame:
        """A row an epoch: phase, loss, learning rate, seconds, and metrics where it was evaluated."""
        return pd.DataFrame(store.history(self.id) or [])

    def per_user(self) -> pd.DataFrame:
        """Metrics on test by user, by original id; those at other precisions are `METRIC|PRECISION`."""
        found = dict(store.per_user(self.id) or {})
        names = np.array(data_of_record(self.record).user_names, dtype=object)
        index = pd.Index(names[found.pop("users")] if found else [], name="user")
        return pd.DataFrame(found, index=index)

    def __repr__(self) -> str:
        return f"Run({self.id}: {RunSpec.of_record(self.record['spec']).title})"


@dataclass(frozen=True)
class Shrunk:
    """What `shrink` found.

    Attributes:
        answer: the search, with all that was tried; quality is of validation.
    """

    answer: Answer

    @property
    def sentence(self) -> str:
        """What was chosen, in words."""
        return shrunk.sentence(self.answer)

    @property
    def chosen(self) -> Tried | None:
        """What was chosen; None where nothing fits."""
        return self.answer.chosen

    @cached_property
    def model(self) -> Model:
        """The model that was chosen; raises `RunError` where nothing fits."""
        if self.chosen is None:
            raise RunError("nothing that was tried fits", "more time, or a goal that asks for less")
        return Run(store.read(self.chosen.run)).at(self.chosen.precision)

    def tried(self) -> pd.DataFrame:
        """A row for each model that was tried, the smallest first."""
        rows = [
            {
                "method": one.spec.method, "sparsity": one.spec.sparsity, "precision": one.precision,
                "bytes": one.nbytes, "of_dense": one.nbytes / self.answer.dense.nbytes,
                "validation": one.quality, "loss": one.loss, "low": one.interval[0], "high": one.interval[1],
                "fits": self.answer.fits(one), "chosen": one is self.chosen, "run": one.run,
            }
            for one in self.answer.tried
        ]  # fmt: skip
        return pd.DataFrame(rows).sort_values(["bytes", "loss"], ignore_index=True)


@_checked
def load(name: str | Path, *, protocol: str = "default") -> Interactions:
    """A verified, split data set: train, valid and test as CSR; see `dslbench.data.load`."""
    return datasets.load(str(name), protocol=protocol)


@_checked
def train(
    backbone: str | None = None, *, dataset: str | Path | None = None, method: str = "dense",
    sparsity: float = 0.5, seed: int = 0, epochs: int | None = None, scale: str | None = None,
    settings: Settings | None = None, protocol: str = "default", device: str = "auto", fresh: bool = False,
) -> Run:  # fmt: skip
    """Make a run, or find it in the store; as `dslbench train`.

    Args:
        backbone: None for a reference (`method="ease"`), which has none.
        dataset: a name, or a path of one's own data; None: the one downloaded last, else `toy`.
        settings: as `--set` takes them: {"lr": 0.01, "dsl.rho0": 0.3, "preset": "tuned.toml"}.
        fresh: make it from the start even if it is stored.
    """
    check_length(epochs, scale)
    chosen = _settings(settings)
    if backbone is None and not registry.is_reference(method):
        raise UsageError(f"{method} needs a backbone", "dslbench list backbones")
    spec = resolve(
        dataset=_name(dataset), backbone=backbone or registry.NO_BACKBONE, method=method,
        sparsity=sparsity, seed=seed, epochs=epochs, scale=scale, protocol=protocol, settings=chosen,
    )  # fmt: skip
    check_used(chosen, [method])
    with _interrupted():
        (record,) = runner.make(
            [spec], where=Where(device), force=fresh, dry_run=False, show=False, expect=False
        )
    return Run(record)


@_checked
def compare(
    backbone: str, *, methods: Sequence[str] | None = None, dataset: str | Path | None = None,
    sparsity: float | Sequence[float] = 0.5, seeds: int = 1, epochs: int | None = None,
    scale: str | None = None, settings: Settings | None = None, protocol: str = "default",
    device: str = "auto", workers: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Make the runs that are missing; a row for each, as `table` has them.

    Args:
        methods: None: all that suit the backbone.
        seeds: runs of each: seeds 0 to `seeds` - 1.
        workers: how many are made at once.
    """
    chosen = plan.Chosen(
        dataset=_name(dataset), backbone=backbone, method=methods,
        sparsity=[sparsity] if isinstance(sparsity, float | int) else sparsity, seeds=seeds,
        epochs=epochs, scale=scale, protocol=protocol, settings=tuple(_settings(settings)),
    )  # fmt: skip
    specs, left_out = plan.runs(plan.of_command_line(backbone), chosen, "")
    for line in left_out:
        say(f"left out: {line}")
    with _interrupted():
        records = runner.make(
            specs,
            where=Where(device, workers),
            force=False,
            dry_run=False,
            show=False,
            expect=False,
        )
    return _frame(records)


@_checked
def table(
    name: str | None = None, *, dataset: str | None = None, backbone: str | None = None,
    method: str | None = None, protocol: str | None = None, scale: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Stored runs; nothing is trained.

    Args:
        name: None: a row a run, with its setting, id, and every quantity that tables know (missing: NaN);
            else a table of `dslbench report` ("3", "bytes", "cost", ...) with its numbers unrounded, and
            in the column `Table` which of several it is.

    Raises `UsageError` where there are no such runs, or no such table.
    """
    records = command.select(
        warn, dataset=dataset, backbone=backbone, method=method, protocol=protocol, scale=scale
    )
    if name is None:
        return _frame(records)
    return pd.concat([_of_model(one) for one in command.tables(name, records)], ignore_index=True)


@_checked
def shrink(
    backbone: str, *, dataset: str | Path | None = None, within: float | str | None = None,
    to: str | int | float | None = None, confident: bool = False, time: str = "2h", epochs: int | None = None,
    settings: Settings | None = None, protocol: str = "default", seed: int = 0, device: str = "auto",
) -> Shrunk:  # fmt: skip
    """Find the smallest stored model that is as good as dense; as `dslbench shrink`, without its page.

    Args:
        within: the share of dense's quality on validation that may be lost (0.01, "1%"); None: 0.01.
        to: in its place: a share of dense's bytes, or a size ("2MiB").
        confident: at the worse end of the 95 % interval, too.
        time: how long it may take: "30m", "2h".
    """
    share = f"{100 * within:.10g}%" if isinstance(within, float | int) else within
    goal = shrinking.goal_of(share, None if to is None else str(to), confident=confident)
    wish = shrinking.Wish(
        dataset=_name(dataset), backbone=backbone, epochs=epochs, settings=tuple(_settings(settings)),
        protocol=protocol, seed=seed, goal=goal, seconds=shrinking.seconds_of(time),
    )  # fmt: skip
    where = Where(device)
    with _interrupted():
        return Shrunk(shrinking.searched(wish, where, lambda answer: None))


def _name(dataset: str | Path | None) -> str:
    return runner.dataset_or_default(None if dataset is None else str(dataset))


def _settings(settings: Settings | None) -> list[str]:
    """As `--set` takes them; raises `UsageError` for a value that is none."""
    try:
        return [f"{key}={json.dumps(_plain(value))}" for key, value in (settings or {}).items()]
    except (TypeError, ValueError) as error:
        raise UsageError(f"a setting's value is none: {error}", "settings={'lr': 0.01}") from None


@contextmanager
def _interrupted() -> Iterator[None]:
    """Ctrl-C is what it is in Python; the command line has turned it into an exit."""
    try:
        yield
    except typer.Exit:
        raise KeyboardInterrupt from None


def _frame(records: Sequence[Record]) -> pd.DataFrame:
    keys = ("dataset", "backbone", "method", "variant", "sparsity", "seed", "protocol", "preset")
    rows = [
        {**{key: record["spec"][key] for key in keys}, "id": record["id"]}
        | {name: column.value(record) for name, column in COLUMNS.items()}
        for record in records
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(COLUMNS, float))


def _of_model(model: TableModel) -> pd.DataFrame:
    rows = [
        [cell.whole if cell.value is None else cell.value for cell in row] for row in model.rows
    ]
    found = pd.DataFrame(rows, columns=model.headers)
    found.insert(0, "Table", model.title)
    return found
