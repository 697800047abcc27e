"""A plan in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .backends import dense, flex, tiles
from .backends.cut import Cut
from .backends.pieces import Selected
from .value_columns import width_of

if TYPE_CHECKING:
    from .planner import Plan


def _si(n: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if n < 1000 or prefix == "T":
            return f"{n:.3g} {prefix}{unit}"
        n /= 1000
    raise AssertionError


def _pairs(plan: Plan) -> int:
    """Pairs of one head that are computed."""
    h = plan.shapes
    if plan.output == "flash" and plan.cut is not None:
        return int(plan.cut.pairs)
    if plan.output == "flash":
        cut = dense.pieces(h.Sq, h.Sk, plan.terms.causal, plan.terms.q_offset)
        return sum(p.pairs for p in cut)
    if plan.output == "tiles":
        blocks = tiles.row_blocks(plan.terms, h)
        return sum((b - a) * (hi - lo) for a, b, lo, hi in blocks)
    if plan.output == "flex" and h.device.type in flex.FUSED:
        return flex.pairs(plan.terms, h)
    if plan.output == "few" and plan.terms.causal:
        return h.Sq * max(0, min(h.Sk, plan.terms.q_offset + h.Sq))
    return h.Sq * h.Sk


def _interventions(plan: Plan) -> list[str]:
    found = []
    if plan.terms.key_mask is not None:
        found.append(
            "key-only terms (padding, key biases, constant gains): "
            + ("added in the kernel" if plan.output == "flex" else "a broadcast mask")
            + ", no extra pass"
        )
    rank = sum(psi.shape[-1] for _, psi in plan.terms.columns)
    if rank:
        found.append(
            f"query-dependent terms of rank {rank}: "
            + (
                {"flash": "columns of Q and K", "flex": "added in the kernel"}.get(
                    plan.output, "added a tile at a time"
                )
                + ", no extra pass"
            )
        )
    if plan.output == "flex":
        dense = plan.terms.bias is not None
        scores = ["the soft-cap"] * (plan.terms.softcap is not None) + ["the dense bias"] * dense
        if scores:
            found.append(f"{' and '.join(scores)}: in the kernel, no extra pass")
        if plan.terms.pattern is not None:
            own = hasattr(plan.terms.pattern, "visible")
            found.append(
                "the pattern: blocks it hides are skipped; in blocks seen in part "
                + ("its own function is compiled in" if own else "its tiles are looked up")
            )
    adaptive = sum(gain.adaptive for gain, _, _ in plan.terms.adaptive)
    if adaptive:
        found.append(
            f"row-adaptive gains ({adaptive}): each row's own masses, within its tile: no extra "
            "pass, tiles instead of the flash kernel"
        )
    if plan.terms.sinks is not None:
        found.append("learned sinks: one more partial, merged")
    if plan.program.head_scale is not None:
        found.append("per-head scales of the output: free")
    return found


def explain(plan: Plan) -> str:
    """See :meth:`foveate.engine.planner.Plan.explain`."""
    h = plan.shapes
    group = f" (groups of {h.Hq // h.Hkv})" if h.Hq != h.Hkv else ""
    lines = [
        f"q [{h.B}, {h.Hq}, {h.Sq}, {h.D}], {h.Sk} keys{group}, "
        f"{str(h.dtype).removeprefix('torch.')} on {h.device.type}"
    ]
    passes = 1
    width = max(h.D, h.Dv)
    if plan.output == "routed":
        lines.append(
            f"output: once the queries and keys are there; {plan.program.pattern!r} chooses"
        )
    elif plan.output == "operator":
        lines.append(f"output: {plan.program.operators[-1]!r} on the rest of the program")
    elif plan.output == "flash" and isinstance(plan.cut, Selected):
        count = sum(piece.rows.shape[-2] for piece in plan.cut.pieces)
        share = plan.cut.pairs / (h.Sq * h.Sk)
        lines.append(
            f"output: flash kernel on {count} pieces a head that were chosen by content "
            f"({share:.1%} of the pairs), merged"
        )
    elif plan.output == "flash" and isinstance(plan.cut, Cut):
        count = sum(len(g.rows) for part in plan.cut.parts for g in part.groups or ())
        share = plan.cut.pairs / (h.Sq * h.Sk)
        lines.append(
            f"output: flash kernel on {count} blocks of queries, each with the keys it sees "
            f"({share:.1%} of the pairs)"
        )
    elif plan.output == "flash":
        cut = dense.pieces(h.Sq, h.Sk, plan.terms.causal, plan.terms.q_offset)
        shapes = ", ".join(
            f"{p.q_stop - p.q_start}×{p.k_stop - p.k_start}{' causal' if p.causal else ''}"
            for p in cut
        )
        merged = ", merged" if len(cut) > 1 else ""
        lines.append(
            f"output: flash kernel, {len(cut)} piece{'s' * (len(cut) != 1)} ({shapes}){merged}"
        )
    elif plan.output == "few":
        lines.append("output: one flash call, no key copied (few queries)")
    elif plan.output == "flex":
        how = "compiled" if h.device.type in flex.FUSED else "uncompiled: it holds the matrix"
        lines.append(f"output: FlexAttention, {how}, in blocks of {flex.BLOCK} ({plan.why})")
    elif plan.output == "tiles":
        blocks = tiles.row_blocks(plan.terms, h)
        lines.append(f"output: {len(blocks)} tile{'s' * (len(blocks) != 1)} of scores ({plan.why})")
    else:
        lines.append("output: the whole matrix in float64 (reference)")
    if plan.output == "flash":
        score = sum(psi.shape[-1] for _, psi in plan.terms.columns)
        value = sum(width_of(r) for r in plan.program.reads) if plan.one_pass else 0
        width = max(h.D + score, h.Dv + value)
        if width > max(h.D, h.Dv):
            width += -width % 8
            lines.append(f"  head size {h.D} → {width}: {score} score and {value} value columns")
    lines += [f"  {line}" for line in _interventions(plan)]
    keys = ", ".join(k for r in plan.program.reads for k in r.keys)
    if keys:
        how = {"columns": "value columns", "tiles": "tiles", "reference": "the matrix"}[plan.reads]
        where = "in the same pass" if plan.one_pass else "in one more pass, float32"
        aside = plan.output in ("tiles", "flex")  # whose reason is told above
        lines.append(f"measures: {keys}: by {how} {where}" + ("" if aside else f" ({plan.why})"))
        passes += not plan.one_pass
    for other in plan.more:
        keys = ", ".join(k for r in other.program.reads for k in r.keys)
        if all(r.kind == "rows" for r in other.program.reads):
            lines.append(f"measures: {keys}: those rows recomputed")
            continue
        before = " before the gains" if other.program.reads[0].at == "before" else ""
        lines.append(f"measures{before}: {keys}: one more pass ({other.reads})")
        passes += 1
    if plan.output in ("routed", "operator"):
        return "\n".join(lines)  # how much is known once it runs
    pairs = _pairs(plan)
    flops = 4 * h.B * h.Hq * pairs * width * passes
    size = h.dtype.itemsize
    io = size * h.B * (2 * h.Hq * h.Sq * width + 2 * h.Hkv * h.Sk * width) * passes
    held = max(_held(p, width if p is plan else max(h.D, h.Dv)) for p in (plan, *plan.more))
    whole = h.B * h.Hq * h.Sq * h.Sk * size
    lines.append(
        f"{_si(flops, 'FLOP')} in {passes} pass{'es' * (passes > 1)}; moves {_si(io, 'B')}; "
        f"holds {_si(held, 'B')} beside them (the matrix would be {_si(whole, 'B')})"
    )
    return "\n".join(lines)


def _held(plan: Plan, width: int) -> int:
    """Bytes held beside inputs and output at the worst moment (contiguous inputs)."""
    h, wide = plan.shapes, plan.shapes.stat_dtype.itemsize
    if plan.output == "reference" or (plan.output == "flex" and h.device.type not in flex.FUSED):
        return 3 * 8 * h.B * h.Hq * h.Sq * h.Sk
    tensors = h.B * (h.Hq * h.Sq + 2 * h.Hkv * h.Sk)
    if "tiles" in (plan.output, plan.reads):
        blocks = tiles.row_blocks(plan.terms, h)
        tile = max(2 * (b - a) * (hi - lo) * h.B * h.Hq * wide for a, b, lo, hi in blocks)
        return tile + (wide * tensors * max(h.D, h.Dv) if h.half else 0)
    if plan.reads == "columns" and not plan.one_pass:
        return wide * tensors * width  # float32 copies for the statistics
    if width > max(h.D, h.Dv) or (h.Dv != h.D and plan.output == "flash"):
        per_head = any(psi.shape[1] not in (1, h.Hkv) for _, psi in plan.terms.columns)
        keys = h.Hq if per_head else h.Hkv
        return h.dtype.itemsize * h.B * width * (h.Hq * h.Sq + 2 * keys * h.Sk)
    return 0
