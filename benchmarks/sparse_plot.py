"""A scatter of accuracy against time, as SVG that reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 60, 40, 190, 50
COLOURS = (
    "#777", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf",
    "#bcbd22", "#4c78a8", "#b07aa1",
)  # fmt: skip
RADII = {1.0: 7, 0.5: 6, 0.25: 4.5, 0.125: 3}


def svg(points: Sequence[tuple[str, float, float, float]], title: str) -> str:
    """Points ``(method, density, time, share right)``; time 1 is dense attention."""
    names = list(dict.fromkeys(name for name, *_ in points))
    most = max([1.1, *(time for _, _, time, _ in points)])

    def at(time: float, right: float) -> tuple[float, float]:
        x = LEFT + time / most * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(TOP + (1 - right) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui,sans-serif" font-size="13" fill="#777">',
        f'<text x="{LEFT}" y="20">{escape(title)}</text>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, y), (end, _) = at(0, tick), at(most, tick)
        parts.append(f'<path d="M{x} {y}H{end}" stroke="#777" stroke-opacity=".3"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{tick:.0%}</text>')
    for tick in (0, 0.25, 0.5, 0.75, 1, *range(2, int(most) + 1)):
        x, y = at(tick, 0)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{tick:g}</text>')
    x, y = at(most / 2, 0)
    parts.append(f'<text x="{x}" y="{y + 38}" text-anchor="middle">prefill time, dense = 1</text>')
    for n, name in enumerate(names):
        colour = COLOURS[n % len(COLOURS)]
        mine = sorted((one[1:] for one in points if one[0] == name), key=lambda one: one[0])
        line = " ".join("{},{}".format(*at(time, right)) for _, time, right in mine)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" opacity=".5"/>')
        for wanted, time, right in mine:
            x, y = at(time, right)
            about = escape(f"{name}, density {wanted:g}: {right:.0%} in {time:.2f}")
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="{RADII.get(wanted, 5)}" fill="{colour}">'
                f"<title>{about}</title></circle>"
            )
        y = TOP + 6 + 22 * n
        parts.append(f'<circle cx="{WIDTH - RIGHT + 20}" cy="{y}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 32}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
