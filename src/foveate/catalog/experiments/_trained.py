"""Small models that differ in their attention alone, trained at equal compute and asked alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.routing import RoutingAttention
from ...layers.tiny import TinyModel
from ...statistics import paired_bootstrap
from ...tasks.training import accuracy, fit
from ._trial import Trial

__all__ = ["Arm", "Outcome", "against_windows", "compare", "entering", "flops"]


@dataclass(frozen=True)
class Arm:
    """One model: how an attention layer is made, and the pairs of a token that it computes.

    ``pairs`` counts query–key products a token, those of the routing among them.
    """

    make: Callable[[], nn.Module]
    pairs: float


@dataclass(frozen=True)
class Outcome:
    """What training gave: accuracy an item, steps, seconds, FLOPs a step."""

    accuracy: list[float] = field(repr=False)
    steps: int
    seconds: float
    flops: float
    model: TinyModel = field(repr=False)

    @property
    def mean(self) -> float:
        """Accuracy over all items."""
        return sum(self.accuracy) / len(self.accuracy)

    def figures(self) -> dict[str, Any]:
        """For a table."""
        return {
            "accuracy": round(self.mean, 4),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "TFLOP": round(self.flops * self.steps / 1e12, 3),
        }


def flops(model: nn.Module, tokens: int, dim: int, pairs: float, layers: int) -> float:
    """FLOPs of a training step: matrix products of weights and of pairs, forward and backward."""
    weights = 0
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            weights += module.weight.numel()
    return 3 * tokens * (2 * weights + 4 * dim * pairs * layers)


def compare(
    arms: Mapping[str, Arm],
    task: Any,
    *,
    dim: int,
    layers: int,
    steps: int,
    first: tuple[int, Arm] | None = None,
    batch: int = 32,
    lr: float = 3e-3,
    items: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
    **model: Any,
) -> dict[str, Outcome]:
    """Train each arm on as many FLOPs as ``steps`` of the first arm take.

    Parameters
    ----------
    first : (int, Arm), optional
        So many steps that all arms share, with this attention: the weights go on in each arm.
    model
        For :class:`TinyModel`.

    Notes
    -----
    The arms share the seed, the batches and the items asked.
    """

    def built(arm: Arm) -> TinyModel:
        torch.manual_seed(seed)
        return TinyModel(task.vocab, dim, [arm.make() for _ in range(layers)], **model)

    def trained(name: str, net: TinyModel, many: int, seed: int) -> float:
        def more() -> Tensor:
            losses = [a.commitment for a in net.attention if isinstance(a, RoutingAttention)]
            return torch.stack([torch.zeros(()), *losses]).sum()

        def told(done: int, loss: float) -> None:
            if done % 25 == 0:
                progress(f"{name}: step {done} of {many}, loss {loss:.2f}")

        how: dict[str, Any] = {"batch": batch, "lr": lr, "seed": seed}
        return fit(net, task, steps=many, more=more, progress=told, **how).seconds

    shared: dict[str, Tensor] = {}
    if first is not None:
        net = built(first[1])
        trained("all alike", net, first[0], seed)
        shared = {key: value.detach() for key, value in net.named_parameters()}
    budget: float | None = None
    found: dict[str, Outcome] = {}
    for name, arm in arms.items():
        net = built(arm)
        if shared:
            net.load_state_dict(shared, strict=False)  # buffers are each arm's own
        tokens = batch * task.batch(1, torch.Generator())[0].shape[1]
        cost = flops(net, tokens, dim, arm.pairs, layers)
        budget = cost * steps if budget is None else budget
        mine = round(budget / cost)
        seconds = trained(name, net, mine, seed + 1)
        shares = accuracy(net, task, n=items, seed=seed + 2)
        found[name] = Outcome(shares, mine, seconds, cost, net)
    return found


def against_windows(
    found: Mapping[str, Outcome],
    routed: str,
    windows: str,
    seed: int,
    details: Mapping[str, Any],
) -> Trial:
    """Accuracy of the arm ``routed`` against ``windows``; both arguments say what they see."""
    dense, chosen, near = (found[name].accuracy for name in ("dense", "routed", "windows"))
    return Trial(
        baseline=(f"accuracy, {windows}", near),
        method=(f"accuracy, {routed}", chosen),
        better="higher",
        seeds=(seed, seed + 1, seed + 2),
        details={
            "items": len(chosen),
            "trained": {name: outcome.figures() for name, outcome in found.items()},
            "routed minus dense, interval": paired_bootstrap(dense, chosen),
            **details,
        },
    )


@torch.no_grad()
def entering(model: TinyModel, tokens: Tensor) -> Tensor:
    """What the first attention layer is given, ``[B, S, dim]``."""
    seen: list[Tensor] = []
    handle = model.attention[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        model(tokens)
    finally:
        handle.remove()
    return seen[0]
