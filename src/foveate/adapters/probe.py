"""Is a model's own attention what its program says? Asked once for each kind of attention module.

Models differ in ways no table of families foresees. Before the first edited or measured call of a
class of modules, a few of its queries run through the module's own attention and through the
model's own program; when they disagree the call is refused, for every figure taken of it would be
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.planner import plan
from ..engine.shapes import Shapes
from ..errors import FoveateError
from .calls import Base
from .masks import MaskInfo, MaskPattern

__all__ = ["agree", "probe"]

ROWS = 8
_passed: set[tuple[Any, ...]] = set()


def _last_rows(value: Any, count: int) -> Any:
    """The last queries' rows of a mask or a bias ``[…, Sq, Sk]``."""
    return value[..., -count:, :] if isinstance(value, Tensor) and value.dim() == 4 else value


def agree(
    base: Base, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: Mapping[str, Any],
    module: nn.Module, function: Any,
) -> float:  # fmt: skip
    """Largest difference of the last rows' outputs, relative to their largest value (0 if none)."""
    count = min(ROWS, query.shape[2])
    q = query[:, :, -count:]
    program = base.program
    offset = program.q_offset if program.q_offset is not None else key.shape[2] - query.shape[2]
    program = program.evolve(
        q_offset=offset + query.shape[2] - count,
        bias=_last_rows(program.bias, count),
        queries=None if program.queries is None else program.queries[:, -count:],
    )
    rows = mask.rows(count) if isinstance(mask, MaskInfo) else _last_rows(mask, count)
    if rows is None and base.program.causal and count < query.shape[2]:
        rows = _causal(count, query, key)
    given = dict(options)
    if isinstance(options.get("position_bias"), Tensor):
        given["position_bias"] = _last_rows(options["position_bias"], count)
    with torch.no_grad():
        theirs = function(module, q, key, value, rows, **given)[0].transpose(1, 2).float()
        ours = plan(program, Shapes.of(q, key, value)).run(q, key, value)
    # a row with nothing visible is anything in the model's own attention
    difference = torch.where(
        (ours.lse > -torch.inf)[..., None], theirs - ours.out.float(), 0.0
    ).abs()
    scale = theirs.abs().amax().clamp(min=1e-12)
    return float(difference.amax() / scale) if bool(theirs.isfinite().all()) else 0.0


def _causal(count: int, query: Tensor, key: Tensor) -> Tensor:
    rows = torch.arange(query.shape[2] - count, query.shape[2], device=query.device)
    return (torch.arange(key.shape[2], device=query.device) <= rows[:, None])[None, None]


def probe(
    base: Base, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: Mapping[str, Any],
    module: nn.Module, function: Any, own: str | None,
) -> None:  # fmt: skip
    """Compare once per class of modules, implementation and kind of call.

    Raises
    ------
    FoveateError
        When the program is not what the module computes.
    """
    program = base.program
    kinds = (program.causal, program.bias is not None, program.softcap, program.sinks is not None)
    pattern = isinstance(program.pattern, MaskPattern)
    # autocast computes the model's own attention in half precision, ours in that of its inputs
    half = query.dtype.itemsize < 4 or torch.is_autocast_enabled(query.device.type)
    topic = (type(module), own, query.dtype, half, query.shape[2] > 1, pattern, *kinds)
    if topic in _passed:
        return
    if own is None or own in ("eager", "sdpa"):  # the others do not take a few rows of a mask
        error = agree(base, query, key, value, mask, options, module, function)
        if error > (5e-2 if half else 1e-3):
            raise FoveateError(
                f"{type(module).__name__}'s own attention is not the one foveate would compute "
                f"for it (outputs differ by {error:.2g} of their size): it does something of its "
                "own, and nothing measured or edited there would be true. Leave its sites out "
                "with layers= or stack=, or attach without methods."
            )
    _passed.add(topic)
