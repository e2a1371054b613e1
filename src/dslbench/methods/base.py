"""What a method is: options, phases, an allowance, and hooks in the one training loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from dslbench.backbones.base import Backbone, Hyper
from dslbench.errors import RunError
from dslbench.tables import Stored, TableSpec
from dslbench.tables.stored import BITS
from dslbench.training.hooks import Hooks
from dslbench.training.lab import Lab

# Bits that a row of codes leaves of its last byte on average, by bits of a code.
_LEFT = {8: 0.0, 6: 3.0, 4: 2.0, 3: 3.5, 2: 3.0}


class Options(BaseModel):
    """Settings of a method; each field's description is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Allowance:
    """How much a method may keep of the tables of users and items, all of them together.

    Attributes:
        parameters: the least and the most; None: no limit.
        bytes: the same, as the tables' arrays lie on disk.
    """

    parameters: tuple[int, int | None]
    bytes: tuple[int, int | None]

    @classmethod
    def exactly(cls, parameters: int, nbytes: int) -> Allowance:
        """So much and no less."""
        return cls((parameters, parameters), (nbytes, nbytes))

    def check(self, parameters: int, nbytes: int) -> None:
        """Raise `RunError` where what is stored is not within it: a fault of the method."""
        for what, found, (least, most) in (
            ("parameters", parameters, self.parameters),
            ("bytes", nbytes, self.bytes),
        ):
            if found < least or (most is not None and found > most):
                allowed = f"{least:,}" if least == most else f"{least:,} to {most:,}"
                raise RunError(
                    f"the method stores {found:,} {what} of its tables, its budget is {allowed}",
                    "this is a fault of the method, not of your settings",
                )


class Method(Hooks, ABC):
    """A way of making a recommender small.

    A subclass lives in `methods/<name>.py`, sets the class attributes and implements `run`:
    build models over its own kind of table, train them in named phases with `lab.fit`, return the
    final one. Its hooks act between the steps.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    # Row group: KD, AutoML or MP as in the paper's Table 3, "Plain" for what it does not compare with;
    # empty for dense.
    family: ClassVar[str]
    version: ClassVar[int] = 1  # part of a run's identity: raise it when results change
    # Whether it takes the trained model of the dense run of the same setting (`Lab.teacher`), which is
    # then made first; at sparsity 0, where a sparsity means something, there is nothing to take.
    needs_dense: ClassVar[bool] = False
    # Whether its model has rows of floor((1 - s) d), or of the nearest width below that the backbone takes.
    narrows: ClassVar[bool] = False
    # Whether what it stores can be kept at other precisions.
    has_precisions: ClassVar[bool] = True
    # Whether rows of a stored table have different numbers of entries.
    rows_differ: ClassVar[bool] = False
    # Whether a comparison has it where no methods are named.
    usual: ClassVar[bool] = True
    # Whether a sparsity means anything to it; its runs have sparsity 0 where not.
    uses_sparsity: ClassVar[bool] = True
    # Whether its phases are parts of one training of the full number of epochs.
    share_epochs: ClassVar[bool] = False
    # Time of an epoch, dense's being 1, roughly: for the expected duration that is shown beforehand.
    relative_time: ClassVar[float] = 1.0
    options_type: ClassVar[type[Options]] = Options
    # Named sets of option values; a paper and its code often differ.
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def __init__(self, options: Any, sparsity: float) -> None:
        self.options = options
        self.sparsity = sparsity

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        """Names of the trainings a run consists of, each of all epochs where they do not `share_epochs`."""
        return ["train"]

    @classmethod
    def trainings(cls, options: Any, sparsity: float) -> int:
        """How many trainings of the full number of epochs its phases amount to."""
        return 1 if cls.share_epochs else len(cls.phases(options, sparsity))

    @classmethod
    def lineage(cls, options: Any, sparsity: float) -> list[str | None]:
        """For each of `phases`, what it is the training of, within one setting of a backbone.

        Phases of one name begin in one state and are trained by plain hooks, whatever the method, so that
        they come to the same bits and one training will do; "dense" is the dense run's. None: a training
        that no other run has.
        """
        return [None] * len(cls.phases(options, sparsity))

    @classmethod
    def check(cls, options: Any, hyper: Hyper, epochs: int, sparsity: float) -> None:
        """Raise `UsageError` for options that could not take effect, or not go together with the model.

        Called before anything is trained.
        """

    @classmethod
    def size(cls, full: Hyper, sparsity: float) -> Hyper:
        """Hyper-parameters of the model that is trained.

        Raises `UnsuitableError` where nothing would be left of a row.
        """
        return full.narrowed(1 - sparsity) if cls.narrows and sparsity else full

    @abstractmethod
    def run(self, lab: Lab) -> Backbone:
        """Train, and return the model that is to be stored and judged."""

    def stored(self, model: Backbone) -> dict[str, Stored]:
        """The tables of the trained model as they are to be kept, by name."""
        return {name: table.pack() for name, table in model.tables().items()}

    def allowance(self, specs: Mapping[str, TableSpec], full: Hyper) -> Allowance:
        """What may be stored; by default every entry of the model that is trained, as float32.

        Args:
            specs: the tables of the model that is stored, those of role "embedding".
            full: hyper-parameters of the dense run that the method is compared with.
        """
        trained = self.size(full, self.sparsity)
        entries = sum(spec.n_rows * trained.width(name) for name, spec in specs.items())
        return Allowance.exactly(entries, 4 * entries)

    @classmethod
    def choices(cls, options: Any, full: Hyper) -> list[tuple[dict[str, Any], str | None]]:
        """What can be chosen for a number of bytes, from the fewest on: options, and a precision.

        Beside these a method has its sparsity, if one means something to it; it then takes four bits at
        least, at which little is lost. None is the method's own precision.
        """
        if cls.uses_sparsity:
            return [({}, precision) for precision in ("int4", "int8", "fp16", "fp32")]
        return [({}, precision) for precision in reversed(BITS)]

    def never_rounded(self, specs: Mapping[str, TableSpec]) -> int:
        """How many of the parameters in `allowance` stay float32 at any precision."""
        return 0

    def stored_size(
        self, specs: Mapping[str, TableSpec], full: Hyper, precision: str | None
    ) -> int:
        """Bytes that the tables of users and items are expected to take at a precision.

        What a row's values leave of its last byte is taken as half of what it can be, where rows differ.
        """
        allowed = self.allowance(specs, full)
        entries, nbytes = allowed.parameters[1] or 0, allowed.bytes[1] or 0
        if precision is None or precision == "fp32":
            return nbytes
        rows, bits = sum(spec.n_rows for spec in specs.values()), BITS[precision]
        beside, whole = nbytes - 4 * entries, self.never_rounded(specs)
        entries, beside = entries - whole, beside + 4 * whole
        if bits >= 16:
            return beside + entries * bits // 8
        if self.rows_differ:
            of_rows = (entries * bits + rows * _LEFT[bits]) / 8
        else:
            of_rows = rows * -(-(entries // rows) * bits // 8)
        return beside + math.ceil(of_rows) + 2 * rows

    def diagnostics(self) -> dict[str, Any]:
        """What the method found out about itself, for the record."""
        return {}
