"""What the methods that make a trained model small have in common."""

from __future__ import annotations

import torch

from dslbench.backbones.base import Backbone
from dslbench.tables import DenseTable, MaskedTable


@torch.no_grad()
def take_trained(model: Backbone, teacher: Backbone) -> None:
    """Fill a model with what a trained one has.

    Tables that keep every entry in one parameter get the values of the table of their name; others
    have been filled by whoever made them. All other weights are copied.
    """
    trained = teacher.tables()
    for name, table in model.tables().items():
        if isinstance(table, MaskedTable):
            table.assign(trained[name].full())
        elif isinstance(table, DenseTable):
            table.weight.copy_(trained[name].full())
    model.load_state_dict(teacher.rest(), strict=False)
