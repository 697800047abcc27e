"""transformers' mask functions taken apart: causality, windows, documents, and the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .packed import Documents

__all__ = ["Rule", "rule_of"]


@dataclass(frozen=True)
class Rule:
    """A mask function taken apart: the conjunction of what it asks for.

    Attributes
    ----------
    causal : bool
        A key is seen only by queries at or after it.
    back, ahead : int or None
        A query sees at most so many tokens back and ahead (for :meth:`MaskPattern.key_range`).
    parts : tuple of callable
        Everything but causality, as functions of indices; exact, whatever was recognised.
    windows : bool
        Whether ``back`` and ``ahead`` say all that ``parts`` say.
    documents : Documents or None
        Tokens see none of another document (one of ``parts`` says so).
    """

    causal: bool = False
    back: int | None = None
    ahead: int | None = None
    parts: tuple[Callable[..., Tensor], ...] = ()
    windows: bool = True
    documents: Documents | None = None

    def joined(self, other: Rule) -> Rule:
        """Both at once."""
        return Rule(
            self.causal or other.causal,
            _smaller(self.back, other.back),
            _smaller(self.ahead, other.ahead),
            self.parts + other.parts,
            self.windows and other.windows,
            other.documents or self.documents,
        )


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def _smaller(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _maker(function: Callable[..., Any]) -> str | None:
    """Which function of transformers' masking utilities made this one, if one did."""
    from transformers import masking_utils as own

    name = getattr(getattr(function, "__code__", None), "co_qualname", "")
    if getattr(function, "__module__", None) != own.__name__ or "<locals>" not in name:
        return None
    made_by: str = name.split(".")[0]
    return made_by


def rule_of(function: Callable[..., Any]) -> Rule:
    """Take a mask function apart as far as it is one of transformers' own.

    What is not recognised stays in ``parts`` whole, so the rule always says the same as the
    function.
    """
    from transformers import masking_utils as own

    if function is own.causal_mask_function:
        return Rule(causal=True)
    if function is own.bidirectional_mask_function:
        return Rule()
    made_by = _maker(function)
    if made_by is None:
        return Rule(parts=(function,), windows=False)
    values = _closure(function)
    if made_by == "and_masks":
        functions = values["mask_functions"]
        rules = [rule_of(part) for part in functions]
        documents = next((rule.documents for rule in rules if rule.documents is not None), None)
        joined = Rule()
        for part, rule in zip(functions, rules, strict=True):
            joined = joined.joined(
                rule if documents is None else _moved_back(part, rule, documents)
            )
        return joined
    if made_by == "packed_sequence_mask_function":
        documents = Documents(values["packed_sequence_mask"])
        return Rule(parts=(function,), windows=False, documents=documents)
    if made_by == "sliding_window_overlay":
        return Rule(back=values["sliding_window"] - 1, parts=(function,))
    if made_by == "sliding_window_bidirectional_overlay":
        window = values["sliding_window"]
        return Rule(back=window, ahead=window, parts=(function,))
    if made_by == "chunked_overlay":
        reach = values["chunk_size"] - 1
        return Rule(back=reach, ahead=reach, parts=(function,), windows=False)
    return Rule(parts=(function,), windows=False)


def _moved_back(function: Callable[..., Any], rule: Rule, documents: Documents) -> Rule:
    """The rule of a function of positions that begin anew with each document, in plain indices.

    Within a document both differ by a constant, which causality and windows do not notice.
    """
    values = _closure(function)
    if _maker(function) != "remap_positions_for_packed_sequence":
        return rule
    if not documents.follow(values["position_ids"]):
        return rule
    plain = rule_of(values["mask_function"])
    if plain.windows:
        return plain
    return Rule(plain.causal, plain.back, plain.ahead, (function,), windows=False)
