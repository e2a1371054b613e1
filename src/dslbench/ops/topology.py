"""What topology distillation computes: distances between tables of cosine similarities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from dslbench.ops.base import Macs, Op, product_macs, trained

# Added to squared norms: a row of zeros has similarity 0 to all, and a finite gradient.
_TINY = 1e-8


def unit_rows(x: Tensor) -> Tensor:
    """Rows divided by their norms, (b, d)."""
    return x * (x.square().sum(dim=1, keepdim=True) + _TINY).rsqrt()


class TopologyDistance(Op):
    """|cos(T, T) - cos(S, S)|^2, summed over all b^2 pairs (FTD, Kang et al., KDD 2021).

    With unit rows T and S it equals |T'T|^2 - 2 |T'S|^2 + |S'S|^2: three products of b rows, and no
    (b, b) matrix. That is b (d^2 + d e + e^2) multiplications instead of b^2 (d + e). They are done
    in double precision: the three terms are large and nearly cancel.
    """

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """(b, d), a constant, and (b, e) to a scalar."""
        t, s = unit_rows(teacher).double(), unit_rows(student).double()
        total = (t.T @ t).square().sum() - 2 * (t.T @ s).square().sum() + (s.T @ s).square().sum()
        return total.to(student.dtype)

    def macs(self, teacher: Tensor, student: Tensor) -> Macs:
        """Three products of b rows; backward T'S once and S'S twice, for the student's rows."""
        (b, d), e = teacher.shape, student.shape[1]
        backward = trained(student) * b * (d * e + 2 * e * e)
        return Macs(b * (d * d + d * e + e * e), backward, backward)


class GroupTopologyDistance(Op):
    """Distances within groups, and to the groups' means (TD of HTD, Kang et al., KDD 2021).

    Over pairs of one group whose teacher similarity is positive, (cos(t_i, t_j) - cos(s_i, s_j))^2;
    over groups and all entities, (cos(p_T, t_i) - cos(p_S, s_i))^2 with the means p of the group's
    rows, without gradient. Groups are gone through one by one: sum of b_g^2 pairs, not b^2.
    """

    def forward(self, teacher: Tensor, student: Tensor, groups: Tensor) -> Tensor:
        """(b, d), a constant, (b, e) and (b,) int64 group numbers to a scalar."""
        t, s = unit_rows(teacher), unit_rows(student)
        found, place, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
        order = place.argsort(stable=True)
        total = student.new_zeros(())
        for members in order.split(sizes.tolist()):
            if len(members) > 1:
                a, b = t[members], s[members]
                of_teacher = a @ a.T
                kept = of_teacher > 0
                total = total + ((of_teacher - b @ b.T).square() * kept).sum()
        with torch.no_grad():
            means = (
                unit_rows(x.new_zeros(len(found), x.shape[1]).index_add_(0, place, x))
                for x in (teacher, student)
            )  # a mean's direction is that of the sum
        p, q = means
        return total + (t @ p.T - s @ q.T).square().sum()

    def macs(self, teacher: Tensor, student: Tensor, groups: Tensor) -> Macs:
        """b_g^2 pairs of each group, and each row with each group's mean; the student's backward.

        The gradient of S S' takes two products, that of S q' one.
        """
        d, e = teacher.shape[1], student.shape[1]
        sizes = torch.unique(groups, return_counts=True)[1]
        pairs, means = int(sizes[sizes > 1].square().sum()), len(groups) * len(sizes)
        backward = trained(student) * e * (2 * pairs + means)
        return Macs((pairs + means) * (d + e), backward, backward)


class MixedMaps(Op):
    """sum_k z_k f_k(x) with f_k = Linear(e -> h), ReLU, Linear(h -> d), h = (d + e) // 2.

    The reconstruction of HTD's group assignment. Each f_k is computed for the rows whose z_k is not
    zero: a softmax at a low temperature is a single one in most rows, and where it underflows to
    zero neither value nor gradient depends on f_k.
    """

    def __init__(self, maps: int, e: int, d: int, rng: np.random.Generator) -> None:
        super().__init__()
        h = (d + e) // 2

        def uniform(bound: float, *shape: int) -> nn.Parameter:
            values = (rng.random(shape, dtype=np.float32) * 2 - 1) * np.float32(bound)
            return nn.Parameter(torch.from_numpy(values))

        self.first = uniform(1 / math.sqrt(e), maps, e, h)
        self.first_bias = uniform(1 / math.sqrt(e), maps, h)
        self.second = uniform(1 / math.sqrt(h), maps, h, d)
        self.second_bias = uniform(1 / math.sqrt(h), maps, d)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(b, e) and (b, K) to (b, d)."""
        maps = zip(self.first_bias, self.first, self.second_bias, self.second, strict=True)
        rows, parts = [], []
        for column, (bias, first, last_bias, second) in zip(z.unbind(1), maps, strict=True):
            members = column.nonzero().squeeze(1)
            hidden = torch.addmm(bias, x[members], first).relu()
            parts.append(torch.addmm(last_bias, hidden, second) * column[members].unsqueeze(1))
            rows.append(members)
        total = x.new_zeros(len(x), self.second.shape[2])
        return total.index_add(0, torch.cat(rows), torch.cat(parts))

    def macs(self, x: Tensor, z: Tensor) -> Macs:
        """Both layers for each row and each map it is mixed from; x's own gradient where wanted."""
        _, e, h = self.first.shape
        mixed, d = int(z.count_nonzero()), self.second.shape[2]
        backward = 0
        if trained(self.first):
            backward = mixed * (e * h + 2 * h * d + trained(x) * e * h)
        return Macs(mixed * (e * h + h * d), backward, backward)


class ProjectRows(Op):
    """Frozen rows times a trained matrix, plus a bias: E W + b."""

    def forward(self, frozen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(n, d), (d, e) and (e,) to (n, e)."""
        return torch.addmm(bias, frozen, weight)

    def macs(self, frozen: Tensor, weight: Tensor, bias: Tensor) -> Macs:
        """n d e forward, and as many for the matrix's gradient."""
        return product_macs(frozen, weight.T, skips_zeros=False)
