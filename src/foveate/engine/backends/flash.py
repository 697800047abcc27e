"""torch's private flash operators, and nothing else: the one file to mend when torch changes them.

The operators return the row-wise ``lse`` beside the output, which the public
``scaled_dot_product_attention`` does not; that is what merging needs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

_FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
_BACKWARD = "_scaled_dot_product_flash_attention_for_cpu_backward"
_NEEDED = {
    _FORWARD: ("query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale"),
    _BACKWARD: (
        *("grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal"),
        *("attn_mask", "scale"),
    ),
}


@cache
def _operators_fit() -> bool:
    for name, wanted in _NEEDED.items():
        packet = getattr(torch.ops.aten, name, None)
        if packet is None:
            return False
        if tuple(a.name for a in packet.default._schema.arguments) != wanted:
            return False
    return True


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :func:`flash` runs for tensors of this device and dtype with this torch."""
    return device.type == "cpu" and dtype.is_floating_point and _operators_fit()


class _Flash(torch.autograd.Function):
    """One flash call whose output *and* ``lse`` have exact gradients.

    The flash backward computes ``dS = P * (dP - delta)`` with ``delta = sum(dout * out)``. A
    gradient ``g`` of ``lse`` adds ``P * g``, that is ``delta - g``: one more column, 0 in V, 1 in
    ``out`` and ``-g`` in ``dout``, gives exactly that with the operator unmodified. Merged calls,
    sinks and row gains are then ordinary autograd on top.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
        ctx.save_for_backward(q, k, v, mask, out, lse)
        ctx.causal, ctx.scale = causal, scale
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
        q, k, v, mask, out, lse = ctx.saved_tensors
        width = q.shape[-1]
        if dout is None:
            dout = torch.zeros_like(out)
        if dlse is not None:
            q, k, v = (torch.nn.functional.pad(x, (0, 1)) for x in (q, k, v))
            out = torch.cat([out, torch.ones_like(out[..., :1])], -1)
            dout = torch.cat([dout, -dlse.to(dout.dtype).unsqueeze(-1)], -1)
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            dout, q, k, v, out, lse, 0.0, ctx.causal, attn_mask=mask, scale=ctx.scale
        )
        return (*(g[..., :width] for g in grads), None, None, None)


def flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Flash attention with its ``lse``; both differentiable with respect to q, k and v.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B,Hq,Sq,E]``, ``[B,Hkv,Sk,E]``, ``[B,Hkv,Sk,E]``: one head size for all three.
    mask : Tensor, optional
        Additive, ``[B|1, Hq|1, Sq|1, Sk]``, in q's dtype (float32 allowed for half precision). Has
        no gradient.
    causal : bool
        Aligned upper left: query ``i`` sees keys ``0 … i``.

    Returns
    -------
    out, lse : Tensor
        ``[B,Hq,Sq,E]`` and ``[B,Hq,Sq]`` (float32 or wider). For a row with nothing visible the
        kernel says ``lse = 0``: callers must know such rows from elsewhere.
    """
    # What the public operator sees to before it calls the kernel, which reads past the tensor or
    # multiplies -inf by a negative scale otherwise.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if scale < 0:
        q, scale = -q, -scale
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        out, lse = _Flash.apply(q, k, v, mask, causal, scale)
    else:  # in decode the bookkeeping of an autograd Function would cost a quarter of the call
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
    return out, lse
