"""Measures that are linear in the probabilities, as value columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .measures import Read, block_ids
from .program import Program
from .shapes import Shapes
from .terms import Terms, region_of


def by_column(read: Read, program: Program, terms: Terms, shapes: Shapes) -> bool:
    """Whether a value column gives this measure.

    ``|i - j|`` only where every seen key is past; a mass not where each head has a region of its
    own (heads of a group share their values).
    """
    if read.kind == "mass":
        assert read.region is not None
        return region_of(program, read.region).shape[1] == 1
    if read.kind == "distance":
        return terms.causal or terms.q_offset >= shapes.Sk - 1
    return read.kind in ("distance_signed", "block_map")


def width_of(read: Read) -> int:
    """How many value columns a measure takes."""
    return (read.size or 1) if read.kind == "block_map" else 1


def _centre(shapes: Shapes) -> int:
    # Positions are taken from the middle of the keys: half the magnitude, half the rounding.
    return shapes.Sk // 2


def columns_of(program: Program, reads: Sequence[Read], shapes: Shapes) -> Tensor:
    """The value columns of ``reads``: ``[B, Sk, C]`` in the dtype of the statistics."""
    dtype, device = shapes.stat_dtype, shapes.device
    cols = []
    for read in reads:
        if read.kind == "mass":
            assert read.region is not None
            cols.append(region_of(program, read.region)[:, 0].to(dtype).unsqueeze(-1))
        elif read.kind == "block_map":
            assert read.size is not None
            ids = block_ids(shapes.Sk, read.size, device)
            cols.append(torch.nn.functional.one_hot(ids, read.size).to(dtype)[None])
        else:
            at = torch.arange(shapes.Sk, device=device, dtype=dtype) - _centre(shapes)
            cols.append(at[None, :, None])
    return torch.cat([c.expand(shapes.B, -1, -1) for c in cols], -1)


def split_columns(
    program: Program,
    reads: Sequence[Read],
    shapes: Shapes,
    q_offset: int,
    sums: Tensor,
    share: Tensor | None,
    lse: Tensor,
) -> dict[str, Tensor]:
    """Turn ``P @ columns [B,Hq,Sq,C]`` into the measures of ``reads``.

    ``share [B,Hq,Sq]`` is what the keys (not the sink) hold of each row; None stands for 1
    wherever a row sees anything.
    """
    found = {}
    for read, part in zip(reads, sums.split([width_of(r) for r in reads], -1), strict=True):
        if read.kind == "mass":
            found[read.key] = part[..., 0]
        elif read.kind == "block_map":
            assert read.size is not None
            seen, whole = lse > -torch.inf, (0, shapes.Sq)
            sums_of = sum_rows(program, part, seen, whole, shapes.Sq, read.size)
            found[read.key] = mean_rows(sums_of)
        else:
            i = torch.arange(shapes.Sq, device=sums.device, dtype=sums.dtype)
            i = i + (q_offset - _centre(shapes))
            held = (lse > -torch.inf).to(sums.dtype) if share is None else share
            found[read.key] = i * held - part[..., 0]
    return found


def entropy_by_column(terms: Terms) -> bool:
    """Whether ``sum_j P_ij s_ij`` is a sum of value columns (keys, key-only and low-rank terms)."""
    keyed = [psi for _, psi in terms.columns]
    if terms.key_mask is not None:
        keyed.append(terms.key_mask)
    dense = terms.bias is not None and terms.bias.dtype != torch.bool
    # heads of a group share their values: a term of each head its own has no column
    return not dense and terms.softcap is None and all(t.shape[1] == 1 for t in keyed)


def entropy_columns(terms: Terms, k: Tensor) -> dict[str, Tensor]:
    """The values whose means make up the entropy, ``[B, Hkv, Sk, E]``.

    ``keys`` themselves and, where there are any, ``terms``: what is added to the score of each key
    (one column), and ``psi`` of the low-rank terms.
    """
    added = []
    if terms.key_mask is not None:
        finite = terms.key_mask.masked_fill(terms.key_mask == -torch.inf, 0.0)
        added.append(finite.transpose(2, 3))
    added += [psi for _, psi in terms.columns]
    if not added:
        return {"keys": k}
    wide = [t.to(k.dtype).expand(*k.shape[:3], -1) for t in added]
    return {"keys": k, "terms": torch.cat(wide, -1)}


def entropy_of(terms: Terms, q: Tensor, means: Mapping[str, Tensor], lse: Tensor) -> Tensor:
    """The entropy ``lse - sum_j P_ij s_ij`` from ``P @ entropy_columns``; a sink is one outcome."""
    mean = terms.scale * (q * means["keys"]).sum(-1)
    rest = means.get("terms", mean.unsqueeze(-1))
    if terms.key_mask is not None:
        mean, rest = mean + rest[..., 0], rest[..., 1:]
    for phi, psi in terms.columns:
        mean = mean + (phi.to(rest.dtype) * rest[..., : psi.shape[-1]]).sum(-1)
        rest = rest[..., psi.shape[-1] :]
    seen = lse > -torch.inf
    if terms.sinks is not None:
        sink = terms.sinks.to(lse.dtype)[:, None]
        share = (sink - torch.where(seen, lse, 0.0)).exp()
        mean = mean + torch.where(share > 0, share * sink.clamp(min=-1e30), 0.0)
    return torch.where(seen, lse - mean, 0.0)


def sum_rows(
    program: Program, by_block: Tensor, seen: Tensor, rows: Sequence[int], queries: int, n: int
) -> Tensor:
    """Sum ``[B,Hq,m,n]`` over the blocks of queries that the rows ``rows[0] … rows[1]`` touch.

    Returns ``[B, Hq, blocks touched, n + 1]``; the last column counts the rows that were summed.
    """
    start, stop = rows[0], rows[1]
    counted = seen.to(by_block.dtype)
    if program.queries is not None:
        counted = counted * program.queries[:, None, start:stop].to(by_block.dtype)
    ids = block_ids(queries, n, by_block.device)[start:stop]
    ids = ids - start * n // queries
    to_block = torch.nn.functional.one_hot(ids).to(by_block.dtype)  # [m, blocks]
    counted = counted.expand(by_block.shape[:-1])
    together = torch.cat([by_block, torch.ones_like(by_block[..., :1])], -1)
    return to_block.mT @ (together * counted.unsqueeze(-1))


def mean_rows(sums: Tensor) -> Tensor:
    """``[B,Hq,n,n+1]`` of :func:`sum_rows` as means over the rows that counted, ``[B,Hq,n,n]``."""
    return sums[..., :-1] / sums[..., -1:].clamp(min=1)
