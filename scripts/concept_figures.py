"""Draw the figures of ``docs/concepts.md`` from the numbers they speak of.

``python scripts/concept_figures.py`` writes ``docs/figures/*.svg``. Each figure is a small causal
attention of 14 tokens, computed here; what it claims is checked before it is drawn.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import torch
from torch import Tensor

import foveate as fv

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
N, D, CELL = 14, 8, 15
INK, BLUE, WARM = "#808080", "#2f80c8", "#c9713a"  # hold on light and on dark


def main() -> None:
    """Write the four figures."""
    torch.manual_seed(3)
    q, k, v = (torch.randn(1, 1, N, D, dtype=torch.float64) * 1.3 for _ in range(3))
    FOLDER.mkdir(exist_ok=True)
    figures = {
        "merge": merge(q, k, v),
        "columns": columns(q, k),
        "values": values(q, k, v),
        "received": received(q, k, v),
    }
    for name, text in figures.items():
        (FOLDER / f"{name}.svg").write_text(text + "\n", "utf-8")


def merge(q: Tensor, k: Tensor, v: Tensor) -> str:
    """One query over two sets of keys, and over both."""
    s = (q[0, 0, -1] @ k[0, 0].T) / D**0.5
    half = N // 2
    parts = s[:half], s[half:]
    lses = [part.logsumexp(0) for part in parts]
    lse = s.logsumexp(0)
    shares = [(one - lse).exp() for one in lses]
    alone = torch.cat([part.softmax(0) for part in parts])
    merged = torch.cat([part.softmax(0) * share for part, share in zip(parts, shares, strict=True)])
    assert torch.allclose(merged, s.softmax(0))
    outs = [
        fv.Partial(alone[None, None, None, cut] @ v[:, :, cut], one.view(1, 1, 1))
        for cut, one in zip((slice(half), slice(half, None)), lses, strict=True)
    ]
    assert torch.allclose(fv.merge(*outs).out[0, 0, 0], s.softmax(0) @ v[0, 0])
    body = label(10, 16, "the softmax over set A alone, and over set B alone")
    body += bars(10, 100, alone, 40, 72, split=half)
    body += label(10, 126, f"lse = {lses[0]:.2f}") + label(
        10 + 40 * half, 126, f"lse = {lses[1]:.2f}"
    )
    body += label(10, 156, f"weights: e^(lse − lse of all) = {shares[0]:.2f} and {shares[1]:.2f}")
    body += label(10, 184, "together: exactly the softmax over all keys")
    body += bars(10, 268, merged, 40, 72, split=half)
    return svg(590, 280, body, "Two partial softmaxes merged into the softmax over all keys")


def columns(q: Tensor, k: Tensor) -> str:
    """Scores, a term of rank 2, and both from longer queries and keys."""
    position = torch.arange(N, dtype=torch.float64)
    phi = torch.stack([torch.ones(N).double(), position / 3], 1)
    psi = torch.stack([-((position - 4) ** 2) / 9, torch.sin(position)], 1)
    scores, term = q[0, 0] @ k[0, 0].T, phi @ psi.T
    longer = torch.cat([q[0, 0], phi], 1) @ torch.cat([k[0, 0], psi], 1).T
    assert torch.allclose(longer, scores + term)
    body, x = "", 10
    names = ("Q Kᵀ", "Σ φ ψ, rank 2", "[Q, φ] [K, ψ]ᵀ: the same kernel")
    for name, grid, sign in zip(names, (scores, term, longer), ("+", "=", ""), strict=True):
        body += label(x, 16, name) + heat(x, 26, (grid - grid.min()) / (grid.max() - grid.min()))
        body += label(x + N * CELL + 9, 26 + N * CELL / 2, sign)
        x += N * CELL + 30
    return svg(x - 10, 26 + N * CELL + 10, body, "A low-rank score term as two more columns")


def values(q: Tensor, k: Tensor, v: Tensor) -> str:
    """The mass on a region as one more column of the values."""
    region = torch.zeros(N, dtype=torch.bool)
    region[3:6] = True
    p = probabilities(q, k)
    wider = torch.cat([v[0, 0], region[:, None].double()], 1)
    mass = (p @ wider)[:, -1]
    asked = fv.attention(q, k, v, causal=True, regions={"a": region}, measures=[fv.mass("a")])
    assert torch.allclose(asked.measures["mass:a"][0, 0].double(), mass, atol=1e-6)
    body = label(10, 16, "P, the region outlined") + heat(10, 26, p / p.max())
    body += (
        f'<rect x="{10 + 3 * CELL}" y="26" width="{3 * CELL}" height="{N * CELL}" fill="none" '
        f'stroke="{WARM}" stroke-width="2"/>'
    )
    x = 10 + N * CELL + 40
    body += label(x, 16, "P · 1[region]: its mass, a row")
    for n, one in enumerate(mass.tolist()):
        body += box(x, 28 + n * CELL, one * 180, CELL - 4, WARM, 0.9)
    return svg(x + 200, 26 + N * CELL + 10, body, "The mass on a region as a value column")


def received(q: Tensor, k: Tensor, v: Tensor) -> str:
    """Column sums, and the same from the transposed problem."""
    p = probabilities(q, k)
    s = ((q[0, 0] @ k[0, 0].T) / D**0.5).masked_fill(~torch.ones(N, N).bool().tril(), -torch.inf)
    lse = s.logsumexp(1)
    turned = (s.T - lse).logsumexp(1).exp()  # keys ask, −lse is a term on the queries
    assert torch.allclose(turned, p.sum(0))
    asked = fv.attention(q, k, v, causal=True, measures=[fv.received()]).measures["received"]
    assert torch.allclose(asked[0, 0].double(), turned, atol=1e-5)
    body = label(10, 16, "P (never stored)") + heat(10, 26, p / p.max())
    top = 26 + N * CELL + 90
    for n, one in enumerate(turned.tolist()):
        height = one / turned.max().item() * 70
        body += box(11 + n * CELL, top - height, CELL - 3, height, BLUE, 0.8)
    x = 10 + N * CELL + 24
    for n, line in enumerate(
        (
            "Σ over the queries, P_ij:",
            "what each key receives,",
            "= exp of the lse of the",
            "transposed problem",
        )
    ):
        body += label(x, top - 60 + 18 * n, line)
    return svg(x + 190, top + 10, body, "What each key receives")


def probabilities(q: Tensor, k: Tensor) -> Tensor:
    """The causal softmax, ``[N, N]``."""
    s = (q[0, 0] @ k[0, 0].T) / D**0.5
    return s.masked_fill(~torch.ones(N, N).bool().tril(), -torch.inf).softmax(1)


def heat(x: float, y: float, grid: Tensor) -> str:
    """A matrix with entries in [0, 1] as squares."""
    cells = [
        box(x + j * CELL, y + i * CELL, CELL - 1, CELL - 1, BLUE, 0.06 + 0.94 * one)
        for i, row in enumerate(grid.tolist())
        for j, one in enumerate(row)
    ]
    return "".join(cells)


def bars(x: float, y: float, row: Tensor, width: float, height: float, split: int) -> str:
    """A row of bars that stand on ``y``; those from ``split`` on in the other colour."""
    top = row.max().item()
    return "".join(
        box(x + n * width, y - one / top * height, width - 6, one / top * height, colour, 0.85)
        for n, one in enumerate(row.tolist())
        for colour in (BLUE if n < split else WARM,)
    )


def box(x: float, y: float, width: float, height: float, colour: str, opacity: float) -> str:
    """A filled rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}" fill-opacity="{opacity:.2f}"/>'
    )


def label(x: float, y: float, text: str) -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'


def svg(width: float, height: float, body: str, title: str) -> str:
    """A picture of its own."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" role="img" aria-label="{escape(title)}" '
        f'font-family="system-ui,sans-serif" font-size="14" fill="{INK}">{body}</svg>'
    )


if __name__ == "__main__":
    main()
