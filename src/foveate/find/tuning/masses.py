"""How much of its attention each head would keep under a pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...adapters.sites import Site
from ...attach import attach
from ...engine.planner import Plan, plan
from ...engine.program import Program
from ...errors import FoveateError
from ...methods._method import Method
from ...methods.select import Select
from ...patterns import Pattern
from ...tasks._task import Item, prompts
from .._decode import step
from .judge import answer_ids

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["retained"]


class _Keeps(Method):
    """Sums, for each pattern, layer and head, ``exp(lse under the pattern - lse)`` over rows."""

    looks = True

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        super().__init__(stack="decoder")
        self._selects = [Select(pattern) for pattern in patterns]
        self._plans: dict[int, tuple[Program, list[Plan]]] = {}
        self.rows: dict[int, list[Tensor]] = {}  # layer -> one [P, H, S] an item

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program as it is; its rows are measured beside it."""
        assert call.tensors is not None
        plans = self._planned(program, site, call)
        whole, *parts = (one.run(*call.tensors).lse[0] for one in plans)
        kept = torch.stack([(part - whole).exp() for part in parts])
        self.rows.setdefault(site.layer, []).append(kept.float().cpu())
        return program

    def _planned(self, program: Program, site: Site, call: Call) -> list[Plan]:
        """Plans without and with each pattern; layers with one program share them."""
        held = self._plans.get(id(program))
        if held is None or held[1][0].shapes != call.shapes:
            bare = program.evolve(reads=(), head_scale=None)
            edited = [bare, *(one.rewrite(bare, site, call) for one in self._selects)]
            held = program, [plan(one, call.shapes) for one in edited]
            self._plans = {id(program): held}
        return held[1]


def retained(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    patterns: Sequence[Pattern],
    *,
    phase: str | None = "prefill",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The share of each head's attention that falls on what a pattern shows.

    Of the dense probabilities ``P`` of a row this is the mass on the keys seen, ``exp(lse_pattern
    - lse)``: exact, and without a matrix. One dense forward an item, and one sparse pass beside it
    for every pattern.

    Parameters
    ----------
    items : sequence of Item
    patterns : sequence of Pattern
    phase : {"prefill", None}
        Rows that count: the prompt's, or, with None, those of the answer half and half.

    Returns
    -------
    Tensor
        ``[patterns, layers, heads]``, float32 in [0, 1]: the mean over rows, then items.

    Raises
    ------
    FoveateError
        For no items or no patterns.
    """
    if not items or not patterns:
        raise FoveateError("retained takes one or more items and one or more patterns.")
    total: Tensor | None = None
    for item in items:
        ((_, prompt),) = prompts([item], tokenizer, 1)
        prompt.to(next(model.parameters()).device)
        ids, mask = prompt.inputs["input_ids"], prompt.inputs["attention_mask"]
        said = 0
        if phase is None:
            lead, answer = answer_ids(tokenizer, item)
            tail = torch.tensor([lead + answer], device=ids.device)
            said = tail.shape[1]
            ids = torch.cat([ids, tail.to(ids.dtype)], 1)
            mask = torch.cat([mask, mask.new_ones(tail.shape)], 1)
        keeps = _Keeps(patterns)
        with torch.no_grad(), attach(model, keeps):
            step(model, ids, mask, None, keep=1)
        rows = torch.stack([torch.cat(keeps.rows[layer], -1) for layer in sorted(keeps.rows)], 1)
        mean = rows.mean(-1)
        if said:
            mean = (mean + rows[..., -said:].mean(-1)) / 2
        total = mean if total is None else total + mean
        if progress is not None:
            progress(1)
    assert total is not None
    return total / len(items)
