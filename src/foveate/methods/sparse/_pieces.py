"""Dense calls that the methods of this room put together, through the planner."""

from __future__ import annotations

from torch import Tensor

from ...engine.planner import plan
from ...engine.program import Program
from ...engine.shapes import Shapes

__all__ = ["attend", "exact"]


def exact(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Every pair: ``mask`` is ``[B|1, Hq|1, 1, Sk]``; ``causal`` from the upper left."""
    bias = None if mask is None else mask[:, :, 0]
    program = Program(scale=scale, causal=causal, q_offset=0, key_bias=bias)
    done = plan(program, Shapes.of(q, k, v)).run(q, k, v)
    return done.out, done.lse


def attend(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, keys: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """``N`` pieces, in each ``m`` rows on ``n`` keys: ``out [N, m, Dv]`` and ``lse [N, m]``.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B,Hq,Sq,D]``, ``[B,Hkv,Sk,D]``, ``[B,Hkv,Sk,Dv]``.
    rows, keys : Tensor
        int64 ``[N, m]`` and ``[N, n]``: places in q and k, batch and heads flattened.
    mask : Tensor
        Additive, ``[N, n]``.
    """

    def taken(x: Tensor, index: Tensor) -> Tensor:
        found = x.reshape(-1, x.shape[-1]).index_select(0, index.flatten())
        return found.view(len(index), 1, -1, x.shape[-1])

    out, lse = exact(
        taken(q, rows), taken(k, keys), taken(v, keys), mask[:, None, None], scale, False
    )
    return out[:, 0], lse[:, 0]
