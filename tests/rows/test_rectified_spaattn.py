"""Rectified SpaAttn: chosen blocks at the mass that pooling says they have, the others pooled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foveate as fv

Make = Callable[..., Any]  # (density, mass, block, gain) -> operators
D = 8


def baseline(density: float, mass: float, block: int, gain: bool = True) -> list[Any]:
    """Plain attention."""
    return []


def tensors(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """``[2, 2, n, 8]`` each; neighbours resemble each other, as in a video."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, n, D, generator=g, dtype=torch.float64).unbind(0)
    smooth = torch.exp(-((torch.arange(n)[:, None] - torch.arange(n)).double() ** 2) / 8)
    smooth = smooth / smooth.square().sum(-1, keepdim=True).sqrt()
    return 1.5 * smooth @ q, 1.5 * smooth @ k, v


def by_the_book(
    q: Tensor, k: Tensor, v: Tensor, text: Tensor, density: float, mass: float, block: int,
    gain: bool,
) -> Tensor:  # fmt: skip
    """One head ``[n, D]`` at a time, block by block, with everything written out."""
    image = (~text).nonzero()[:, 0]
    words = text.nonzero()[:, 0]
    parts = list(image.split(block))
    out = (q @ k.mT / D**0.5).softmax(-1) @ v  # the text's own queries
    for rows in parts:
        mean_q = q[rows].mean(0)
        scores, errors = [], []
        for cols in parts:
            mean_k = k[cols].mean(0)
            scores.append(float(mean_q @ mean_k))
            off_q = (q[rows] - mean_q).abs().mean(0)
            off_k = (k[cols] - mean_k).abs().mean(0)
            errors.append(abs(float(off_q @ mean_k)) + abs(float(mean_q @ off_k)))
        held = [
            len(c) * torch.tensor(s / D**0.5, dtype=torch.float64).exp()
            for c, s in zip(parts, scores, strict=True)
        ]
        held.append((mean_q @ k[words].mT / D**0.5).exp().sum())
        share = torch.stack(held) / sum(held)
        order = share.argsort(descending=True).tolist()
        chosen, total = set(), 0.0
        for place in order:  # the first that passes the mass is the last taken
            chosen.add(place)
            total += float(share[place])
            if total > mass:
                break
        pooled = [place for place in order if place < len(parts)]
        chosen |= set(pooled[: int(density * len(parts))])
        back = [
            j
            for j in range(len(parts))
            if j not in chosen and (not gain or abs(scores[j]) > errors[j])
        ]
        seen = torch.cat([*(parts[j] for j in sorted(chosen) if j < len(parts)), words])
        sparse = (q[rows] @ k[seen].mT / D**0.5).softmax(-1) @ v[seen]
        given = sum((share[j] * v[parts[j]].mean(0) for j in back), torch.zeros_like(v[0]))
        out[rows] = sparse * (1 - sum(float(share[j]) for j in back)) + given
    return out


def check(make: Make) -> None:
    """Against the formula written out, and the limits in which attention is dense."""
    n = 70
    for text in (torch.arange(n) < 6, torch.arange(n) >= 64):
        for density, mass, block, gain in (
            (0.3, 0.1, 8, True),
            (0.0, 0.5, 16, True),
            (0.5, 0.0, 7, False),
        ):
            q, k, v = tensors(n)
            operators = make(density, mass, block, gain)
            got = fv.attention(q, k, v, regions={"text": text}, operators=operators).out
            for b in range(2):
                for h in range(2):
                    want = by_the_book(q[b, h], k[b, h], v[b, h], text, density, mass, block, gain)
                    assert torch.allclose(got[b, h], want), (density, mass, block, gain)

        q, k, v = tensors(n, seed=1)
        image = ~text
        alike = [x.clone() for x in (q, k, v)]
        for x in alike:  # constant within blocks of 8
            x[:, :, image] = x[:, :, image][:, :, ::8].repeat_interleave(8, 2)
        for (a, b, c), density, block in (
            ((q, k, v), 1.0, 8),
            ((q, k, v), 0.2, 1),
            (alike, 0.2, 8),
        ):
            dense = fv.attention(a, b, c)
            got = fv.attention(a, b, c, regions={"text": text}, operators=make(density, 0.2, block))
            assert torch.allclose(got.out, dense.out), (density, block)
            assert torch.allclose(got.lse, dense.lse), (density, block)


def test_it_is_the_papers_formula() -> None:
    check(
        lambda density, mass, block, gain=True: [
            fv.RectifiedSpaAttn(density, mass, block=block, gain=gain)
        ]
    )
