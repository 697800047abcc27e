"""The plot of a card: both values, and the interval of their difference, as an inline SVG."""

from __future__ import annotations

import math
import textwrap
from html import escape

from ..verdicts import Evidence
from .figures import number

__all__ = ["svg"]

_WIDTH, _LEFT, _RIGHT = 640, 24, 24
_BASE, _METHOD = "#8a8f98", "#2f80c8"  # hold on light and on dark
_LONGEST = 84  # letters of a name that fit on a line


def svg(evidence: Evidence, ink: str = "currentColor") -> str | None:
    """Draw the figures of one experiment.

    Above: baseline and method as points on one axis. Below: the paired interval of
    ``method - baseline`` beside 0, filled where it leaves 0 out.

    Parameters
    ----------
    evidence : Evidence
    ink : str
        The colour of text and axes. Within a page that of its text; a file on its own needs one
        that can be read on light and on dark.

    Returns
    -------
    str or None
        A self-contained ``<svg>``; None where there is no figure to draw.
    """
    if evidence.baseline is None or evidence.method is None or evidence.interval is None:
        return None
    base, method = float(evidence.baseline["value"]), float(evidence.method["value"])
    low, high = evidence.interval
    say = "; ".join(
        (
            f"{evidence.baseline['name']}: {number(base)}",
            f"{evidence.method['name']}: {number(method)}",
            f"difference {number(low)} to {number(high)}",
        )
    )
    upper = _Axis([base, method])
    lower = _Axis([low, high, 0.0])
    parts = [
        _text(_LEFT, 16, evidence.baseline["name"], base),
        _point(upper(base), 30, _BASE),
        _text(_LEFT, 54, evidence.method["name"], method),
        _point(upper(method), 68, _METHOD),
        *upper.ticks(84),
        f'<text x="{_LEFT}" y="128">method − baseline, 95 % interval: '
        f"{number(low)} to {number(high)}</text>",
        f'<line stroke="#999" x1="{lower(0):.1f}" x2="{lower(0):.1f}" y1="136" y2="160" '
        'stroke-dasharray="3 2"/>',
        f'<line x1="{lower(low):.1f}" x2="{lower(high):.1f}" y1="148" y2="148" '
        f'stroke="{_METHOD if low > 0 or high < 0 else _BASE}" stroke-width="7" '
        'stroke-linecap="round"/>',
        *lower.ticks(164),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} 186" role="img" '
        f'width="{_WIDTH}" style="max-width:100%;height:auto" aria-label="{escape(say)}" '
        f'font-family="system-ui,sans-serif" font-size="13" fill="{ink}" stroke-width="1">'
        f"{''.join(parts)}</svg>"
    )


class _Axis:
    """A linear axis over some values, with a margin and round ticks."""

    def __init__(self, values: list[float]) -> None:
        low, high = min(values), max(values)
        margin = (high - low or abs(high) or 1.0) * 0.12
        self.low, self.high = low - margin, high + margin

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self, y: int) -> list[str]:
        step = _round((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        out = [f'<line stroke="#999" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>']
        for n in range(first, last + 1):
            x = self(n * step)
            out.append(f'<line stroke="#999" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
            out.append(
                f'<text font-size="11" x="{x:.1f}" y="{y + 16}" text-anchor="middle">'
                f"{n * step:.4g}</text>"
            )
        return out


def _round(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _text(x: int, y: int, name: str, value: float) -> str:
    short = escape(textwrap.shorten(name, _LONGEST, placeholder=" …"))
    return f'<text x="{x}" y="{y}">{short}: <tspan font-weight="600">{number(value)}</tspan></text>'


def _point(x: float, y: int, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y}" r="6" fill="{colour}"/>'
