"""What a method is: options, phases, and hooks in the one training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from dslbench.backbones.base import Backbone
from dslbench.hooks import Hooks
from dslbench.train import Lab


class Options(BaseModel):
    """Settings of a method; each field's description is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Method(Hooks, ABC):
    """A way of making a recommender small.

    A subclass lives in `methods/<name>.py`, sets the class attributes and implements `run`:
    build models over its own kind of table, train them in named phases with `lab.fit`, return the
    final one. Its hooks act between the steps.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    family: ClassVar[str]  # row group of the paper's Table 3: KD, AutoML, MP; empty for dense
    version: ClassVar[int] = 1  # part of a run's identity: raise it when results change
    # Whether the model is built narrower, at a share 1 - s of its embedding size, and learns from
    # the dense run of the same setting.
    distils: ClassVar[bool] = False
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
        """Names of the trainings a run consists of, each of the full number of epochs."""
        return ["train"]

    @abstractmethod
    def run(self, lab: Lab) -> Backbone:
        """Train, and return the model that is to be stored and judged."""

    def diagnostics(self) -> dict[str, Any]:
        """What the method found out about itself, for the record."""
        return {}
