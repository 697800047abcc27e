"""Routing Transformer: attention within clusters that online k-means finds, beside windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.layers import RoutingAttention
from foveate.patterns import Clusters, SlidingWindow, spherical_kmeans

Make = Callable[..., Any]
S = 40


def baseline(**given: Any) -> Any:
    """Every token is in every cluster: full attention in the routed heads."""
    return RoutingAttention(**(given | {"window": 1000}))


def normed(x: Tensor) -> Tensor:
    """Layer norm without parameters, written out."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def written_out(layer: Any, x: Tensor, given: dict[str, Any]) -> Tensor:
    """Token by token and cluster by cluster, in float64, with the layer's weights."""
    B, _, dim = x.shape
    heads, causal, local = given["heads"], given.get("causal", True), given["heads"] // 2
    D, routed = dim // heads, given["heads"] - local
    weights = {name: t.detach().double() for name, t in layer.named_parameters()}
    centroids, x = layer.centroids.double(), x.double()
    q, k, v = (x @ weights["local_qkv.weight"].mT).view(B, S, 3, local, D).permute(2, 0, 3, 1, 4)
    back = torch.arange(S)[:, None] - torch.arange(S)
    near = (back >= 0) & (back < given["window"]) if causal else back.abs() < given["window"]
    score = (q @ k.mT * D**-0.5).masked_fill(~near, -torch.inf)
    outs = [*(score.softmax(-1) @ v).unbind(1)]
    parts = 2 if causal else 3
    q, *_, v = (x @ weights["routed.weight"].mT).view(B, S, parts, routed, D).permute(2, 0, 3, 1, 4)
    q = normed(q)
    if not causal:
        k = (x @ weights["routed.weight"].mT).view(B, S, parts, routed, D)[:, :, 1].transpose(1, 2)
    k = q if causal else normed(k)
    for h in range(routed):
        total, count = torch.zeros(B, S, D).double(), torch.zeros(B, S, 1).double()
        for b in range(B):
            for centroid in centroids[h]:
                rows = (q[b, h] @ centroid).topk(given["window"]).indices.tolist()
                cols = (k[b, h] @ centroid).topk(given["window"]).indices.tolist()
                for i in rows:
                    sees = [j for j in cols if not causal or j <= i]
                    if not given.get("see_self", True):
                        sees = [j for j in sees if j != i] or [i]
                    p = (q[b, h, i] @ k[b, h, sees].mT * D**-0.5).softmax(-1)
                    total[b, i] += p @ v[b, h, sees]
                    count[b, i] += 1
        outs.append(total / count.clamp(min=1))
    return torch.cat(outs, -1) @ weights["proj.weight"].mT


def check(make: Make) -> None:
    """The layer against its formula: causal and not, with and without the own key."""
    for more in ({}, {"see_self": False}, {"causal": False}):
        given: dict[str, Any] = {"dim": 24, "heads": 4, "clusters": 5, "window": 9} | more
        torch.manual_seed(0)
        layer = make(**given).eval()
        x = torch.randn(2, S, 24) * 2
        assert torch.allclose(layer(x).double(), written_out(layer, x, given), atol=1e-5), more


def test_it_is_the_papers_algorithm() -> None:
    check(RoutingAttention)


def test_one_cluster_of_all_tokens_is_full_attention() -> None:
    torch.manual_seed(0)
    layer = RoutingAttention(16, 2, clusters=1, local_heads=0).eval()
    x = torch.randn(2, S, 16)
    q, v = layer.routed(x).view(2, S, 2, 2, 8).permute(2, 0, 3, 1, 4)
    full = fv.attention(normed(q), normed(q), v, causal=True).out
    assert torch.allclose(layer(x), layer.proj(full.transpose(1, 2).flatten(2)), atol=1e-5)


def test_no_later_token_is_read_where_the_clusters_stay() -> None:
    torch.manual_seed(0)
    layer = RoutingAttention(24, 4, clusters=5, window=9).eval()
    x = torch.randn(1, S, 24, requires_grad=True)
    for i in (0, 13, 30):
        (grad,) = torch.autograd.grad(layer(x)[0, i].sum(), x)
        assert not grad[0, i + 1 :].any() and grad[0, : i + 1].any()


def test_centroids_find_planted_groups_and_follow_only_in_training() -> None:
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.layer_norm(torch.randn(4, 16, generator=g), (16,))
    group = torch.arange(64) % 4
    layer = RoutingAttention(16, 1, clusters=4, local_heads=0, decay=0.5)
    with torch.no_grad():
        layer.routed.weight[:16] = torch.eye(16)
    for _ in range(5):
        x = directions[group] + 0.3 * torch.randn(2, 64, 16, generator=g)
        layer(x)
    own = (normed(x) @ layer.centroids[0].mT).argmax(-1)
    sizes = [len({int(c) for c in own[:, group == n].flatten()}) for n in range(4)]
    assert sizes == [1, 1, 1, 1] and own[0, :4].unique().numel() == 4
    near = (normed(directions)[:, None] - layer.centroids[0]).norm(dim=-1).amin(1)
    assert (near < 1.0).all()  # vectors of length 4
    before = layer.centroids.clone()
    layer.eval()(x + 5)
    assert torch.equal(layer.centroids, before)


def test_the_averages_are_those_of_the_authors() -> None:
    torch.manual_seed(0)
    layer = RoutingAttention(8, 1, clusters=3, local_heads=0, decay=0.9)
    x = torch.randn(1, 30, 8)
    points = normed(layer.routed(x)[0, :, :8].detach())
    first = spherical_kmeans(points[None, None], 3)[0]
    layer(x)
    nearest = (points @ first.mT).argmax(-1)
    for c in range(3):
        mine = points[nearest == c]  # a count and a sum of 1 at first, in thirds of the tokens
        count = 0.9 + 0.1 * len(mine) / 10
        want = (0.9 * first[c] + 0.1 * mine.sum(0) / 10) / count
        assert torch.allclose(layer.centroids[0, c], want, atol=1e-5)
    home = layer.beta * (points - first[nearest]).square().mean()
    assert torch.allclose(layer.commitment.detach(), home, rtol=0.2)


def test_the_pattern_shows_the_nearest_clusters_keys() -> None:
    q, k, v = torch.randn(3, 2, 2, S, 8, generator=torch.Generator().manual_seed(3)).unbind(0)
    centroids = spherical_kmeans(k, 4)
    pattern = Clusters(centroids, window=12)
    near = (normed(q) @ normed(centroids).mT).argmax(-1)
    taken = (normed(k) @ normed(centroids).mT).topk(12, 2).indices  # [B, H, 12, K]
    held = torch.zeros(2, 2, S, 4, dtype=torch.bool).scatter(2, taken, True)
    want = torch.stack([held[b, h][:, near[b, h]].T for b in range(2) for h in range(2)])
    want = want.view(2, 2, S, S)
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    found = pattern.route(q, k, causal=True, q_offset=0, scale=1.0)
    assert torch.equal(found.matrix(), want & causal)
    both = pattern | SlidingWindow(4)
    got = fv.attention(q, k, v, causal=True, pattern=both).out
    mask = (want & causal) | SlidingWindow(4).mask(S)
    assert torch.allclose(got, fv.attention(q, k, v, bias=mask).out, atol=1e-5)
    everything = fv.attention(q, k, v, pattern=Clusters(centroids, window=1000)).out
    assert torch.allclose(everything, fv.attention(q, k, v).out, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RoutingAttention(24, 4, 0), "clusters=0"),
        (lambda: RoutingAttention(24, 4, 4, 0), "window=0"),
        (lambda: RoutingAttention(24, 4, 4, local_heads=4), "local_heads=4"),
        (lambda: RoutingAttention(24, 5, 4), "heads=5"),
        (lambda: RoutingAttention(24, 4, 4, decay=1.0), "decay=1.0"),
        (lambda: Clusters(torch.randn(4)), "centroids"),
        (lambda: Clusters(torch.randn(4, 8), window=0), "window=0"),
        (lambda: spherical_kmeans(torch.randn(1, 1, 3, 8), 4), "4 clusters of 3"),
        (
            lambda: fv.attention(*torch.randn(3, 1, 2, 9, 8), pattern=Clusters(torch.randn(4, 6))),
            r"\[K, 8\]",
        ),
    ],
)
def test_bad_input(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(fv.FoveateError, match=words):
        make()


def test_clusters_larger_than_the_sequence_take_it_all() -> None:
    torch.manual_seed(0)
    layer = RoutingAttention(16, 2, clusters=3, window=500, local_heads=0).eval()
    x = torch.randn(1, 12, 16)
    one = RoutingAttention(16, 2, clusters=1, local_heads=0).eval()
    one.load_state_dict(
        {
            **layer.state_dict(),
            **{
                k: v[:, :1]
                for k, v in (
                    ("centroids", layer.centroids),
                    ("sums", layer.sums),
                    ("counts", layer.counts),
                )
            },
        }
    )
    assert torch.allclose(layer(x), one(x), atol=1e-5)
