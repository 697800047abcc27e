"""Every family with its attention written out in float64, and the stable methods by definition.

Independent of the engine: a modeling file's eager function is replaced by one that makes the whole
matrix and edits its rows, stage by stage, in the order of the methods. Of foveate it takes the
methods' numbers (gains, regions, scopes) and the names of the attention modules.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.adapters.sites import sites

Edit = Callable[..., Any]


@dataclass
class Row:
    """One attention call by definition; tensors are float64, ``P`` has the sink as last column."""

    layer: int
    depth: int
    scores: Tensor  # [B, H, Sq, Sk], -inf where the model itself hides
    sink: Tensor  # [B, H, Sq, 1]
    real: Tensor  # bool [B, Sk]: keys that are no padding
    rows: Tensor  # bool [B, Sq]: queries that are no padding
    causal: bool
    prompt: int  # queries from here on were decoded one by one
    born: int  # keys from here on were generated
    masks: dict[str, Tensor]

    @property
    def heads(self) -> int:
        return self.scores.shape[1]

    def on(self, name: str) -> Tensor:
        """A region on the keys, bool ``[B, 1, 1, Sk]``."""
        B, _, _, Sk = self.scores.shape
        if name == "generated":
            found = (torch.arange(Sk) >= self.born).expand(B, Sk)
        else:
            found = self.masks[name].expand(B, -1)
            found = torch.nn.functional.pad(found, (0, Sk - found.shape[1]))
        return found[:, None, None]

    def meant(self, method: Any, count: int | None = None) -> Tensor:
        """The heads a method speaks of, bool ``[1, H, 1, 1]``."""
        heads, H = method.scope.heads, count or self.heads
        if isinstance(heads, dict):
            named = [h for layer, some in heads.items() if layer == self.layer for h in some]
        else:
            named = list(range(H)) if heads is None else list(heads)
        found = torch.zeros(H, dtype=torch.bool)
        found[named] = True
        return found[None, :, None, None]

    def ours(self, method: Any) -> bool:
        """Whether a method acts in this layer."""
        scope = method.scope
        layers = [*(scope.layers or ()), *(scope.heads if isinstance(scope.heads, dict) else ())]
        return not layers or self.layer in layers

    def soft(self, visible: Tensor) -> Tensor:
        """Probabilities over what is visible and the sink; 0 in a row that sees nothing."""
        s = self.scores.masked_fill(~visible, -torch.inf)
        p = torch.cat([s, self.sink], -1).softmax(-1)
        return torch.where((s > -torch.inf).any(-1, keepdim=True), p, 0.0)


def again(p: Tensor) -> Tensor:
    """Rows summing to 1 again."""
    total = p.sum(-1, keepdim=True)
    return torch.where(total > 0, p / total, 0.0)


# -- the definitions, by stage ---------------------------------------------------------------------
def window(pattern: Any, start: Tensor, Sq: int, Sk: int) -> Tensor:
    """Who sees whom, counted from each row's first real token: bool ``[B, 1, Sq, Sk]``."""
    i = torch.arange(Sq)[None, :, None] - start[:, None, None]
    j = torch.arange(Sk)[None, None, :] - start[:, None, None]
    near = (i - j).abs() < pattern.window if not pattern.causal else (i - j) < pattern.window
    sunk = (j >= 0) & (j < pattern.sinks)
    seen = (near | sunk) & (j <= i) if pattern.causal else near | sunk
    return seen[:, None]


def sees(method: Any, c: Row) -> Tensor | None:
    """What a method leaves visible; bool ``[B, H, Sq, Sk]``."""
    B, H, Sq, Sk = c.scores.shape
    start = c.real.int().argmax(-1)
    if isinstance(method, fv.Hide):
        return (~(c.on(method.region) & c.meant(method))).expand(B, H, Sq, Sk)
    if isinstance(method, fv.Select):
        seen = window(method.pattern, start, Sq, Sk)
        return seen | ~c.meant(method)
    if isinstance(method, fv.Tuned):
        seen = torch.ones(B, H, Sq, Sk, dtype=torch.bool)
        for pattern, where in method.choices:
            for head in where.get(c.layer, ()):
                seen[:, head] = window(pattern, start, Sq, Sk)[:, 0]
        decoded = torch.arange(Sq) >= c.prompt
        return seen | (decoded[:, None] if method.scope.phase == "prefill" else False)
    return None


def written(method: Any, c: Row, p: Tensor) -> Tensor:
    """AttendTo: chosen rows overwritten."""
    Sq = p.shape[2]
    i = torch.arange(Sq)
    last = ((i == min(c.prompt, Sq) - 1) | (i >= c.prompt))[None, None, :, None]
    region = c.on(method.region)
    first = region[:, 0, 0].int().argmax(-1)
    chosen = last & (i[None, :] >= first[:, None])[:, None, :, None] & c.meant(method)
    inside = torch.nn.functional.pad(region, (0, 1)) & (p > 0)
    if method.weights == "own":
        inside = inside | (torch.arange(p.shape[-1]) == p.shape[-1] - 1)
        new = again(p * inside)
    else:
        new = again(inside.double())
    return torch.where(chosen, new, p)


def gained(method: Any, c: Row, p: Tensor) -> Tensor:
    """Emphasize, PASTA, ZeroTuning: a region multiplied, rows renormalised."""
    inside = c.on(method.region)
    if isinstance(method, fv.PASTA) and c.causal:  # what is generated is not scaled down
        inside = inside | c.on("generated")
    inside = torch.nn.functional.pad(inside, (0, 1)) & c.meant(method)
    return again(torch.where(inside, p * method.gain, p))


def act_sinks(method: Any, c: Row, p: Tensor, shown: Tensor) -> Tensor:
    """ACT's sinks, bool ``[B, H, 1, Sk + 1]``: judged by the prompt's rows alone."""
    asks = (c.rows & (torch.arange(p.shape[2]) < c.prompt))[:, None, :, None]
    seen = shown & asks
    mean = (p[..., :-1] * asks).sum(2) / seen.sum(2).clamp(min=1)
    known = c.real & (torch.arange(c.real.shape[1]) < c.born)
    limit = method.alpha / known.sum(-1)[:, None, None]
    found = (mean > limit) & ~c.on("first")[:, :, 0] & known[:, None]
    return torch.nn.functional.pad(found, (0, 1))[:, :, None] & c.meant(method)


def calibrated(method: Any, c: Row, p: Tensor, sinks: Tensor) -> Tensor:
    """ACT's edit of the rows."""
    first = torch.nn.functional.pad(c.on("first"), (0, 1))
    others = ~sinks if method.share_first else ~sinks & ~first
    others = others & (torch.arange(p.shape[-1]) < p.shape[-1] - 1)
    took, gave = (p * others).sum(-1, keepdim=True), (p * sinks).sum(-1, keepdim=True)
    factor = torch.where(took > 0, 1 + (1 - method.beta) * gave / took, 1.0)
    edited = torch.where(sinks, p * method.beta, torch.where(others, p * factor, p))
    return torch.where(sinks.any(-1, keepdim=True), again(edited), p)


def corrected(method: Any, c: Row, p: Tensor, full: Tensor) -> Tensor:
    """DeltaCorrection: sparse rows plus the difference of the last full row before them."""
    every, last = method.every, method.last
    out = full.clone()  # rows at the end, and those decoded
    stop_at = min(c.prompt, p.shape[2])
    for b in range(len(p)):
        mine = c.rows[b].nonzero()[:, 0]
        mine = mine[mine < stop_at]
        start, stop = int(mine.min()), int(mine.max()) + 1
        cut = (stop - start) - max(last, every)
        end = start + max(0, cut // every) * every
        for i in range(start, end):
            a = start + (i - start) // every * every
            out[b, :, i] = p[b, :, i] + full[b, :, a] - p[b, :, a]
    return torch.where(c.meant(method), out, p)


def probabilities(some: Sequence[Any], c: Row, model: Tensor) -> tuple[Tensor, Tensor]:
    """``P [B, H, Sq, Sk + 1]`` of some methods, and who sees whom ``[B, H, Sq, Sk]``."""
    hidden, shown = model, model
    for method in some:
        seen = sees(method, c)
        if seen is not None:
            shown = shown & seen
            hidden = hidden & seen if isinstance(method, fv.Hide) else hidden
    sinks = {
        id(m): act_sinks(m, c, *probabilities(some[:i], c, model))
        for i, m in enumerate(some)
        if isinstance(m, fv.ACT)
    }

    def rows(visible: Tensor) -> Tensor:
        p = c.soft(visible)
        for method in some:
            if isinstance(method, fv.AttendTo):
                p = written(method, c, p)
        for method in some:
            if isinstance(method, fv.Emphasize):
                p = gained(method, c, p)
            if isinstance(method, fv.ACT):
                p = calibrated(method, c, p, sinks[id(method)])
        return p

    p = rows(shown)
    for method in some:
        if isinstance(method, fv.DeltaCorrection):
            p = corrected(method, c, p, rows(hidden))
    return p, shown


def moved(method: Any, c: Row, parts: dict[str, Tensor]) -> None:
    """Shift and FocusDirections: a vector added to queries, keys, values or outputs."""
    t = parts.get(method.part)
    if t is None:
        return
    vector = method.vectors[c.layer] if isinstance(method.vectors, dict) else method.vectors
    delta = method.alpha * vector.double()[None, :, None, :]
    parts[method.part] = t + torch.where(c.meant(method, t.shape[1]), delta, 0.0)


def replaced(method: Any, c: Row, out: Tensor) -> Tensor:
    """Ablate."""
    new = torch.zeros(()) if isinstance(method.to, str) else method.to[None, :, None, :]
    return torch.where(c.meant(method), new.double(), out)


# -- a model ---------------------------------------------------------------------------------------
@dataclass
class Book:
    """What is asked of a model by the book, and what it read.

    ``read`` maps (method, key, layer) to a tensor: masses and distances ``[B, H, Sq]``,
    captured ``[B, H, S, D]``.
    """

    methods: Sequence[Any]
    stack: str
    masks: dict[str, Tensor]
    real: Tensor  # bool [B, Sk] of the stack's keys
    rows: Tensor  # bool [B, Sq] of its queries
    prompt: int = 10**9  # queries from here on are decoded
    born: int = 10**9  # keys from here on are generated
    read: dict[tuple[int, str, int], Tensor] = field(default_factory=dict)

    def attend(
        self, site: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: Any
    ) -> tuple[Tensor, Tensor]:
        here = site.stack == self.stack
        parts = {"q": query.double(), "k": key.double(), "v": value.double()}
        groups = query.shape[1] // key.shape[1]
        shape = query.shape[0], query.shape[1], query.shape[2], key.shape[2]
        decoder = site.kind == "decoder"
        prompt = self.prompt if decoder or site.kind == "cross" else 10**9
        c = Row(
            site.layer, site.depth, torch.zeros(shape), torch.zeros(()), self.real, self.rows,
            decoder, prompt, min(self.born, shape[3]) if decoder else shape[3],
            self.masks,
        )  # fmt: skip
        mine = [m for m in self.methods if c.ours(m)] if here else []
        for method in mine:
            if isinstance(method, fv.Shift):
                moved(method, c, parts)
            if isinstance(method, fv.Capture) and method.part != "out":
                self.read[id(method), "captured", site.layer] = parts[method.part]
        k, v = (parts[name].repeat_interleave(groups, 1) for name in "kv")
        scale = options.get("scaling")
        s = parts["q"] @ k.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if options.get("softcap") is not None:
            s = options["softcap"] * torch.tanh(s / options["softcap"])
        if options.get("position_bias") is not None:
            s = s + options["position_bias"].double()
        if mask is not None:
            term = mask[..., : k.shape[2]]
            term = torch.where(term, 0.0, -torch.inf) if term.dtype == torch.bool else term
            s = s + term.double().masked_fill(term <= -1e30, -torch.inf)
        sinks = options.get("s_aux")
        c.scores = s
        c.sink = torch.full((), -torch.inf) if sinks is None else sinks.double()
        c.sink = c.sink.reshape(1, -1, 1, 1).expand(*shape[:3], 1)
        p, _ = probabilities(mine, c, s > -torch.inf)
        for method in mine:
            for one in getattr(method, "reads", ()):
                if one.kind == "mass":
                    found = (p[..., :-1] * c.on(one.region)).sum(-1)
                else:
                    i, j = (torch.arange(n) for n in shape[2:])
                    found = (p[..., :-1] * (i[:, None] - j).abs()).sum(-1)
                self.read[id(method), one.key, site.layer] = found
        parts["out"] = p[..., :-1] @ v
        for method in mine:
            if isinstance(method, fv.Shift) and method.part == "out":
                moved(method, c, parts)
            if isinstance(method, fv.Ablate):
                parts["out"] = replaced(method, c, parts["out"])
            if isinstance(method, fv.Capture) and method.part == "out":
                self.read[id(method), "captured", site.layer] = parts["out"]
        return parts["out"].to(query.dtype).transpose(1, 2).contiguous(), p


@contextmanager
def by_definition(model: Any, book: Book) -> Iterator[None]:
    """Let an eager model attend by the book."""
    there = {id(site.module): site for site in sites(model)}

    def forward(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        *more: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        return book.attend(there[id(module)], query, key, value, mask, options)

    with pytest.MonkeyPatch.context() as patch:
        for module in {type(site.module).__module__ for site in there.values()}:
            if not hasattr(sys.modules[module], "eager_attention_forward"):
                pytest.skip("this transformers writes the attention of this family out itself")
            patch.setattr(sys.modules[module], "eager_attention_forward", forward)
        yield
