"""Matrices whose rows are stored as whole numbers of few bits, read as they lie there, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dslbench.ops import coded_kernels
from dslbench.ops.coded_kernels import Coded
from dslbench.ops.low_bits import largest
from dslbench.ops.threads import even_bounds, run_rows

# Rows that are decoded at a time where many are read in turn: they stay near a core.
BLOCK = 4096


class CodedRows:
    """An (n, d) matrix of float32 numbers, which nothing holds decoded."""

    def __init__(self, stored: Coded, d: int) -> None:
        self.stored = stored
        self.shape = (len(stored.scale), d)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> CodedRows:
        """Rows that follow each other, without a copy."""
        lo, hi, _ = part.indices(len(self))
        m = self.stored
        return CodedRows(
            m._replace(
                codes=m.codes[lo * m.stride : hi * m.stride] if m.width >= 0 else m.codes,
                scale=m.scale[lo:hi],
                **{name: getattr(m, name)[lo : hi + 1] for name in ("places", "starts")},
                live=m.live[lo:hi],
            ),
            self.shape[1],
        )

    def rows(self, ids: Tensor) -> Tensor:
        """Rows `ids` (B,), decoded, (B, d)."""
        out = torch.empty((len(ids), self.shape[1]))
        run_rows(
            coded_kernels.decode_rows,
            even_bounds(*out.shape),
            self.stored,
            ids.numpy(),
            out.numpy(),
        )
        return out

    def full(self) -> Tensor:
        """All rows, decoded, (n, d)."""
        out = torch.empty(self.shape)
        run_rows(coded_kernels.decode_range, even_bounds(*self.shape), self.stored, 0, out.numpy())
        return out

    def blocks(self, kind: torch.dtype = torch.float32) -> Iterator[tuple[slice, Tensor]]:
        """All rows in turn, some thousands at a time, as float32 or bfloat16; overwritten by the next."""
        n, d = self.shape
        room = torch.empty((min(n, BLOCK), d), dtype=kind)
        rounds = kind == torch.bfloat16
        kernel = coded_kernels.round_range if rounds else coded_kernels.decode_range
        for lo in range(0, n, BLOCK):
            block = room[: min(BLOCK, n - lo)]
            into: npt.NDArray[np.generic] = (block.view(torch.int16) if rounds else block).numpy()
            run_rows(kernel, even_bounds(*block.shape), self.stored, lo, into)
            yield slice(lo, lo + len(block)), block

    def rounded(self) -> Tensor:
        """All rows as bfloat16, (n, d)."""
        out = torch.empty(self.shape, dtype=torch.bfloat16)
        into = out.view(torch.int16).numpy()
        run_rows(coded_kernels.round_range, even_bounds(*self.shape), self.stored, 0, into)
        return out

    def bound(self) -> float:
        """No entry is larger than this."""
        return float(self.stored.scale.max(initial=0.0)) * largest(self.stored.bits)
