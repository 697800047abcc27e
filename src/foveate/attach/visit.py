"""The methods of one attachment on one attention call: the program edited, run and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.calls import Base, base_program, own_terms
from ..engine.measures import Read
from ..engine.planner import plan
from ..engine.program import Output, Program
from ..errors import FoveateError
from .frame import Frame
from .regions import Views
from .run import Call, Place

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Visit"]


class Visit:
    """One session's part in one attention call."""

    __slots__ = ("call", "frame", "hits", "mask", "methods", "place", "reads", "session", "tensors")

    def __init__(
        self, session: Session, frame: Frame, place: Place, call: Call, methods: tuple[Any, ...],
        tensors: tuple[Tensor, Tensor, Tensor], mask: Any, hits: int,
    ) -> None:  # fmt: skip
        self.session = session
        self.frame = frame
        self.place = place
        self.call = call
        self.methods = methods
        self.tensors = tensors
        self.mask = mask
        self.hits = hits
        # as the method asked, as the program holds it, and the heads meant
        self.reads: list[tuple[Read, Read, tuple[int, ...] | None]] = []

    def base(self, options: Mapping[str, Any], implicit_causal: bool) -> Base:
        """The model's own program, made once a forward for all layers that share its terms."""
        site, (q, k, v) = self.place.site, self.tensors
        scale, cap, bias, sinks = own_terms(site.module, options)
        key = (id(self.call), id(self.mask), scale, cap, id(bias), id(sinks), implicit_causal)
        found = self.frame.cache.get(key)
        if found is None:
            found = self.frame.cache[key] = base_program(
                site, self.mask, q, k, v, options,
                implicit_causal=implicit_causal,
                q_start=self.call.q_offset,
                queries=self.frame.decoder_queries,
            )  # fmt: skip
        return found

    def edit(self, program: Program, index: int) -> Program:
        """What the methods make of the program; ``program`` itself where none acts.

        ``index`` counts the sessions on this call from the outermost, 0. What an inner one adds is
        renamed, so that both may speak of regions and measures of the same name.
        """
        views = self.session.views(self.frame, self.place.site, self.call)
        edited = before = program.evolve(regions=views)
        for method in self.methods:
            edited = self._apply(method, edited, views)
        if edited is before:
            return program
        tag = f"#{index}" if index else ""
        used = dict(program.regions)
        gains = []
        for gain in edited.gains:
            if not _among(gain, program.gains):
                used[gain.region + tag] = views[gain.region]
                gain = replace(gain, region=gain.region + tag) if tag else gain
            gains.append(gain)
        reads = []
        for position, (asked, _, heads) in enumerate(self.reads):
            held = asked
            if asked.region is not None:
                used[asked.region + tag] = views[asked.region]
            if tag:
                region = None if asked.region is None else asked.region + tag
                held = replace(asked, name=asked.key + tag, region=region)
            self.reads[position] = (asked, held, heads)
            reads.append(held)
        return edited.evolve(regions=used, gains=tuple(gains), reads=(*program.reads, *reads))

    def _apply(self, method: Any, program: Program, views: Views) -> Program:
        """One method; as it was where the method's region does not fit this site."""
        session, place = self.session, self.place
        edited = method.rewrite(program, place.site, self.call)
        if edited is program:
            return program
        if not isinstance(edited, Program):
            raise FoveateError(
                f"{method!r}.rewrite returned a {type(edited).__name__}; it must return a Program "
                "(program.evolve(…), program.with_gain(…))."
            )
        for gain in edited.gains:
            if not _among(gain, program.gains) and not session.fits(
                method, gain.region, views, place
            ):
                return program
        new = [one for one in edited.reads if not _among(one, program.reads)]
        fit = [o for o in new if o.region is None or session.fits(method, o.region, views, place)]
        if new and not fit and edited.gains is program.gains:
            return program
        heads = method.scope.heads_at(place.site, self.call.shapes.Hq)
        self.reads += [(one, one, heads) for one in fit]
        if len(fit) < len(new):
            edited = edited.evolve(reads=(*program.reads, *fit))
        return edited

    def run(self, base: Base, program: Program) -> Output:
        """Run the final program; layers with the same one share its plan."""
        if self.frame.attentions:
            raise FoveateError(
                "output_attentions=True was asked for while methods are attached; edited "
                "attention is "
                "never a matrix, so there is none to return. Ask for what you need of it: "
                "fv.Measure(fv.rows(…), fv.top(k), fv.block_map(n))."
            )
        key = ("plan", id(base), *_signature(program))
        found = self.frame.cache.get(key)
        if found is None:  # the program is held with its plan: the signature speaks of its tensors
            found = self.frame.cache[key] = (plan(program, base.shapes), program)
        return found[0].run(*self.tensors)

    def collect(self, output: Output, program: Program) -> None:
        """Record what was read."""
        self.place.edited += 1
        self.frame.edited += 1
        if not self.reads or not self.frame.recording:
            return
        site, call = self.place.site, self.call
        if self.hits:
            raise FoveateError(
                f"{site.name} attends several times in one forward (shared layers, or keys in "
                f"pieces), "
                "so a measure of it has no single value: leave it out with layers= or stack=."
            )
        for asked, held, heads in self.reads:
            for key, name in zip(asked.keys, held.keys, strict=True):
                value = output.measures[name]
                if heads is not None:
                    value = _only(value, heads)
                self.session.run.results.record(
                    site.stack, site.layer, call.phase, call.step, key, value,
                    q_start=call.q_offset, kv_start=call.kv_offset, queries=program.queries,
                )  # fmt: skip


def _among(one: object, others: Sequence[object]) -> bool:
    return any(one is other for other in others)


def _only(value: Tensor, heads: tuple[int, ...]) -> Tensor:
    """What was measured of these heads; the others are holes."""
    kept = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
    kept[list(heads)] = True
    hole = float("nan") if value.is_floating_point() else -1
    return torch.where(kept.view(1, -1, *[1] * (value.dim() - 2)), value, hole)


def _signature(program: Program) -> tuple[Any, ...]:
    """Equal for programs that compute the same on one base; tensors are told apart by identity."""
    return (
        tuple((name, id(mask)) for name, mask in program.regions.items()),
        tuple((g.region, g.value if isinstance(g.value, float | int) else id(g.value)) for g in
        program.gains), program.reads, program.causal, program.scale, program.q_offset,
        program.softcap, id(program.pattern), id(program.key_bias), id(program.bias),
        id(program.sinks), id(program.head_scale), id(program.queries), tuple((id(phi), id(psi)) for
        phi, psi in program.score_terms),
    )  # fmt: skip
