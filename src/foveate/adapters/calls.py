"""One attention call of a live model as a program: what it computes when nobody interferes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.program import Program
from ..engine.shapes import Shapes
from ..errors import FoveateError
from .masks import MaskInfo, MaskPattern
from .sites import Site

__all__ = ["Base", "base_program", "own_terms", "real_queries", "where"]


@dataclass(frozen=True, eq=False)
class Base:
    """The model's own program for one call.

    Attributes
    ----------
    program : Program
    shapes : Shapes
    held : tuple
        The tensors whose identity named this base in a cache: they must outlive it there.
    """

    program: Program
    shapes: Shapes
    held: tuple[Any, ...]


def where(site: Site, mask: Any, query: Tensor, key: Tensor) -> tuple[int, int]:
    """Absolute positions of a call's first query and first key.

    Where no mask function was asked both are 0 (vision transformers, Whisper's encoder). A mask
    prepared by the user says where it ends: the last query stands on the last key that any query
    sees.
    """
    if isinstance(mask, MaskInfo):
        return mask.q_offset, mask.kv_offset
    queries, keys = query.shape[2], key.shape[2]
    if site.kind != "decoder" or queries == keys:
        return 0, 0
    if isinstance(mask, Tensor) and mask.dim() == 4:
        seen = _as_visible(mask[..., :keys]).any(0).any(0).any(0)
        last = int(seen.nonzero().max()) if bool(seen.any()) else keys - 1
        return max(0, last + 1 - queries), 0
    # torch aligns is_causal at the upper left; a single query sees everything there is
    return (keys - 1 if queries == 1 else 0), 0


def _as_visible(mask: Tensor) -> Tensor:
    # an additive mask hides with the dtype's minimum; no bias worth its name comes near it
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _as_bias(mask: Tensor) -> Tensor:
    """A prepared mask as a bias whose hidden pairs are truly hidden."""
    return mask if mask.dtype == torch.bool else mask.masked_fill(~_as_visible(mask), -torch.inf)


def _as_term(mask: Tensor) -> Tensor:
    """A bias, or a bool mask, as a term on the scores."""
    return torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask


def _padding(info: MaskInfo) -> Tensor | None:
    """Real keys of the call, bool ``[B, Sk]``; None when nothing would be hidden by it."""
    padding = info.padding
    if padding is None:
        return None
    stop = info.kv_offset + info.kv_length
    if info.rule.causal:  # keys after the last query are hidden anyhow
        last = info.q_offset + info.q_length
        if last <= padding.shape[1] and bool(padding[:, info.kv_offset : last].all()):
            return None
    elif stop <= padding.shape[1] and bool(padding[:, info.kv_offset : stop].all()):
        return None
    if stop > padding.shape[1]:
        padding = nn.functional.pad(padding, (0, stop - padding.shape[1]))
    return padding[:, info.kv_offset : stop]


def real_queries(info: MaskInfo) -> Tensor | None:
    """Queries that are not padding, bool ``[B, Sq]``; None when all are real."""
    stop = info.q_offset + info.q_length
    if info.padding is None or stop > info.padding.shape[1]:
        return None
    real = info.padding[:, info.q_offset : stop]
    return None if bool(real.all()) else real


def _needless(info: MaskInfo) -> bool:
    """Whether the window hides nothing that this call holds."""
    rule = info.rule
    if not rule.windows:
        return not rule.parts
    first_q, last_q = info.q_offset, info.q_offset + info.q_length - 1
    last_k = last_q if rule.causal else info.kv_offset + info.kv_length - 1
    return (rule.back is None or last_q - info.kv_offset <= rule.back) and (
        rule.ahead is None or last_k - first_q <= rule.ahead
    )


def _from_info(program: Program, info: MaskInfo, keys_only: bool, device: torch.device) -> Program:
    changes: dict[str, Any] = {"q_offset": info.q_offset - info.kv_offset}
    if not keys_only and (real := real_queries(info)) is not None:
        changes["queries"] = real.to(device)
    if info.use_vmap:
        return program.evolve(bias=info.visible().to(device), **changes)
    changes["causal"] = info.rule.causal
    if not _needless(info):
        batch = torch.arange(info.batch, device=info.home)
        changes["pattern"] = MaskPattern(info.rule, info.kv_offset, batch)
    if (real_keys := _padding(info)) is not None:
        hidden = torch.zeros(real_keys.shape, device=device)
        hidden.masked_fill_(~real_keys.to(device), -torch.inf)
        changes["key_bias"] = hidden[:, None]  # (B, 1, Sk)
    return program.evolve(**changes)


def own_terms(
    module: nn.Module, own: str | None, options: Mapping[str, Any]
) -> tuple[Any, Any, Any, Any]:
    """Scale, soft-cap, position bias and sinks of a call, from what the module passes and holds."""
    scale, bias = options.get("scaling"), options.get("position_bias")
    if own == "sdpa":  # has no notion of the other two: a model run on it goes without
        return scale, None, bias, None
    sinks = options.get("s_aux")
    if sinks is None:
        sinks = options.get("sinks", getattr(module, "sinks", None))
    return scale, options.get("softcap"), bias, sinks


def base_program(
    site: Site,
    mask: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    terms: tuple[Any, Any, Any, Any],
    *,
    implicit_causal: bool,
    q_start: int,
    queries: Callable[[], Tensor | None],
) -> Base:
    """The program of one call.

    Parameters
    ----------
    site : Site
    mask : MaskInfo, Tensor or None
        What the module was given as its attention mask.
    query, key, value : Tensor
        ``[B, Hq, Sq, D]``, ``[B, Hkv, Sk, D]``, ``[B, Hkv, Sk, Dv]``.
    terms : tuple
        What :func:`own_terms` found.
    implicit_causal : bool
        Whether the model's own attention, given no mask, is causal (upper left) by itself.
    q_start : int
        Absolute position of the first query.
    queries : callable
        Which queries are real, asked where the mask speaks of keys only (cross-attention).
    """
    scale, softcap, position_bias, sinks = terms
    cross = site.kind == "cross"
    program = Program(scale=scale, softcap=softcap)
    if isinstance(mask, MaskInfo):
        # a mask with one row for all queries speaks of keys only
        keys_only = cross or mask.q_length != query.shape[2]
        program = _from_info(program, mask, keys_only, query.device)
    elif mask is None:
        causal = implicit_causal and query.shape[2] > 1 and not cross
        program = program.evolve(causal=causal, q_offset=q_start)
    elif isinstance(mask, Tensor) and mask.dim() == 4:
        term = _as_bias(mask[..., : key.shape[2]])
        if term.shape[2] == 1 < query.shape[2]:  # every query is shown the same keys
            program = program.evolve(key_bias=_as_term(term[:, :, 0]), q_offset=q_start)
        else:
            program = program.evolve(bias=term, q_offset=q_start)
    else:
        shape = f" of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else ""
        raise FoveateError(
            f"{site.name} was given a {type(mask).__name__}{shape} as its attention mask; foveate "
            "reads 2-D padding masks and 4-D masks [B, 1, Sq, Sk]: pass one of these to the "
            "model."
        )
    if cross:
        program = program.evolve(q_offset=q_start, queries=queries())
    if position_bias is not None and not _silent(position_bias):
        program = _with_position_bias(program, position_bias, query, key)
    if sinks is not None:
        sinks = sinks.reshape(-1) if sinks.numel() == query.shape[1] else _refuse_sinks(site, sinks)
        program = program.evolve(sinks=sinks)
    return Base(program, Shapes.of(query, key, value), (mask, position_bias, sinks))


def _silent(position_bias: Tensor) -> bool:
    """T5's cross-attention passes a matrix of zeros: as a term it would only cost."""
    return not position_bias.requires_grad and not bool(position_bias.any())


def _with_position_bias(program: Program, bias: Tensor, query: Tensor, key: Tensor) -> Program:
    if bias.shape[-2:] != (query.shape[2], key.shape[2]):
        raise FoveateError(
            f"The model passed a position bias of shape {tuple(bias.shape)} to a call with "
            f"{query.shape[2]} queries and {key.shape[2]} keys; foveate reads [B|1, H|1, Sq, Sk] "
            f"only."
        )
    if program.bias is not None:
        prepared = program.bias
        if prepared.dtype == torch.bool:
            bias = torch.where(prepared, bias, -torch.inf)
        else:
            bias = bias + prepared
    return program.evolve(bias=bias)


def _refuse_sinks(site: Site, sinks: Tensor) -> Tensor:
    raise FoveateError(
        f"{site.name} has sinks of shape {tuple(sinks.shape)}; foveate knows one logit per head "
        "only: leave this site out with layers= or stack=."
    )
