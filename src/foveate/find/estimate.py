"""What a method would change at each head, to first order: all heads from one backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapters.sites import Site
from ..attach import attach
from ..engine.planner import plan
from ..engine.program import Program
from .known import asked

if TYPE_CHECKING:
    from ..attach import Call
    from ..tasks._task import Item

__all__ = ["estimated_effects"]


def estimated_effects(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    method: Any,
    grid: tuple[int, int],
    *,
    score: str = "answer",
    batch_size: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The first-order effect of a method at every head on the score of known answers.

    The model runs unedited; beside each call the method is tried on the same tensors. With ``o``
    the head's output, ``o'`` the one it would have and ``g`` the score's gradient there, the
    estimate is ``sum g·(o' - o)``, averaged over the items (attribution patching, with an edited
    attention in place of another run's). One forward, one backward and one edited attention a
    layer give all heads; a strong edit is estimated badly, so confirm what is chosen.

    Parameters
    ----------
    method
        Scoped to all heads that are to be judged; it may rewrite or edit inputs.
    grid : (int, int)
        Layers and heads.
    score : {"answer", "choice"}
        As in :func:`~foveate.find.known.known_scores`.

    Returns
    -------
    Tensor
        ``[layers, heads]``, NaN where the method does not act.
    """
    total = torch.zeros(grid)
    acted = torch.zeros(grid, dtype=torch.bool)
    done = 0
    for one in asked(tokenizer, items, score, batch_size):
        beside = _Beside(method)
        with torch.enable_grad(), attach(model, beside, prompt=one.prompt):
            value = one.read(model(**one.inputs).logits)
            value = value[:, 0] if value.dim() == 2 else value
            layers = sorted(beside.changes)
            outs = [beside.outs[layer] for layer in layers]
            grads = torch.autograd.grad(value.sum(), outs) if outs else ()
        for layer, out, grad in zip(layers, outs, grads, strict=True):
            change = beside.changes[layer].float() - out.detach().float()
            total[layer] += (grad.float() * change).sum((0, 2, 3)).cpu()
        for layer, heads in beside.where.items():
            acted[layer] |= heads
        done += value.shape[0]
        if progress is not None:
            progress(done, len(items))
    return torch.where(acted, total / len(items), torch.nan)


class _Beside:
    """A method tried beside every call and not applied."""

    looks = True

    def __init__(self, method: Any) -> None:
        self.method = method
        self.scope = method.scope
        self.regions = tuple(getattr(method, "regions", ()))
        self.outs: dict[int, Tensor] = {}  # as the model goes on with them, in its graph
        self.changes: dict[int, Tensor] = {}  # as they would be
        self.where: dict[int, Tensor] = {}  # heads in scope

    def check(self, site: Site) -> None:
        getattr(self.method, "check", lambda site: None)(site)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        count = call.shapes.Hq
        heads = self.scope.heads_at(site, count)
        meant = torch.ones(count, dtype=torch.bool)
        if heads is not None:
            meant[:] = False
            meant[list(heads)] = True
        self.where[site.layer] = meant
        assert call.tensors is not None
        with torch.no_grad():
            q, k, v = call.tensors
            if hasattr(self.method, "inputs"):
                q, k, v = self.method.inputs(q, k, v, site, call)
            if hasattr(self.method, "emptied"):
                rows = self.method.emptied(site, call)
                q = q if rows is None else q.masked_fill(rows[..., None], 0.0)
            edited = self.method.rewrite(program, site, call)
            if edited is not program or q is not call.tensors[0] or k is not call.tensors[1]:
                found = plan(edited.evolve(reads=()), call.shapes).run(q, k, v)
                self.changes[site.layer] = found.out
        return program

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        self.outs[site.layer] = out
        return out
