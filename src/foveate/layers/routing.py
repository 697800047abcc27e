"""The Routing Transformer's attention: clusters of tokens by online k-means, beside windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._implements import implements
from ..engine.attention import attention
from ..errors import FoveateError
from ..patterns._base import whole
from ..patterns.clusters import assigned, members, on_sphere, spherical_kmeans
from ..patterns.sequence import SlidingWindow
from ._projections import check_heads, merge_heads, split_heads

__all__ = ["RoutingAttention"]


@implements("routing-transformer", basis="paper")
class RoutingAttention(nn.Module):
    """Half of the heads attend within clusters of like tokens, the others within a window.

    In a routed head queries and keys lie on the sphere (layer norm without parameters). Each of
    ``clusters`` centroids takes the ``window`` tokens nearest to it, and these attend to each
    other; causally, by their place in the sequence. A token that several clusters took has the
    mean of its outputs, one that none took has 0. The centroids follow the tokens by exponential
    moving averages while the layer trains.

    Parameters
    ----------
    dim : int
        A multiple of ``heads``.
    heads : int
    clusters : int
        About the root of the sequence length.
    window : int, optional
        Tokens a cluster takes; default: the tokens over the clusters, rounded up. One larger than
        the sequence takes every token.
    local_heads : int, optional
        How many of the heads have a causal window instead; default half.
    local_window : int, optional
        Its keys (both sides where not causal); default: as many as a cluster takes.
    causal : bool
        Causal routed heads share queries and keys, as in the paper; others have both, and the
        clusters of keys are taken apart from those of queries.
    see_self : bool
        Whether a causal query sees itself. With shared queries and keys nothing fits it better:
        False leaves it the own key only where the cluster holds none before it.
    scale : float, optional
        Of the routed heads' scores; default ``D ** -0.5``.
    decay : float
        Of the moving averages.
    beta : float
        Weight of :attr:`commitment`.

    Attributes
    ----------
    centroids : Tensor
        ``[routed heads, clusters, D]``, a buffer.
    commitment : Tensor
        ``beta * mean((x - centroid of x) ** 2)`` of the last forward: add it to the loss.

    Notes
    -----
    Which tokens a cluster takes is decided on the whole sequence, in the authors' code too: no
    value or key of a later token is read, but whether an earlier one is in a cluster may depend on
    it. Decode by running the whole sequence.

    Where two sources differ: the averages are the authors' (sums and counts, each averaged, then
    divided); the first centroids come from ten rounds of k-means on the first training batch, as
    in lucidrains' implementation, where the authors take random ones. The authors' causal mask
    shows a query itself; lucidrains hides it as Reformer does. The authors scale queries before the
    layer norm, which undoes it, so that their scores are ``scale=1.0``; lucidrains has the default
    here. The mean over clusters is theirs but for the small number they add to the count. Local
    heads have a sliding window here, blocks with the one before in the authors' code.

    References
    ----------
    Roy et al., "Efficient Content-Based Sparse Attention with Routing Transformers", 2020; the
    authors' ``utils.py`` (google-research), ``routing_transformer.py`` by lucidrains.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.RoutingAttention(dim=64, heads=4, clusters=8)
    >>> y = layer(torch.randn(2, 128, 64))
    >>> (y.square().mean() + layer.commitment).backward()
    """

    centroids: Tensor
    sums: Tensor
    counts: Tensor
    ready: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        clusters: int,
        window: int | None = None,
        *,
        local_heads: int | None = None,
        local_window: int | None = None,
        causal: bool = True,
        see_self: bool = True,
        scale: float | None = None,
        decay: float = 0.999,
        beta: float = 1e-4,
    ) -> None:
        super().__init__()
        size = check_heads(dim, heads)
        for name, value in (("window", window), ("local_window", local_window)):
            if value is not None:
                whole("RoutingAttention", name, value)
        self.clusters = whole("RoutingAttention", "clusters", clusters)
        self.local = heads // 2 if local_heads is None else local_heads
        if not isinstance(self.local, int) or not 0 <= self.local < heads:
            raise FoveateError(
                f"local_heads={local_heads!r} was given; from 0 to {heads - 1} of the {heads} "
                "heads were wanted: one routes at least."
            )
        if not 0 <= decay < 1:
            raise FoveateError(f"decay={decay!r} was given; a number from 0 to below 1 was wanted.")
        self.heads, self.window, self.local_window = heads, window, local_window
        self.causal, self.see_self, self.scale = causal, see_self, scale
        self.decay, self.beta = decay, beta
        routed = heads - self.local
        self.local_qkv = nn.Linear(dim, 3 * self.local * size, bias=False) if self.local else None
        self.routed = nn.Linear(dim, (2 if causal else 3) * routed * size, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        first = on_sphere(torch.randn(routed, clusters, size))
        self.register_buffer("centroids", first)
        self.register_buffer("sums", first.clone())
        self.register_buffer("counts", torch.ones(routed, clusters))
        self.register_buffer("ready", torch.tensor(False))
        self.commitment = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, dim] -> [B, S, dim]``."""
        outs = []
        window = min(x.shape[1], self.window or -(-x.shape[1] // self.clusters))
        if self.local_qkv is not None:
            near = SlidingWindow(self.local_window or window, causal=self.causal)
            q, k, v = (split_heads(t, self.local) for t in self.local_qkv(x).chunk(3, -1))
            outs.append(attention(q, k, v, causal=self.causal, pattern=near).out)
        routed = self.routed(x).chunk(2 if self.causal else 3, -1)
        q, *keys, v = (split_heads(t, self.heads - self.local) for t in routed)
        outs.append(self._within(on_sphere(q), on_sphere(keys[0]) if keys else None, v, window))
        return self.proj(merge_heads(torch.cat(outs, 1)))

    def _within(self, q: Tensor, k: Tensor | None, v: Tensor, window: int) -> Tensor:
        """Attention within the clusters: ``q, k, v [B, H, S, D]``, ``k`` None where shared."""
        points = q if k is None else torch.cat([q, k], 2)
        self._follow(points)
        scores = [t.detach() @ self.centroids.mT for t in ((q,) if k is None else (q, k))]
        rows, cols = (members(s, window) for s in (scores[0], scores[-1]))
        k = q if k is None else k
        q, k, v = _taken(q, rows).to(v.dtype), _taken(k, cols).to(v.dtype), _taken(v, cols)
        out = self._attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        return _averaged(out.unflatten(0, rows.shape[:2]), rows, points.shape[2] // len(scores))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each cluster by itself, ``[B * H, K, w, D]``: a cluster's tokens are in their order."""
        if not self.causal or self.see_self or q.shape[2] == 1:
            return attention(q, k, v, causal=self.causal, scale=self.scale).out
        # row i on keys 0 … i - 1; the first has but itself
        before = attention(
            *(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1]), causal=True, q_offset=0, scale=self.scale
        )
        return torch.cat([v[:, :, :1], before.out], 2)

    def _follow(self, points: Tensor) -> None:
        """Commit to the centroids, and move them where the layer trains."""
        flat = points.transpose(0, 1).flatten(1, 2)  # [H, n, D]
        with torch.no_grad():
            if self.training:
                if not self.ready:
                    n = min(self.clusters, flat.shape[1])
                    self.sums[:, :n] = spherical_kmeans(points, n)
                    self.centroids.copy_(self.sums)
                    self.ready.fill_(True)
                sums, counts = assigned(flat.detach().float(), self.centroids)
                self.sums.lerp_(sums / flat.shape[1] * self.clusters, 1 - self.decay)
                self.counts.lerp_(counts / flat.shape[1] * self.clusters, 1 - self.decay)
            nearest = (flat @ self.centroids.to(flat.dtype).mT).argmax(-1)
        index = nearest.unsqueeze(-1).expand_as(flat)
        home = self.centroids.to(flat.dtype).gather(1, index)
        self.commitment = self.beta * (flat - home).square().mean()
        if self.training:
            self.centroids.copy_(self.sums / self.counts.clamp(min=1e-5).unsqueeze(-1))


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """``x [B, H, S, D]`` at ``index [B, H, K, w]``: ``[B, H, K, w, D]``."""
    K, w = index.shape[2:]
    flat = index.flatten(2).unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])
    return x.gather(2, flat).unflatten(2, (K, w))


def _averaged(out: Tensor, rows: Tensor, S: int) -> Tensor:
    """The mean over the clusters that took a token, 0 where none did: ``[B, H, S, D]``."""
    B, H, _, _, D = out.shape
    index = rows.flatten(2)
    total = out.new_zeros(B, H, S, D).scatter_add(
        2, index.unsqueeze(-1).expand(-1, -1, -1, D), out.flatten(2, 3)
    )
    count = out.new_zeros(B, H, S).scatter_add(2, index, torch.ones_like(index, dtype=out.dtype))
    return total / count.clamp(min=1).unsqueeze(-1)
