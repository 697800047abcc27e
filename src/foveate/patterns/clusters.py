"""Clusters of keys: a query sees the keys of the cluster it is nearest to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ._base import whole
from .routed import Pieces, Routed, Selection

__all__ = ["Clusters", "on_sphere", "spherical_kmeans"]


def on_sphere(x: Tensor) -> Tensor:
    """Layer norm without scale and bias: vectors ``[..., D]`` of length ``sqrt(D)``, float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.nn.functional.layer_norm(x.to(dtype), x.shape[-1:])


@dataclass(frozen=True, eq=False)
class Clusters(Routed):
    """Each centroid takes the ``window`` keys nearest to it; a query sees those of its nearest.

    Queries, keys and centroids are compared on the sphere (layer norm, then the product). Clusters
    of keys are balanced, as all hold as many; a key can be in several, or in none.

    Parameters
    ----------
    centroids : Tensor
        ``[K, D]`` or, of each head, ``[H, K, D]``.
    window : int, optional
        Keys of a cluster; default: the keys over the clusters, rounded up. One larger than the
        number of keys takes them all.

    Raises
    ------
    FoveateError
        Centroids of another shape, or of another head size or number of heads than the call.

    Notes
    -----
    This is the Routing Transformer's equation 8 (a query attends to the keys whose centroid it
    shares) as a pattern, for calls on any model. Its layer
    (:class:`foveate.layers.RoutingAttention`) lets a query attend in every cluster that took it
    and averages, which is no set of pairs. A causal query whose cluster holds only later keys sees
    nothing: combine it with a window, ``Clusters(c) | SlidingWindow(64)``. Which keys a cluster
    takes depends on all keys of the call, later ones too.

    References
    ----------
    Roy et al., "Efficient Content-Based Sparse Attention with Routing Transformers", 2020.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> from foveate.patterns import Clusters, spherical_kmeans
    >>> q, k, v = torch.randn(3, 1, 2, 96, 16).unbind(0)
    >>> pattern = Clusters(spherical_kmeans(k, 4))
    >>> fv.attention(q, k, v, pattern=pattern).out.shape
    torch.Size([1, 2, 96, 16])
    """

    centroids: Tensor = field(repr=False)
    window: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.centroids, Tensor) or self.centroids.dim() not in (2, 3):
            given = getattr(self.centroids, "shape", self.centroids)
            raise FoveateError(
                f"Clusters(centroids=…) takes a tensor [K, D] or [heads, K, D]; {given} was given."
            )
        if self.window is not None:
            whole("Clusters", "window", self.window)

    def choose(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, scale: float,
        visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """The clusters of ``q [B,Hq,Sq,D]``, ``k [B,Hkv,Sk,D]``, as pieces."""
        with torch.no_grad():
            near = self._scores(q).argmax(-1)  # [B, H, Sq]
            mine = self._scores(k.repeat_interleave(q.shape[1] // k.shape[1], 1))
            if visible is not None:
                mine = mine.masked_fill(~visible[:, None, :, None], -float("inf"))
            keys = members(mine, self._window(k.shape[2]))
        B, H, Sq = near.shape
        K = self.centroids.shape[-2]
        count = torch.nn.functional.one_hot(near, K).sum(-2)
        place = near.sort(dim=-1, stable=True)
        start = count.cumsum(-1) - count
        slot = torch.arange(Sq, device=q.device) - start.gather(-1, place.values)
        rows = torch.full((B, H, K, int(count.max())), -1, dtype=torch.int64, device=q.device)
        rows.flatten(-2).scatter_(
            -1, place.values * rows.shape[-1] + slot, place.indices
        )  # a view: the rows are filled in place
        where: dict[str, Any] = {"causal": causal, "q_offset": q_offset}
        return Selection([Pieces(rows, keys)], Sq, k.shape[2], **where)

    def _window(self, keys: int) -> int:
        return min(keys, self.window or -(-keys // self.centroids.shape[-2]))

    def _scores(self, x: Tensor) -> Tensor:
        """How near ``x [B, H, S, D]`` is to each centroid, ``[B, H, S, K]``."""
        c = self.centroids
        if c.shape[-1] != x.shape[-1] or (c.dim() == 3 and c.shape[0] not in (1, x.shape[1])):
            raise FoveateError(
                f"Clusters(centroids {list(c.shape)}): the call has {x.shape[1]} heads of "
                f"{x.shape[-1]}; centroids [K, {x.shape[-1]}] or [{x.shape[1]}, K, {x.shape[-1]}] "
                "were wanted."
            )
        return on_sphere(x) @ on_sphere(c).to(x.device).mT


def members(scores: Tensor, window: int) -> Tensor:
    """The tokens each cluster takes, in their order: ``[..., S, K] -> int64 [..., K, window]``."""
    return scores.mT.topk(window, -1, sorted=False).indices.sort(-1).values


@torch.no_grad()
def spherical_kmeans(x: Tensor, clusters: int, *, steps: int = 10) -> Tensor:
    """Centroids of vectors on the sphere, of each head by itself.

    Parameters
    ----------
    x : Tensor
        ``[B, H, S, D]``: the vectors of a batch are taken together.
    clusters : int
        Not more than there are vectors.
    steps : int
        Rounds: assign, then average. The first centroids are the first vector and then, one after
        the other, the vector furthest from all before; one that nobody is nearest to stays.

    Returns
    -------
    Tensor
        ``[H, clusters, D]``, float32, of length ``sqrt(D)``.
    """
    whole("spherical_kmeans", "clusters", clusters)
    points = on_sphere(x.detach()).transpose(0, 1).flatten(1, 2)
    n = points.shape[1]
    if clusters > n:
        raise FoveateError(f"spherical_kmeans: {clusters} clusters of {n} vectors were asked for.")
    centroids = _far_apart(points, clusters)
    for _ in range(steps):
        sums, counts = assigned(points, centroids)
        mean = on_sphere(sums)
        centroids = torch.where((counts > 0).unsqueeze(-1), mean, centroids)
    return centroids


def assigned(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Sums ``[H, K, D]`` and counts ``[H, K]`` of the ``points [H, n, D]`` nearest to each."""
    nearest = (points @ centroids.mT).argmax(-1)
    hot = torch.nn.functional.one_hot(nearest, centroids.shape[1]).to(points.dtype)
    return hot.mT @ points, hot.sum(1)


def _far_apart(points: Tensor, count: int) -> Tensor:
    """``count`` of the ``points [H, n, D]``, each the furthest from those before."""
    found = [points[:, 0]]
    nearest = (points @ found[0].unsqueeze(-1))[..., 0]
    for _ in range(count - 1):
        index = nearest.argmin(-1)[:, None, None].expand(-1, 1, points.shape[-1])
        found.append(points.gather(1, index)[:, 0])
        nearest = torch.maximum(nearest, (points @ found[-1].unsqueeze(-1))[..., 0])
    return torch.stack(found, 1)
