"""What an estimate of the whole attention cannot take."""

from __future__ import annotations

from ...engine.program import Program
from ...engine.terms import Terms
from ...errors import FoveateError

__all__ = ["only_key_terms"]


def only_key_terms(who: str, program: Program, terms: Terms, causal: bool = True) -> None:
    """Raise where a call has more than scores, terms of the keys and sinks."""
    there = {
        "a pattern": program.pattern is not None,
        "another operator before it": bool(program.operators),
        "a dense bias": terms.bias is not None,
        "a soft-cap": terms.softcap is not None,
        "row-adaptive gains": bool(terms.adaptive),
        "score terms or gains that vary along the queries": bool(terms.columns),
        "causal attention": terms.causal and not causal,
    }
    found = [name for name, on in there.items() if on]
    if found:
        raise FoveateError(
            f"{who} estimates a whole {'' if causal else 'bidirectional '}softmax over plain "
            f"scores and terms of the keys; this call has {' and '.join(found)}. Leave such sites "
            "out with layers= or stack=, or take the other away."
        )
