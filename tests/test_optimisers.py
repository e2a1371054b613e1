"""Optimisers without torch's compiler do what torch's own do."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch

from dslbench import optimisers

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {"fused": True}),
    ("SGD", {}),
    ("Adagrad", {"initial_accumulator_value": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_steps_have_the_bits_of_torchs_own(name: str, settings: dict[str, Any]) -> None:
    start, found = torch.randn(40, 8), []
    for module in (optimisers, torch.optim):
        parameter, later = (torch.nn.Parameter(start.clone()) for _ in range(2))
        optimiser = getattr(module, name)([parameter], lr=0.1, **settings)
        for step in range(6):
            if step == 2:  # as a checkpoint does
                optimiser.load_state_dict(copy.deepcopy(optimiser.state_dict()))
            if step == 3:
                optimiser.add_param_group({"params": [later], "lr": 0.3})
            if step == 4:
                optimiser.param_groups[0]["lr"] = 0.01
            optimiser.zero_grad(set_to_none=True)
            assert parameter.grad is None
            (parameter**3 + later.square()).sum().backward()
            optimiser.step()
            assert parameter.requires_grad and parameter.is_leaf
        found.append((parameter, later, optimiser.state_dict()))
    (ours, more, state), (theirs, other, expected) = found
    assert torch.equal(ours, theirs) and torch.equal(more, other)
    assert state["param_groups"] == expected["param_groups"]
    for number, own in expected["state"].items():
        for key, value in own.items():
            assert torch.equal(state["state"][number][key], value)


def test_the_compiler_stays_where_it_is() -> None:
    code = f"""
import sys, torch
from dslbench import optimisers
for name, settings in {[(kind[0], kind[1]) for kind in KINDS]!r}:
    p = torch.nn.Parameter(torch.ones(3))
    o = getattr(optimisers, name)([p], lr=0.1, **settings)
    for _ in range(2):
        o.zero_grad(); p.sum().backward(); o.step(); o.load_state_dict(o.state_dict())
    assert p[0] < 1
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
