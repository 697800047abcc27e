"""HiP: the keys of a block of queries, found by a tree search over key ranges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._implements import implements
from ..errors import FoveateError
from ._base import whole
from ._blocks import Queries, ends, query_blocks, spread, unpadded
from .routed import Pieces, Routed, Selection

__all__ = ["HiP", "tree_search"]

CPU_STEP, STEP = 500_000, 32_000_000  # numbers gathered at once: what a core's cache holds


@implements("hip-attention", basis="paper")
@dataclass(frozen=True)
class HiP(Routed):
    """Hierarchically pruned attention: the best keys of a block of queries, by tree search.

    The keys a block of queries may look back on are cut into ``k / block_k`` equal ranges. Each is
    halved, each half scored by the keys in the middle of it, the best ``k / block_k`` halves kept,
    until they are single blocks of ``block_k`` keys: ``k log(n / k)`` scores instead of ``n``. To
    these come the first ``sinks`` keys and the last ``window`` keys of every query.

    Parameters
    ----------
    k : int
        Keys to find for a block of queries; a multiple of ``block_k``. With as many as there are
        keys, or more, attention is dense.
    block_q : int
        Queries that choose together.
    stride_q : int
        Every so-manieth of them has a say: a key is scored by the best of them.
    block_k : int
        Keys that are chosen together.
    stride_k : int
        Every so-manieth key of the middle block is scored.
    window : int
        Keys up to itself that every query sees in any case; a query sees more, up to where its
        block begins. Without causality there is no window.
    sinks : int
        First keys that every query sees, rounded up to blocks of keys.

    Raises
    ------
    FoveateError
        Numbers that are no whole ones of at least 1 (``sinks``: 0), strides beyond their block, a
        ``k`` that is no multiple of ``block_k``.

    Notes
    -----
    Defaults are those of the authors' code (version 1.1: 64, 2, 2, 1, window 256, 16 sinks,
    middle keys, halves). There the first three layers stay dense:
    ``fv.Select(HiP(), layers=range(3, depth))``. The search is done for each query head. Ranges
    lie a little otherwise than there: the window begins at a block of keys. Every step of decoding
    searches anew (the authors reuse what was found for some steps); neither their storage of keys
    on the host nor the search in several stages of version 1.2 is here.

    What a query sees depends on the other queries of its block, later ones too; what it reads of
    that does not. In a padded batch the sinks are a row's first real keys and padding is not
    searched; blocks of queries fall elsewhere than in the row alone.

    References
    ----------
    Lee et al., "A Training-Free Sub-Quadratic Cost Transformer Model Serving Framework with
    Hierarchically Pruned Attention", ICLR 2025 (arXiv:2406.09827), algorithm 1; DeepAuto-AI's
    hip-attention, ``v1_1/attention2_draft.py`` and ``attention2_draft_prefetch.py``.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> q, k, v = torch.randn(3, 1, 4, 1024, 32).unbind(0)
    >>> hip = fv.patterns.HiP(k=128, block_q=64, block_k=4, window=64)
    >>> fv.attention(q, k, v, causal=True, pattern=hip).out.shape
    torch.Size([1, 4, 1024, 32])
    >>> seen = hip.route(q, k, causal=True, q_offset=0, scale=1.0).matrix()  # what each head saw
    >>> seen.shape
    torch.Size([1, 4, 1024, 1024])
    """

    k: int = 512
    block_q: int = 64
    stride_q: int = 2
    block_k: int = 2
    stride_k: int = 1
    window: int = 256
    sinks: int = 16

    def __post_init__(self) -> None:
        for name in ("k", "block_q", "stride_q", "block_k", "stride_k", "window"):
            whole("HiP", name, getattr(self, name))
        whole("HiP", "sinks", self.sinks, least=0)
        if self.k % self.block_k:
            raise FoveateError(
                f"HiP(k={self.k}, block_k={self.block_k}): keys are found by the block, so k must "
                "be a multiple of block_k."
            )
        for stride, block in (("stride_q", "block_q"), ("stride_k", "block_k")):
            if getattr(self, stride) > getattr(self, block):
                raise FoveateError(
                    f"HiP({stride}={getattr(self, stride)}, {block}={getattr(self, block)}): a "
                    "stride goes through a block, so it can be as long at most."
                )

    @torch.no_grad()
    def choose(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, scale: float,
        visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """The keys found for ``q [B,Hq,Sq,D]`` among ``k [B,Hkv,Sk,D]``."""
        (B, Hq, Sq, _), Sk, unit = q.shape, k.shape[2], self.block_k
        q, k = unpadded(q, k, visible, causal, q_offset)
        low, high = ends(visible, B, Sk, k.device)
        blocks = query_blocks(Sq, q_offset, self.block_q, k.device)
        if not causal:  # as if every query stood at the end, without a window
            blocks = Queries(blocks.rows, *(torch.full_like(blocks.first, Sk - 1),) * 2)
        window = self.window if causal else 0
        # in blocks of keys: the first real one, where the search begins and ends, the last whole
        real = (low // unit)[:, None]
        begin = real + -(-self.sinks // unit)
        stop = torch.minimum(blocks.first + 1 - window, high[:, None]) // unit
        start = torch.maximum(stop, begin)
        full = ((blocks.first + 1) // unit).clamp(0, Sk // unit).expand(B, -1)
        found = torch.empty(B, Hq, len(blocks.rows), 0, dtype=torch.int64, device=k.device)
        width = start - begin
        if int(width.amax()) > 0:
            in_blocks = k[:, :, : Sk // unit * unit].unflatten(2, (-1, unit))
            nodes = min(self.k // unit, int(width.amax()))
            few = blocks.taken(q, self.stride_q)
            found, _ = tree_search(few, in_blocks, begin[:, 0], width, nodes, self.stride_k)
        always = [spread(real.expand_as(full), torch.minimum(begin, full)), spread(start, full)]
        sinks, recent = (one[:, None].expand(-1, Hq, -1, -1) for one in always)
        rest = spread(full * unit, (blocks.last + 1).clamp(max=Sk).expand(B, -1))
        rows = blocks.rows[None, None]
        far = Pieces(rows, torch.cat([sinks, found, recent], -1), unit=unit, past=True)
        pieces = [far, Pieces(rows, rest[:, None])] if bool((rest >= 0).any()) else [far]
        return Selection(pieces, Sq, Sk, causal=causal, q_offset=q_offset)


@torch.no_grad()
def tree_search(
    q: Tensor, k: Tensor, begin: Tensor, width: Tensor, nodes: int, stride: int = 1
) -> tuple[Tensor, int]:
    """Search the best blocks of keys for every block of queries, halving ranges of blocks.

    Each of ``nodes`` equal ranges is halved, each half scored by the block at its centre (the
    greatest product of any of the queries and any of its keys), the best ``nodes`` kept, until
    ranges are single blocks.

    Parameters
    ----------
    q : Tensor
        ``[B, Hq, N, s, D]``: the queries that speak for each of ``N`` blocks.
    k : Tensor
        ``[B, Hkv, n, block, D]``: the keys in blocks.
    begin : Tensor
        int64 ``[B]``: the first block of keys that is searched.
    width : Tensor
        int64 ``[B, N]``: how many blocks of keys each searches.
    nodes : int
        Ranges kept at every step, and blocks found.
    stride : int
        Every so-manieth key of a block is scored.

    Returns
    -------
    found : Tensor
        int64 ``[B, Hq, N, nodes]``: blocks of keys, ascending; -1, at the end, where there are
        fewer.
    scored : int
        How many products of a query and a key it took.
    """
    B, Hq, N, s, D = q.shape
    Hkv, n = k.shape[1:3]
    speaking = k[..., ::stride, :]
    reps = speaking.shape[-2]
    flat, queries = speaking.reshape(B * Hkv * n, reps * D), q.flatten(0, 1)
    head = torch.arange(B * Hq, device=q.device)
    base = (head // (Hq // Hkv) * n + begin[head // Hq])[:, None, None]
    found, scored = [], 0
    at_once = CPU_STEP if q.device.type == "cpu" else STEP
    step = max(1, at_once // (2 * nodes * reps * D * B * Hq))
    for a in range(0, N, step):
        parts = torch.arange(nodes + 1, device=q.device)
        edges = (width[:, a : a + step, None] * parts // nodes).repeat_interleave(Hq, 0)
        at, size = edges[..., :-1], edges.diff()  # [B * Hq, step, nodes]
        while int(size.amax()) > 1:
            left = size // 2
            at = torch.stack([at, at + left], -1).flatten(-2)
            size = torch.stack([left, size - left], -1).flatten(-2)
            centre = torch.where(size > 0, at + size // 2, 0)
            keys = flat.index_select(0, (centre + base).flatten()).unflatten(0, tuple(at.shape))
            keys = keys.unflatten(-1, (reps, D)).flatten(-3, -2)
            best = (queries[:, a : a + step] @ keys.mT).amax(-2).unflatten(-1, (-1, reps)).amax(-1)
            scored += int((size > 0).sum()) * s * reps
            kept = best.masked_fill(size == 0, -float("inf")).topk(nodes, sorted=False).indices
            at, size = at.gather(-1, kept), size.gather(-1, kept)
        at = torch.where(size > 0, at + begin[head // Hq, None, None], n).sort(-1).values
        found.append(torch.where(at < n, at, -1))
    return torch.cat(found, 1).unflatten(0, (B, Hq)), scored
