"""What the distillation methods have in common: a narrower model that learns from the dense run."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from dslbench.backbones.base import Backbone
from dslbench.errors import UsageError
from dslbench.methods.base import Method
from dslbench.tables import DenseTable, MakeTable
from dslbench.training.lab import Lab


class Student(Method):
    """The same backbone with rows of d_s = floor((1 - s) d), trained with a term from the teacher.

    The teacher is the dense run of the same data, hyper-parameters, epochs and seed: trained once,
    billed to every student. At sparsity 0 there is nothing to distil, and the run is the dense one.
    """

    family = "KD"
    needs_dense: ClassVar[bool] = True
    narrows: ClassVar[bool] = True

    @classmethod
    def phases(cls, options: Any, sparsity: float) -> list[str]:
        return ["student"] if sparsity else ["train"]

    def run(self, lab: Lab) -> Backbone:
        if self.sparsity == 0:
            model = lab.build()
            lab.fit(model, "train")
            return model
        self.lab = lab
        self.found: dict[str, Any] = {}
        teacher = lab.teacher()
        model = lab.build(self.make_table(teacher))
        self.found |= compare_sizes(model, teacher, 1 - self.sparsity)
        self.prepare(model, teacher)
        del teacher  # what is needed of it has been taken
        lab.fit(model, "student", self)
        return self.finished(model)

    def make_table(self, teacher: Backbone) -> MakeTable:
        """The kind of table the student is built over."""
        return DenseTable

    @abstractmethod
    def prepare(self, model: Backbone, teacher: Backbone) -> None:
        """Take from the teacher what the training needs."""

    def finished(self, model: Backbone) -> Backbone:
        """The model that is stored."""
        return model

    def diagnostics(self) -> dict[str, Any]:
        """The student's size, and what the method found out."""
        return self.found if self.sparsity else {}


def compare_sizes(model: Backbone, teacher: Backbone, share: float) -> dict[str, Any]:
    """Row widths of both models by table, and whether the student has exactly its share.

    Raises `UsageError` for a teacher with narrower rows than its student.
    """
    tables, full = model.tables(), teacher.tables()
    names = [name for name, table in tables.items() if table.spec.role == "embedding"]
    widths = {name: tables[name].spec.dim for name in names}
    of_teacher = {name: full[name].spec.dim for name in names}
    for name in names:
        if of_teacher[name] < widths[name]:
            raise UsageError(
                f"the teacher's table '{name}' has rows of {of_teacher[name]}, its student's "
                f"{widths[name]}: a teacher is at least as large as its student"
            )
    exact = all(abs(widths[name] - share * of_teacher[name]) < 1e-6 for name in names)
    return {"student_widths": widths, "teacher_widths": of_teacher, "exact_share": exact}


def learning_users(batch: Any) -> Tensor:
    """Users of a batch, one for each of its interactions, (B,); negatives of their own are none."""
    users: Tensor = batch.users[batch.labels > 0] if hasattr(batch, "labels") else batch.users
    return users


def entities(batch: Any) -> tuple[Tensor, Tensor]:
    """The distinct users and the distinct items (positive and negative) of a batch, ascending."""
    fields = [getattr(batch, name, None) for name in ("positives", "negatives", "items")]
    items = torch.cat([field.reshape(-1).long() for field in fields if field is not None])
    return torch.unique(batch.users), torch.unique(items)
