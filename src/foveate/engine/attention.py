"""The operator: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ..errors import FoveateError
from . import checks
from .measures import Read
from .operator import Operator
from .pattern import Pattern
from .planner import Plan
from .planner import plan as choose
from .program import Gain, Output, Program
from .shapes import Shapes


def plan(program: Program, shapes: Shapes, backend: str = "auto") -> Plan:
    """Check ``program`` and choose how it runs on calls of ``shapes``.

    Parameters
    ----------
    program : Program
    shapes : Shapes
        ``Shapes.of(q, k, v)``.
    backend : {"auto", "sdpa", "flex", "reference"}

    Returns
    -------
    Plan
        ``.explain()`` tells what runs, ``.run(q, k, v)`` runs it.

    Raises
    ------
    FoveateError
        As :func:`attention`.
    """
    if not isinstance(program, Program) or not isinstance(shapes, Shapes):
        raise FoveateError(
            "plan takes a Program and Shapes.of(q, k, v); "
            f"{type(program).__name__} and {type(shapes).__name__} were given."
        )
    checks.program(program, shapes)
    reads = checks.reads(program.reads, program.regions, shapes)
    return choose(program.evolve(reads=reads), shapes, backend)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    pattern: Pattern | None = None,
    q_offset: int | None = None,
    key_bias: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    score_terms: Sequence[tuple[Tensor, Tensor]] = (),
    regions: Mapping[str, Tensor] | None = None,
    gains: Mapping[str, float | Tensor] | Iterable[Gain] | None = None,
    operators: Iterable[Operator] = (),
    measures: Iterable[Read] | Read = (),
    backend: str = "auto",
) -> Output:
    """Attention with named regions, gains on them and measures, at the cost of a flash kernel.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B, Hq, Sq, D]``, ``[B, Hkv, Sk, D]``, ``[B, Hkv, Sk, Dv]``; ``Hq`` a multiple of ``Hkv``.
    causal : bool
        Query ``i`` sees key ``j`` only if ``j <= i + q_offset``.
    scale : float, optional
        Default ``D ** -0.5``.
    pattern : Pattern, optional
        Which pairs are visible, ANDed with ``causal``.
    q_offset : int, optional
        The key index at which query 0 stands; default ``Sk - Sq`` (last query on last key).
    key_bias : Tensor, optional
        Added to the scores of a key, broadcastable to ``[B, Hq, Sk]``; ``-inf`` hides it.
    bias : Tensor, optional
        Dense, ``[B|1, Hq|1, Sq, Sk]``: added, or bool with True = visible.
    softcap : float, optional
        Scores become ``softcap * tanh(score / softcap)`` before anything is added.
    sinks : Tensor, optional
        ``[Hq]``: logit of a learned sink, which takes attention and has no value.
    score_terms : sequence of (phi, psi)
        ``phi @ psi.mT`` is added; broadcastable to ``[B,Hq,Sq,R]`` and ``[B,Hq,Sk,R]``.
    regions : mapping of str to Tensor, optional
        Named sets of keys, bool ``[Sk]``, ``[B, Sk]`` or, one set a head, ``[B|1, Hq|1, Sk]``.
    gains : mapping of str to float or Tensor, or iterable of Gain, optional
        ``g > 0`` per region, broadcastable to ``[B, Hq, Sq]``: multiplies the probabilities on the
        region, rows renormalised. Where regions overlap gains multiply. As :class:`Gain` objects
        they may be row-adaptive.
    operators : iterable of Operator
        What computes the call, the outermost last: an estimate, or a correction of sparse rows.
        Measures are then those that are linear in the probabilities.
    measures : iterable of Read
        See :mod:`foveate.engine.measures` for the keys and shapes.
    backend : {"auto", "sdpa", "flex", "reference"}
        ``reference`` is float64 and materialises the matrix.

    Returns
    -------
    Output
        ``out [B,Hq,Sq,Dv]``, ``lse [B,Hq,Sq]``, ``measures {key: tensor}``. A row with nothing
        visible has ``out = 0``, ``lse = -inf`` and measures of 0.

    Raises
    ------
    FoveateError
        Shapes, dtypes or devices that do not fit, an unknown region, a gain that is not a finite
        number > 0, a batch item with nothing visible, two measures under one key, an unknown
        backend.

    Notes
    -----
    What runs is told by ``foveate.plan(program, foveate.Shapes.of(q, k, v)).explain()``.

    Differentiable with respect to q, k, v, key_bias, bias, sinks, score terms and gains, through
    the output, ``lse`` and every measure but ``top.indices`` (which are integers).
    """
    shapes = checks.qkv(q, k, v)
    if regions is not None and not isinstance(regions, Mapping):
        raise FoveateError(
            f"regions must be a mapping from names; {type(regions).__name__} was given."
        )
    program = Program(
        scale=scale,
        causal=causal,
        q_offset=q_offset,
        pattern=pattern,
        key_bias=key_bias,
        bias=bias,
        softcap=softcap,
        score_terms=tuple(score_terms or ()),
        sinks=sinks,
        regions=dict(regions or {}),
        gains=_gains(gains),
        operators=tuple(operators),
    )
    checks.program(program, shapes)
    reads = checks.reads(measures, program.regions, shapes)
    found = choose(program.with_reads(*reads), shapes, backend).run(q, k, v)
    checks.something_visible(found.lse)
    return found


def _gains(given: Mapping[str, float | Tensor] | Iterable[Gain] | None) -> tuple[Gain, ...]:
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return tuple(Gain(name, value) for name, value in given.items())
    found = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    for one in found:
        if not isinstance(one, Gain):
            raise FoveateError(
                f"gains must be a mapping from names, or Gain objects; {one!r} was given."
            )
    return found
