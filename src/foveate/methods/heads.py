"""Head outputs looked at, replaced or shifted: ablation, patching, directions."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.sites import Site
from ..errors import FoveateError
from ._method import Method

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["Ablate", "Capture", "Shift"]

PARTS = ("out", "q", "k", "v")


class Ablate(Method):
    """Replace the output of heads, before the output projection.

    Parameters
    ----------
    heads : optional
        ``[h, …]``, ``{layer: [h, …]}``, ``[(layer, head), …]`` or ``HeadScores.top(k)``; default
        all of the layers named.
    to : "zero", Tensor or mapping
        What stands in: nothing; a tensor ``[Hq, Dv]`` (a mean over some data) or broadcastable to
        ``[B, Hq, Sq, Dv]`` (another run's outputs: activation patching); or a mapping layer -> such
        tensors, for the layers of one stack.
    queries : str, optional
        Only at the queries of this region; default at all.
    layers, phase, stack, steps
        As everywhere.

    Raises
    ------
    FoveateError
        For a ``to`` of another kind or shape, and a layer in scope that a mapping leaves out.

    Examples
    --------
    >>> with fv.attach(model, fv.Ablate(heads=scores.top(5))):
    ...     model(**prompt.inputs)
    """

    def __init__(
        self, heads: Any = None, to: Any = "zero", *, queries: str | None = None, **scope: Any
    ) -> None:
        if isinstance(heads, str):
            raise FoveateError(
                f"Ablate({heads!r}) names a region, but Ablate is of heads: Ablate(heads=[0, 3]). "
                f"To hide a region from being looked at, take Hide({heads!r})."
            )
        super().__init__(heads=heads, **scope)
        if not (to == "zero" if isinstance(to, str) else _held(to)):
            raise FoveateError(
                f'to={to!r} was given; "zero", a tensor [Hq, Dv] or [B, Hq, Sq, Dv], or a mapping '
                "layer -> such a tensor was wanted."
            )
        self.to = to
        self.where = queries
        self.regions = _regions(queries)

    def check(self, site: Site) -> None:
        """Refuse a site that ``to`` has nothing for."""
        if isinstance(self.to, Mapping):
            _at(self.to, site, "to")

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        """The head outputs with those meant replaced."""
        if isinstance(self.to, str):
            new = torch.zeros((), dtype=out.dtype, device=out.device)
        else:
            held = _at(self.to, site, "to") if isinstance(self.to, Mapping) else self.to
            new = _four(held, out, f"{type(self).__name__}(to=…) at {site.name}")
        return torch.where(_meant(self, out, site, call, self.where), new, out)

    def _given(self) -> list[str]:
        given = [] if isinstance(self.to, str) else ["to=…"]
        return given if self.where is None else [*given, f"queries={self.where!r}"]


class Shift(Method):
    """Add ``alpha`` times a vector to queries, keys, values or head outputs.

    Parameters
    ----------
    part : {"out", "q", "k", "v"}
        Queries and keys are those behind the rotary embedding; keys and values those of the cache
        too, in every call anew (the cache itself stays as it is).
    vectors : Tensor or mapping
        ``[H, D]``, broadcastable to ``[B, H, S, D]`` (``H`` the key heads for keys and values), or
        a mapping layer -> such a tensor.
    alpha : float
        0 changes nothing.
    heads, layers, phase, stack, steps
        As everywhere; for ``"k"`` and ``"v"`` heads are key heads.
    queries : str, optional
        For ``"q"`` and ``"out"``: only at the queries of this region.
    """

    def __init__(
        self,
        part: str,
        vectors: Any,
        alpha: float = 1.0,
        *,
        queries: str | None = None,
        **scope: Any,
    ) -> None:
        super().__init__(**scope)
        self.part = _part(part)
        if not _held(vectors):
            raise FoveateError(
                f"vectors={vectors!r} was given; a tensor [H, D] or a mapping layer -> tensor was "
                "wanted."
            )
        if queries is not None and part in ("k", "v"):
            raise FoveateError(f'queries={queries!r} was given for part="{part}": keys, no queries')
        if isinstance(alpha, bool | str) or not abs(alpha) < inf:
            raise FoveateError(f"alpha={alpha!r} was given; a finite number was wanted.")
        self.vectors = vectors
        self.alpha = alpha
        self.where = queries
        self.regions = _regions(queries)

    def check(self, site: Site) -> None:
        """Refuse a site that there is no vector for."""
        if isinstance(self.vectors, Mapping):
            _at(self.vectors, site, "vectors")

    def inputs(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The call's tensors, one of them shifted."""
        if self.part == "out" or not self.alpha:
            return q, k, v
        parts = {"q": q, "k": k, "v": v}
        parts[self.part] = self._shifted(parts[self.part], site, call)
        return parts["q"], parts["k"], parts["v"]

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        """The head outputs, shifted."""
        if self.part != "out" or not self.alpha:
            return out
        return self._shifted(out, site, call)

    def _shifted(self, t: Tensor, site: Site, call: Call) -> Tensor:
        held = self.vectors
        if isinstance(held, Mapping):
            held = _at(held, site, "vectors")
        vector = _four(held, t, f"Shift(vectors=…) at {site.name}")
        meant = _meant(self, t, site, call, self.where)
        return t + self.alpha * torch.where(meant, vector, torch.zeros_like(vector))

    def _given(self) -> list[str]:
        return [repr(self.part), "…", f"alpha={self.alpha!r}"]


class Capture(Method):
    """Keep what passes a call: head outputs, queries, keys or values.

    Parameters
    ----------
    part : {"out", "q", "k", "v"}
        ``out [B,Hq,Sq,Dv]`` before the output projection; queries, keys and values behind the
        rotary embedding and the cache. Methods listed before have acted on them.
    grad : bool
        Keep the gradient that arrives there, in ``.grad`` of the tensors kept.
    layers, phase, stack, steps
        As everywhere. All heads are kept.

    Attributes
    ----------
    tensors : dict of (stack, layer) to list of Tensor
        One tensor a forward, with its graph if it has one.
    """

    def __init__(self, part: str = "out", *, grad: bool = False, **scope: Any) -> None:
        super().__init__(**scope)
        self.part = _part(part)
        self.grad = grad
        self.tensors: dict[tuple[str, int], list[Tensor]] = {}

    def clear(self) -> None:
        """Forget what was kept."""
        self.tensors.clear()

    def __getitem__(self, layer: int) -> Tensor:
        """The last tensor of a layer, where one stack was captured."""
        found = [kept for (_, n), kept in self.tensors.items() if n == layer]
        if len(found) != 1:
            there = ", ".join(map(str, self.tensors)) or "none"
            raise FoveateError(
                f"{self!r} kept {len(found)} sites of layer {layer}; there are (stack, layer): "
                f"{there}. Read .tensors."
            )
        return found[0][-1]

    def inputs(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keep one of the call's tensors."""
        if self.part != "out":
            self._keep({"q": q, "k": k, "v": v}[self.part], site)
        return q, k, v

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        """Keep the head outputs."""
        if self.part == "out":
            self._keep(out, site)
        return out

    def _keep(self, t: Tensor, site: Site) -> None:
        if self.grad and t.requires_grad:
            t.retain_grad()
        self.tensors.setdefault((site.stack, site.layer), []).append(t)

    def _given(self) -> list[str]:
        return [repr(self.part)]


def _held(given: Any) -> bool:
    """Whether it is a tensor, or a mapping that holds nothing else."""
    if isinstance(given, Mapping):
        return all(isinstance(one, Tensor) for one in given.values())
    return isinstance(given, Tensor)


def _regions(queries: str | None) -> tuple[str, ...]:
    if queries is not None and (not isinstance(queries, str) or not queries):
        raise FoveateError(f"queries={queries!r} was given; the name of a region was wanted.")
    return () if queries is None else (queries,)


def _part(part: str) -> str:
    if part not in PARTS:
        raise FoveateError(f"part={part!r} was given; it is one of {', '.join(PARTS)}.")
    return part


def _at(tensors: Mapping[int, Tensor], site: Site, what: str) -> Tensor:
    for layer in (site.layer, site.layer - site.depth):
        if layer in tensors:
            return tensors[layer]
    raise FoveateError(
        f"{what}= has nothing for layer {site.layer} ({site.name}), which is in scope; it has "
        f"{sorted(tensors)}: name the layers with layers= or heads=."
    )


def _four(t: Tensor, like: Tensor, who: str) -> Tensor:
    """``[D]``, ``[H, D]`` or ``[B|1, H|1, S|1, D]`` in four axes."""
    t = t.to(like.dtype).to(like.device)
    t = t[:, None] if t.dim() == 2 else t
    try:
        fits = torch.broadcast_shapes(t.shape, like.shape) == like.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise FoveateError(
            f"{who} is {list(t.shape)}; [H, D] or something broadcastable to {list(like.shape)} "
            "was wanted."
        )
    return t


def _meant(method: Any, t: Tensor, site: Site, call: Call, region: str | None) -> Tensor:
    """Where a method acts on ``t [B, H, S, D]``: bool, broadcastable to it."""
    heads = method.scope.heads_at(site, t.shape[1])
    meant = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=t.device)
    if heads is not None:
        chosen = torch.zeros(t.shape[1], dtype=torch.bool, device=t.device)
        chosen[list(heads)] = True
        meant = meant & chosen[None, :, None, None]
    if region is not None:
        if region not in call.views:
            return torch.zeros_like(meant)
        rows = call.queries(region)
        meant = meant & rows.reshape(-1, 1, rows.shape[-1], 1)
    return meant
