"""Exact attention for very many short windows, with nothing of windows x L x L kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._implements import implements
from ..errors import FoveateError

__all__ = ["flash_window_attention"]

# Bytes of scores held at once: on a CPU about what a core's cache holds, on other devices enough to
# keep them busy.
ON_CHIP = {"cpu": 1 << 20}
ELSEWHERE = 1 << 28


@implements("flash-window-attention", basis="paper")
def flash_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """``softmax(scale * q k^T + bias + mask) v`` in each of many short windows.

    A window's scores are small enough to be held whole where they are computed, so nothing is cut
    along the sequence: ``q k^T`` is summed over chunks of features, one ordinary softmax follows,
    and the output is made chunk by chunk. The backward pass computes the probabilities again in the
    same way. Kept for it are the arguments alone, never a tensor of windows x heads x L x L.

    On a CPU as many windows are taken at once as the cache holds.

    Parameters
    ----------
    q, k, v : Tensor
        ``[N, H, L, D]``, ``[N, H, Lk, D]``, ``[N, H, Lk, Dv]`` of N windows and H heads. In half
        precision sums are float32.
    bias : Tensor, optional
        Of all windows, such as Swin's relative position bias: ``[H, L, Lk]``. Has a gradient.
    mask : Tensor, optional
        Bool, True where a key is seen, of windows in turn: ``[M, L | 1, Lk]`` with M a divisor of
        N, and window n has row ``n mod M`` (Swin's shifted windows; images come first). Every query
        must see a key.
    scale : float, optional
        Default ``D ** -0.5``.
    chunk : int, optional
        Features taken at once; it need not divide D. Default: all, as on a CPU the matrix product
        goes by chunks itself. The result does not depend on it but for rounding.

    Returns
    -------
    Tensor
        ``[N, H, L, Dv]``; differentiable once in q, k, v and bias.

    Raises
    ------
    FoveateError
        Shapes that do not fit; a mask that is not bool or hides all keys from a query.

    Notes
    -----
    As the authors' kernels: what is saved, what is recomputed, sums in float32, a gradient of the
    bias summed over windows. Theirs take head sizes that are multiples of 16 and no mask (their
    shifted windows leave it out where the fast path is on); here the mask is applied. Dropout of
    probabilities is not offered, as there. Cutting over windows so that scores stay in the cache is
    the CPU's form of their one window a thread block.

    References
    ----------
    Zhang, "Flash Window Attention: speedup the attention computation for Swin Transformer" (2025),
    section 3, and the authors' ``kernel_window_forward.py`` and ``kernel_window_backward.py``.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> q, k, v = torch.randn(3, 128, 3, 49, 32)
    >>> bias = torch.randn(3, 49, 49, requires_grad=True)
    >>> out = fv.layers.flash_window_attention(q, k, v, bias)
    >>> out.sum().backward()
    >>> out.shape, bias.grad.shape
    """
    _check(q, k, v, bias, mask)
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise FoveateError(f"chunk={chunk!r} was given; a number of features (at least 1) wanted.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _FlashWindow.apply(q, k, v, bias, mask, float(scale), chunk)
    return out


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    shapes = ", ".join(str(list(x.shape)) for x in (q, k, v))
    fits = q.dim() == k.dim() == v.dim() == 4 and (
        q.shape[:2] == k.shape[:2] == v.shape[:2]
        and q.shape[-1] == k.shape[-1]
        and k.shape[2] == v.shape[2]
        and 0 not in (*q.shape, *k.shape, *v.shape)
    )
    if not fits:
        raise FoveateError(
            f"q, k, v are {shapes}; [N, H, L, D], [N, H, Lk, D] and [N, H, Lk, Dv] were wanted, "
            "none of them empty."
        )
    if not (q.dtype == k.dtype == v.dtype and q.dtype.is_floating_point):
        raise FoveateError(f"q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; one float type wanted.")
    N, H, L, Lk = *q.shape[:3], k.shape[2]
    if bias is not None and tuple(bias.shape) != (H, L, Lk):
        raise FoveateError(f"bias is {list(bias.shape)}; [H, L, Lk] = {[H, L, Lk]} was wanted.")
    if mask is None:
        return
    given = f"mask is {list(mask.shape)} of {mask.dtype}"
    if mask.dtype != torch.bool:
        raise FoveateError(f"{given}; bool was wanted, True where a key is seen.")
    if mask.dim() != 3 or mask.shape[1] not in (1, L) or mask.shape[2] != Lk or N % len(mask):
        raise FoveateError(f"{given}; [M, {L} or 1, {Lk}] was wanted, M a divisor of {N} windows.")
    if not bool(mask.any(-1).all()):
        raise FoveateError(f"{given} and hides every key from a query; leave each query one key.")


def _steps(q: Tensor, keys: int) -> Iterator[slice]:
    """Windows to take at once."""
    N, H, L, _ = q.shape
    held = ON_CHIP.get(q.device.type, ELSEWHERE)
    step = max(1, held // (4 * H * L * keys))
    step = math.ceil(N / math.ceil(N / step))  # as even as can be
    return (slice(start, min(start + step, N)) for start in range(0, N, step))


def _features(width: int, chunk: int | None) -> list[slice]:
    chunk = width if chunk is None else min(chunk, width)
    return [slice(start, start + chunk) for start in range(0, width, chunk)]


def _product(a: Tensor, b: Tensor, chunk: int | None) -> Tensor:
    """``a b^T``, summed over chunks of features: ``[n, L, E] x [n, Lk, E] -> [n, L, Lk]``."""
    first, *rest = _features(a.shape[-1], chunk)
    total = torch.bmm(a[..., first], b[..., first].mT)
    for part in rest:
        total.baddbmm_(a[..., part], b[..., part].mT)
    return total


def _write(into: Tensor, weights: Tensor, x: Tensor, chunk: int | None) -> None:
    """``weights x`` into ``[n, H, L, E]``, chunk by chunk of E."""
    shape = into.shape[:3]
    for part in _features(x.shape[-1], chunk):
        into[..., part] = torch.bmm(weights, x[..., part]).view(*shape, -1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _flat(x: Tensor) -> Tensor:
    """``[n, H, L, E] -> [n * H, L, E]`` in the dtype of sums."""
    return x.to(_wide(x)).reshape(-1, *x.shape[2:])


def _like(x: Tensor, width: int) -> Tensor:
    """Empty ``[N, H, L, width]``, heads beside each other in memory, as a projection wants them."""
    N, H, L, _ = x.shape
    return x.new_empty(N, L, H, width).transpose(1, 2)


class _FlashWindow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None,
        scale: float, chunk: int | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q, k, v, bias, mask)
        ctx.scale, ctx.chunk = scale, chunk
        out = _like(q, v.shape[-1])
        with torch.autocast(q.device.type, enabled=False):
            for part in _steps(q, k.shape[2]):
                p = _probabilities(q, k, bias, mask, scale, chunk, part)
                _write(out[part], p, _flat(v[part]), chunk)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        q, k, v, bias, mask = ctx.saved_tensors
        scale, chunk = ctx.scale, ctx.chunk
        dq, dk, dv = (_like(x, x.shape[-1]) for x in (q, k, v))
        dbias = None if bias is None else bias.new_zeros(bias.shape, dtype=_wide(bias))
        with torch.autocast(q.device.type, enabled=False):
            for part in _steps(q, k.shape[2]):
                p = _probabilities(q, k, bias, mask, scale, chunk, part)
                given = _flat(dout[part])
                _write(dv[part], p.mT, given, chunk)
                ds = _product(given, _flat(v[part]), chunk).mul_(p)  # P * dP
                ds.addcmul_(p, ds.sum(-1, keepdim=True), value=-1)
                if dbias is not None:
                    dbias += ds.view(-1, *dbias.shape).sum(0)
                ds *= scale
                _write(dq[part], ds, _flat(k[part]), chunk)
                _write(dk[part], ds.mT, _flat(q[part]), chunk)
        found = None if dbias is None else dbias.to(bias.dtype)
        return dq, dk, dv, found, None, None, None


def _probabilities(
    q: Tensor, k: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float,
    chunk: int | None, part: slice,
) -> Tensor:  # fmt: skip
    """The probabilities of some windows, ``[n * H, L, Lk]``."""
    scores = _product(_flat(q[part]) * scale, _flat(k[part]), chunk)
    each = scores.view(-1, q.shape[1], *scores.shape[1:])
    if bias is not None:
        each += bias
    if mask is not None:
        which = torch.arange(part.start, part.stop, device=mask.device) % len(mask)
        each.masked_fill_(~mask[which][:, None], -math.inf)
    return torch.softmax(scores, -1)
