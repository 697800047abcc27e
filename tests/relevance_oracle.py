"""Relevance and rollout written out: whole matrices, eager attention with its gradients retained.

Independent of foveate; the rules are those of Chefer, Gur and Wolf (2021), equations 5 to 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Maps = list[Tensor]  # a layer each, [B, H, Sq, Sk]
NAMES = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")


def maps(
    model: Any, given: dict[str, Any], pick: Callable[[Any], Tensor]
) -> dict[str, tuple[Maps, Maps]]:
    """Attention and its gradient of ``pick(output).sum()``, by name, of an eager model."""
    with torch.enable_grad():
        output = model(**given, output_attentions=True)
        found = {n: list(m) for n in NAMES if (m := getattr(output, n, None))}
        flat = [layer for name in found for layer in found[name]]
        grads = list(torch.autograd.grad(pick(output).sum(), flat))
    result = {}
    for name, layers in found.items():
        taken = [grads.pop(0) for _ in layers]
        result[name] = ([layer.detach() for layer in layers], taken)
    return result


def cam(attention: Tensor, gradient: Tensor) -> Tensor:
    """Equation 5: ``E_h[(∇A ⊙ A)^+]``."""
    return (gradient * attention).clamp(min=0).mean(1)


def self_attention(pair: tuple[Maps, Maps]) -> Tensor:
    """Equation 6, layer by layer: ``R ← R + Ā R``; ``[B, S, S]``."""
    R = torch.eye(pair[0][0].shape[-1], dtype=pair[0][0].dtype)[None]
    for attention, gradient in zip(*pair, strict=True):
        R = R + cam(attention, gradient) @ R
    return R


def normalised(R: Tensor) -> Tensor:
    """Equations 8 and 9: the identity, and the rest with its rows summing to 1."""
    eye = torch.eye(R.shape[-1], dtype=R.dtype)
    rest = R - eye
    sums = rest.sum(-1, keepdim=True)
    return torch.where(sums != 0, rest / sums, 0.0) + eye


def encoder_decoder(found: dict[str, tuple[Maps, Maps]]) -> tuple[Tensor, Tensor]:
    """Equations 6, 7 and 10: ``R_qi [B, Sq, Si]`` and ``R_qq [B, Sq, Sq]``."""
    R_ii = self_attention(found["encoder_attentions"])
    own, cross = found["decoder_attentions"], found["cross_attentions"]
    queries = own[0][0].shape[-1]
    R_qq = torch.eye(queries, dtype=R_ii.dtype).expand(len(R_ii), -1, -1)
    R_qi = torch.zeros(len(R_ii), queries, R_ii.shape[-1], dtype=R_ii.dtype)
    for n in range(len(own[0])):
        A = cam(own[0][n], own[1][n])
        R_qi, R_qq = R_qi + A @ R_qi, R_qq + A @ R_qq
        C = cam(cross[0][n], cross[1][n])
        R_qi = R_qi + normalised(R_qq).mT @ C @ normalised(R_ii)
    return R_qi, R_qq


def rollout(layers: Maps) -> Tensor:
    """Abnar and Zuidema: ``A + I`` with its rows normalised, layer on layer; ``[B, S, S]``."""
    R = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype)[None]
    for attention in layers:
        mixed = attention.mean(1) + torch.eye(attention.shape[-1], dtype=attention.dtype)
        R = mixed / mixed.sum(-1, keepdim=True) @ R
    return R


def recorded(
    model: Any, given: dict[str, Any], pick: Callable[[Any], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Attention and its gradient by module, in the order they ran, of an eager model of any kind.

    For models that hand out the maps of one of their parts only.
    """
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if isinstance(weights, Tensor) and weights.dim() == 4:
                found.setdefault(name, weights)

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in model.named_modules()]
    try:
        with torch.enable_grad():
            value = pick(model(**given)).sum()
            unique = {id(weights): name for name, weights in reversed(found.items())}
            names = [name for name in found if name in unique.values()]
            grads = torch.autograd.grad(value, [found[n] for n in names], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    empty = [torch.zeros_like(found[n]) if g is None else g for n, g in zip(names, grads)]
    return {n: (found[n].detach(), g) for n, g in zip(names, empty, strict=True)}


def looking(steps: list[tuple[bool, Tensor, Tensor]], R_ii: Tensor) -> tuple[Tensor, Tensor]:
    """Rules 6, 7 and 10 in the order of ``steps (crosses, A, ∇A)``: ``R_qi`` and ``R_qq``."""
    queries = max(A.shape[-2] for _, A, _ in steps)
    R_qq = torch.eye(queries, dtype=R_ii.dtype)[None]
    R_qi = torch.zeros(len(R_ii), queries, R_ii.shape[-1], dtype=R_ii.dtype)
    for crosses, A, gradient in steps:
        step = cam(A, gradient)
        if crosses:
            missing = queries - step.shape[1]  # queries that do not look across come last
            step = torch.nn.functional.pad(step, (0, 0, 0, missing))
            R_qi = R_qi + normalised(R_qq).mT @ step @ normalised(R_ii)
        else:
            R_qi, R_qq = R_qi + step @ R_qi, R_qq + step @ R_qq
    return R_qi, R_qq
