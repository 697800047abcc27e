"""The methods of one attachment on one attention call: the program edited, run and recorded."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.calls import Base, base_program, own_terms
from ..engine.measures import Read
from ..engine.planner import Plan, plan
from ..engine.program import Output, Program
from ..errors import FoveateError
from .frame import Frame
from .regions import Views
from .run import Call, Place
from .ways import refuse_transforms

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Edited", "Visit"]

_WANTS = {"inputs": "queries, keys and values", "emptied": "queries", "outputs": "head outputs"}
_TAG = re.compile(r"#\d+(?=')")  # what tells an inner session's names from an outer one's


@dataclass(eq=False)
class Edited:
    """What the methods made of a program at all places alike in one forward.

    Attributes
    ----------
    program : Program
        The edited program; the given one where no method acts.
    reads : list of (Read, Read, heads)
        As the method asked, as the program holds it, and the heads meant.
    why : dict
        Why a method, or a read of it, was passed over.
    given : Program
        Held, for its identity names this entry.
    """

    program: Program
    reads: list[tuple[Read, Read, tuple[int, ...] | None]]
    why: dict[str, None]
    given: Program


class Visit:
    """One session's part in one attention call."""

    __slots__ = (
        "cache", "call", "changed", "edited", "frame", "hits", "mask", "place", "session", "tensors"
    )  # fmt: skip

    def __init__(
        self, session: Session, frame: Frame, place: Place, call: Call,
        tensors: tuple[Tensor, Tensor, Tensor], mask: Any, hits: int,
        cache: dict[Any, Any],
    ) -> None:  # fmt: skip
        self.session = session
        self.frame = frame
        self.place = place
        self.call = call
        self.tensors = tensors
        self.mask = mask
        self.hits = hits
        self.cache = cache  # of the forward, or of this call alone
        self.edited: Edited | None = None
        self.changed = False  # whether a method changed the tensors themselves

    def base(self, own: str | None, options: Mapping[str, Any], implicit_causal: bool) -> Base:
        """The model's own program, made once a forward for all layers that share its terms."""
        site, (q, k, v) = self.place.site, self.tensors
        terms = scale, cap, bias, sinks = own_terms(site.module, own, options)
        key = (id(self.call), id(self.mask), scale, cap, id(bias), id(sinks), implicit_causal)
        found = self.cache.get(key)
        if found is None:
            found = self.cache[key] = base_program(
                site, self.mask, q, k, v, terms,
                implicit_causal=implicit_causal,
                q_start=self.call.q_offset,
                queries=self.frame.decoder_queries,
            )  # fmt: skip
        return found

    def _methods(self) -> list[Any]:
        """The methods that act now."""
        phase, step = self.call.phase, self.call.step
        return [method for method in self.place.methods if method.scope.now(phase, step)]

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the methods make of the call's tensors; the same objects where none edits them."""
        given = q, k, v
        for method in self._methods():
            edit = getattr(method, "inputs", None)
            if edit is None:
                continue
            found = edit(*given, self.place.site, self.call)
            for old, new in zip(given, found, strict=True):
                _same_kind(method, "inputs", old, new)
            if any(old is not new for old, new in zip(given, found, strict=True)):
                self.changed = True
            given = found
        return given

    def emptied(self, q: Tensor, before: object = None) -> Tensor:
        """The queries, those at 0 whose own scores the methods let count for nothing.

        ``before`` stops at a method: what it looks at knows nothing of those behind it.
        """
        for method in self._methods():
            if method is before:
                break
            rows = getattr(method, "emptied", lambda site, call: None)(self.place.site, self.call)
            q = q if rows is None else q.masked_fill(rows[..., None], 0.0)
        return q

    def outputs(self, out: Tensor) -> Tensor:
        """What the methods make of the head outputs ``[B, Hq, Sq, Dv]``."""
        for method in self._methods():
            edit = getattr(method, "outputs", None)
            if edit is None:
                continue
            found = edit(out, self.place.site, self.call)
            _same_kind(method, "outputs", out, found)
            self.changed |= found is not out
            out = found
        return out

    def only_program(self, who: str) -> None:
        """Raise where a method wants the tensors of a call that has only scores."""
        for method in self._methods():
            for part in _WANTS:
                if hasattr(method, part):
                    raise FoveateError(
                        f"{method!r} works on {_WANTS[part]}, and {self.place.site.name} ({who}) "
                        "writes its attention out: foveate sees its scores there and nothing "
                        "else. Leave it out with layers= or stack=."
                    )

    @property
    def handles_outputs(self) -> bool:
        """Whether a method here looks at the head outputs."""
        return any(hasattr(method, "outputs") for method in self._methods())

    def edit(self, program: Program, index: int, own: Program) -> Program:
        """What the methods make of the program; ``program`` itself where none acts.

        ``index`` counts the sessions on this call from the outermost, 0; ``own`` is the model's.
        """
        looks = any(getattr(method, "looks", False) for method in self.place.methods)
        key = (id(program), index, id(self.call), self.place.alike)
        edited = None if looks else self.cache.get(key)  # what is seen is never the same
        if edited is None:
            edited = self.cache[key] = self._edit(program, index, own)
        if edited.why:
            self.place.why |= edited.why
        self.edited = edited
        return edited.program

    def _edit(self, program: Program, index: int, own: Program) -> Edited:
        """Apply the methods in their order.

        What an inner session adds is renamed, so that both may speak of regions and measures of the
        same name.
        """
        views = self.call.views
        assert isinstance(views, Views)
        edited = Edited(program, [], {}, program)
        result = before = program.evolve(regions=ChainMap(views, program.regions))  # type: ignore[arg-type]
        call = replace(self.call, own=own)
        for method in self._methods():
            result = self._apply(method, result, call, edited)
        if result is before:
            return edited
        for method in self._methods():
            getattr(method, "settled", lambda program, site, call: None)(
                result, self.place.site, call
            )
        tag = f"#{index}"  # always: what an outer session named must not hide what an inner means
        used = dict(program.regions)

        def renamed(region: str) -> str:
            used[region + tag] = result.regions[region]
            return region + tag

        gains, reads = [], []
        for gain in result.gains:
            if not _among(gain, program.gains):
                of = {label: renamed(name) for label, name in gain.of.items()}
                gain = replace(gain, region=renamed(gain.region), of=of)
            gains.append(gain)
        for position, (asked, _, heads) in enumerate(edited.reads):
            region = None if asked.region is None else renamed(asked.region)
            held = replace(asked, name=asked.key + tag, region=region)
            edited.reads[position] = (asked, held, heads)
            reads.append(held)
        edited.program = result.evolve(
            regions=used, gains=tuple(gains), reads=(*program.reads, *reads)
        )
        return edited

    def _apply(self, method: Any, program: Program, call: Call, notes: Edited) -> Program:
        """One method; as it was where the method's region does not fit this site."""
        session, site, views = self.session, self.place.site, call.views
        assert isinstance(views, Views)
        if getattr(method, "looks", False):
            q, k, v = self.tensors
            call = replace(call, tensors=(self.emptied(q, method), k, v))

        def fits(region: str) -> bool:
            why = session.misfit(method, region, views)
            if why is not None:
                notes.why[why] = None
            return why is None

        measures = bool(getattr(method, "reads", ()))  # takes those that fit
        if not measures and not all([fits(name) for name in getattr(method, "regions", ())]):
            return program
        result = method.rewrite(program, site, call)
        if result is program:
            return program
        if not isinstance(result, Program):
            raise FoveateError(
                f"{method!r}.rewrite returned a {type(result).__name__}; it must return a Program "
                "(program.evolve(…), program.with_gain(…))."
            )
        added = {
            name
            for g in result.gains
            if not _among(g, program.gains)
            for name in (g.region, *g.of.values())
        }
        # a region that the method made itself fits; the others are the run's
        asked = [name for name in sorted(added) if name not in result.regions or name in views]
        if not all([fits(name) for name in asked]):
            return program
        new = [one for one in result.reads if not _among(one, program.reads)]
        fit = [one for one in new if one.region is None or fits(one.region)]
        if new and not fit and result.gains is program.gains:
            return program
        heads = method.scope.heads_at(site, self.call.shapes.Hq)
        notes.reads += [(one, one, heads) for one in fit]
        return result if len(fit) == len(new) else result.evolve(reads=(*program.reads, *fit))

    def run(self, base: Base, program: Program, check: Callable[[], None]) -> Output:
        """Run the final program; layers with the same one share its plan.

        ``check`` is called before a plan is made.
        """
        cache = self.cache
        found = cache.get(id(program))
        if found is None:
            key = ("plan", id(base), *_signature(program))
            made, _ = cache.get(key) or (self._plan(base, program, check), program)
            # the program is held with its plan: what names the entries must outlive them
            found = cache[id(program)] = made, program
            cache.setdefault(key, found)
        return found[0].run(*self.tensors)

    def _plan(self, base: Base, program: Program, check: Callable[[], None]) -> Plan:
        if self.frame.attentions:
            raise FoveateError(
                "output_attentions=True was asked for while methods are attached; edited "
                "attention is never a matrix, so there is none to return. Ask for what you "
                "need of it: fv.Measure(fv.rows(…), fv.top(k), fv.block_map(n))."
            )
        refuse_transforms()
        check()
        try:
            return plan(program, base.shapes)
        except FoveateError as error:  # names as the user gave them
            raise FoveateError(_TAG.sub("", str(error))) from error

    def count(self) -> None:
        """Note whether this call was edited or measured."""
        edited = self.edited
        acted = self.changed or (edited is not None and edited.program is not edited.given)
        self.place.edited += acted
        self.frame.edited += acted

    def collect(self, output: Output, program: Program) -> None:
        """Record what was read."""
        edited = self.edited
        assert edited is not None
        self.count()
        if not edited.reads or not self.frame.recording:
            return
        site, call = self.place.site, self.call
        if self.hits:
            raise FoveateError(
                f"{site.name} attends several times in one forward (shared layers, or keys in "
                "pieces), so a measure of it has no single value: leave it out with layers= or "
                "stack=."
            )
        for asked, held, heads in edited.reads:
            for key, name in zip(asked.keys, held.keys, strict=True):
                value = output.measures[name]
                if heads is not None:
                    value = _only(value, heads)
                self.session.run.results.record(
                    site.stack, site.layer, call.phase, call.step, key, value,
                    q_start=call.q_offset, kv_start=call.kv_offset, queries=program.queries,
                )  # fmt: skip


def _same_kind(method: Any, part: str, old: Tensor, new: Any) -> None:
    if new is old:
        return
    if not isinstance(new, Tensor) or (new.shape, new.dtype, new.device) != (
        old.shape, old.dtype, old.device
    ):  # fmt: skip
        what = f"{new.dtype} {list(new.shape)}" if isinstance(new, Tensor) else repr(new)
        raise FoveateError(
            f"{method!r}.{part} returned {what} for {old.dtype} {list(old.shape)}; the shape, "
            "dtype and device must stay."
        )


def _among(one: object, others: Sequence[object]) -> bool:
    return any(one is other for other in others)


def _only(value: Tensor, heads: tuple[int, ...]) -> Tensor:
    """What was measured of these heads; the others are holes."""
    kept = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
    kept[list(heads)] = True
    hole = float("nan") if value.is_floating_point() else -1
    return torch.where(kept.view(1, -1, *[1] * (value.dim() - 2)), value, hole)


def _signature(program: Program) -> tuple[Any, ...]:
    """Equal for programs that compute the same; tensors are told apart by identity."""
    parts: list[Any] = [program.scale, program.causal, program.q_offset, program.softcap]
    parts += [program.reads, tuple((name, id(mask)) for name, mask in program.regions.items())]
    for gain in program.gains:
        value = gain.value
        held = isinstance(value, Tensor) or gain.adaptive
        parts.append((gain.region, id(value) if held else value, tuple(gain.of.items())))
    for pair in program.score_terms:
        parts.append(tuple(map(id, pair)))
    terms = (program.pattern, program.key_bias, program.bias, program.sinks)
    parts += map(id, (*terms, program.head_scale, program.queries, *program.operators))
    return tuple(parts)
