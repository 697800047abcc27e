"""What happens while methods are attached: forwards, phases, edited programs, what is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._regions import Regions, Views
from .adapters.calls import Base, base_program, own_terms, real_queries, where
from .adapters.masks import MaskInfo
from .adapters.sites import Site
from .engine.measures import Read
from .engine.planner import plan
from .engine.program import Output, Program
from .engine.shapes import Shapes
from .errors import FoveateError
from .results import Results

__all__ = ["Call", "Coverage", "Covered", "Forward", "Place", "Run", "Session"]


# -- what the user sees ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Call:
    """What a method is told of one attention call.

    Attributes
    ----------
    phase : {"prefill", "decode"}
        A single query behind everything seen before is decode; a chunk of a prefill is prefill.
    step : int
        0 in prefill; 1, 2, … in decode.
    q_offset, kv_offset : int
        Absolute positions of the first query and the first key.
    shapes : Shapes
        ``B, Hq, Hkv, Sq, Sk, D, Dv, dtype, device``.
    """

    phase: str
    step: int
    q_offset: int
    kv_offset: int
    shapes: Shapes


@dataclass(frozen=True)
class Forward:
    """One forward under attach: an entry of ``run.calls``.

    Attributes
    ----------
    phase, step : str, int
        Of the decoder, or of the only stack.
    start, length : int
        Absolute position of the first query, and how many queries.
    batch : int
    sites : dict of str to int
        Sites reached, by stack.
    edited : int
        Attention calls that ran an edited or measured program.
    """

    phase: str
    step: int
    start: int
    length: int
    batch: int
    sites: dict[str, int]
    edited: int


@dataclass(frozen=True)
class Covered:
    """What became of one site: an entry of ``run.coverage``.

    Attributes
    ----------
    site, stack, layer : str, str, int
        Its address.
    state : {"touched", "passed over", "not reached"}
    calls : int
        How often it was called.
    why : str
        Why it was passed over, if it was.
    """

    site: str
    stack: str
    layer: int
    state: str
    calls: int
    why: str


class Coverage(Sequence[Covered]):
    """The sites of a run, and the modules that look like attention but cannot be reached."""

    def __init__(self, places: Sequence[Place], unreachable: Sequence[tuple[str, str]]) -> None:
        self._places = places
        self.unreachable = list(unreachable)

    @property
    def touched(self) -> list[str]:
        """Addresses of the sites where a method acted."""
        return [one.site for one in self if one.state == "touched"]

    @property
    def passed_over(self) -> dict[str, str]:
        """Addresses of the others, and why."""
        return {one.site: one.why for one in self if one.state != "touched"}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [place.covered() for place in self._places[index]]
        return self._places[index].covered()

    def __repr__(self) -> str:
        lines = []
        for (stack, state, why), count in _counted((c.stack, c.state, c.why) for c in self).items():
            lines.append(f"  {stack}: {count} {state}" + (f" ({why})" if why else ""))
        lines += [f"  {name} ({kind}): out of reach" for name, kind in self.unreachable]
        return "Coverage(\n" + "\n".join(lines) + "\n)"


def _counted(keys: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    counts: dict[tuple[str, str, str], int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return counts


class Run:
    """What a model did under :func:`foveate.attach`.

    Attributes
    ----------
    results : Results
        Measures by key, of the last sequence.
    calls : list of Forward
        Every forward, in order.
    coverage : Coverage
        The sites touched and passed over, and why.
    prompt : Prompt or None
    methods : tuple
        The methods attached.
    """

    def __init__(
        self, results: Results, coverage: Coverage, prompt: Any, methods: tuple[Any, ...]
    ) -> None:
        self.results = results
        self.calls: list[Forward] = []
        self.coverage = coverage
        self.prompt = prompt
        self.methods = methods

    def report(self, path: str | Path) -> Path:
        """Write what was measured as one self-contained HTML file; the path is returned."""
        from .report.html import write

        return write(self, path)

    def __repr__(self) -> str:
        methods = ", ".join(map(repr, self.methods)) or "passthrough"
        return f"Run({methods}; {len(self.calls)} forwards, {len(self.results)} measures)"


# -- the machinery ---------------------------------------------------------------------------------
@dataclass(eq=False)
class Place:
    """A site with what is attached there and what became of it."""

    site: Site
    methods: tuple[Any, ...] = ()
    calls: int = 0
    edited: int = 0
    why: dict[str, None] = field(default_factory=dict)

    def covered(self) -> Covered:
        state = "touched" if self.edited else "passed over" if self.calls else "not reached"
        why = "; ".join(self.why)
        if state == "passed over" and not why:
            why = "in no method's phase or steps" if self.methods else "in no method's scope"
        elif state == "not reached" and not why:
            why = "no forward came here"
        return Covered(self.site.name, self.site.stack, self.site.layer, state, self.calls, why)


@dataclass(eq=False)
class _Frame:
    """One forward in progress, in one thread."""

    owner: nn.Module | None
    recording: bool = True
    attentions: bool = False
    hits: dict[int, int] = field(default_factory=dict)  # id(place) -> calls in this forward
    stacks: dict[str, int] = field(default_factory=dict)  # sites reached
    times: dict[str, tuple[str, int, int, int, int]] = field(default_factory=dict)
    decoder: tuple[str, int, int, int, int] | None = None
    decoder_mask: Any = None
    edited: int = 0
    cache: dict[Any, Any] = field(default_factory=dict)

    def decoder_queries(self) -> Tensor | None:
        """Which of the decoder's queries are real: what cross-attention is not told."""
        return real_queries(self.decoder_mask) if isinstance(self.decoder_mask, MaskInfo) else None


class Session:
    """One attachment: listens to the sites' calls, applies the methods, records what they read."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        methods: Sequence[tuple[Any, Sequence[Site]]],
        regions: Regions,
        run: Run,
        places: Sequence[Place],
    ) -> None:
        self.run = run
        self.regions = regions
        self._model = model
        self._kinds = {site.stack: site.kind for site in sites}
        self._depths = {site.stack: site.depth for site in sites}
        self._scopes = [(method, {site.stack for site in here}) for method, here in methods]
        self._places = {id(place.site.module): place for place in places}
        self._local = threading.local()
        self._steps = dict.fromkeys(self._kinds, 0)
        self._begun: dict[str, int] = {}  # length of a stack's first forward
        self._born: dict[str, int] = {}  # where its prefill ended
        self._reached: set[str] = set()
        self._fitted: set[tuple[int, str]] = set()
        self._missed: dict[tuple[int, str], tuple[Any, str]] = {}
        self.seen = 0  # tokens of the decoder so far
        prompt = regions.prompt_length
        self._prompt = 0 if prompt is None else prompt

    def modules(self) -> list[nn.Module]:
        """The attention modules."""
        return [place.site.module for place in self._places.values()]

    # -- forwards ----------------------------------------------------------------------------------
    def models(self) -> Iterator[nn.Module]:
        """The modules whose forward is a forward: the model and the models inside that attend."""
        names = [place.site.name for place in self._places.values()]
        for name, module in self._model.named_modules():
            inner = hasattr(module, "main_input_name") and hasattr(module, "config")
            if not name or (inner and any(site.startswith(f"{name}.") for site in names)):
                yield module

    def opening(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook: the outermost model opens a frame."""
        frame = getattr(self._local, "frame", None)
        if frame is None or frame.owner is module:  # its own again: an interrupt left it open
            wants = kwargs.get("output_attentions")
            if wants is None:
                wants = getattr(getattr(module, "config", None), "output_attentions", False)
            self._local.frame = _Frame(module, attentions=bool(wants))

    def closing(self, module: nn.Module, args: Any, result: Any) -> None:
        """Forward hook, called after exceptions too: check that the sites were reached."""
        frame = getattr(self._local, "frame", None)
        if frame is None or frame.owner is not module:
            return
        self._local.frame = None
        if result is not None:  # None: the forward raised
            self._check_reached(frame, module)
            self._check_fits()
            self.run.calls.append(self._summary(frame))

    def _summary(self, frame: _Frame) -> Forward:
        time = frame.decoder or next(iter(frame.times.values()))
        phase, step, start, length, batch = time
        return Forward(phase, step, start, length, batch, dict(frame.stacks), frame.edited)

    def _check_reached(self, frame: _Frame, module: nn.Module) -> None:
        if not frame.stacks:
            raise FoveateError(
                f"A forward of {type(module).__name__} reached none of the {len(self._places)} "
                f"attached "
                "attention sites. Its implementation was changed inside the attach block "
                "(set_attn_implementation), or it attends by a way of its own "
                "(reorder_and_upcast_attn "
                "of GPT-2, say)."
            )
        if self._model.training:  # layer drop leaves layers out
            return
        for stack, count in frame.stacks.items():
            if count != self._depths[stack]:
                absent = [
                    place.site.name
                    for place in self._places.values()
                    if place.site.stack == stack and id(place) not in frame.hits
                ]
                raise FoveateError(
                    f"A forward of {type(module).__name__} reached {count} of "
                    f"{self._depths[stack]} "
                    f"attention sites of stack {stack!r}; not reached: {', '.join(absent[:4])}. "
                    f"What "
                    "was measured or edited would be a part of it: run the whole stack."
                )

    def _frame(self) -> _Frame:
        frame = getattr(self._local, "frame", None)
        if frame is None:
            # a module called by itself, or a checkpoint recomputed in a backward (recorded already)
            frame = _Frame(None, recording=torch._C._current_graph_task_id() == -1)
        return frame

    # -- fits --------------------------------------------------------------------------------------
    def _check_fits(self) -> None:
        """Raise for a region that has met every stack of its method's scope and fitted none."""
        for (index, name), (method, why) in self._missed.items():
            if (index, name) not in self._fitted and self._scopes[index][1] <= self._reached:
                fits = [s for s, kind in self._kinds.items() if self._might_fit(name, kind)]
                elsewhere = [s for s in fits if s not in self._scopes[index][1]]
                hint = f" Give stack={elsewhere[0]!r}." if elsewhere else ""
                raise FoveateError(f"{method!r} acts nowhere: {why}.{hint}")

    def _might_fit(self, name: str, kind: str) -> bool:
        begun = next((n for s, n in self._begun.items() if self._kinds[s] == kind), None)
        if begun is None or kind == "cross":
            return kind == "cross" and any(
                self._might_fit(name, k) for k in set(self._kinds.values()) - {"cross", "decoder"}
            )
        return self.regions.misfit(name, kind, begun, begun) is None

    def check_met(self) -> None:
        """At the end: raise for a region no key of which was ever seen."""
        self._check_fits()
        if not self.run.calls:
            return
        for method, stacks in self._scopes:
            if not any(self._kinds[stack] == "decoder" for stack in stacks):
                continue
            for name in getattr(method, "regions", ()):
                mask = self.regions.masks.get(name)
                if mask is None or self.regions.encoder_decoder or not bool(mask.any()):
                    continue
                first = int(mask.reshape(-1, mask.shape[-1]).any(0).nonzero()[0])
                if first >= self.seen:
                    raise FoveateError(
                        f"{method!r} acted nowhere: region {name!r} begins at position {first}, "
                        f"and the "
                        f"model saw {self.seen} tokens. Give the model the prompt's own inputs: "
                        "model.generate(**prompt.inputs)."
                    )

    # -- calls -------------------------------------------------------------------------------------
    def visit(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Visit | None:
        """See :class:`foveate.adapters.transformers.Listener`."""
        place = self._places[id(module)]
        frame = self._frame()
        site = place.site
        place.calls += 1
        hits = frame.hits.get(id(place), 0)
        frame.hits[id(place)] = hits + 1
        if not hits:
            frame.stacks[site.stack] = frame.stacks.get(site.stack, 0) + 1
        key = (site.stack, id(mask), q.shape, k.shape, v.shape, q.dtype, q.device)
        known = frame.cache.get(key)
        if known is None:
            known = frame.cache[key] = (self._call(frame, site, q, k, v, mask), mask)
        call = known[0]
        active = tuple(m for m in place.methods if m.scope.now(call.phase, call.step))
        if not active:
            return None
        return Visit(self, frame, place, call, active, (q, k, v), mask, hits)

    def _call(self, frame: _Frame, site: Site, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Call:
        """Where and when this is; the first call of a stack in a forward sets the stack's time."""
        q_start, kv_start = where(site, mask, q, k)
        queries = q.shape[2]
        time = frame.times.get(site.stack)
        if time is None:
            self._reached.add(site.stack)
            if site.kind == "decoder":
                decode = queries == 1 and q_start > 0 and q_start >= self._prompt
                step = self._steps[site.stack] + 1 if decode else 0
                time = ("decode" if decode else "prefill", step, q_start, queries, q.shape[0])
                if frame.decoder is None:
                    frame.decoder, frame.decoder_mask = time, mask
                if frame.recording:
                    self._steps[site.stack] = step
                    self.seen = max(self.seen, q_start + queries)
                    if not decode:
                        self._born[site.stack] = q_start + queries
                        if q_start == 0:
                            self._begun[site.stack] = queries
            elif site.kind == "cross" and frame.decoder is not None:
                time = frame.decoder
            else:
                time = ("prefill", 0, q_start, queries, q.shape[0])
                self._begun.setdefault(site.stack, k.shape[2])
            frame.times[site.stack] = time
        phase, step, start, _, _ = time
        if site.kind == "cross":
            q_start = start
        return Call(phase, step, q_start, kv_start, Shapes.of(q, k, v))

    def views(self, frame: _Frame, site: Site, call: Call) -> Views:
        """The regions on the keys of a call."""
        shapes = call.shapes
        key = (self, site.stack, shapes.B, shapes.Sk, call.kv_offset, shapes.device)
        views = frame.cache.get(key)
        if views is None:
            born = self._prompt or self._born.get(site.stack, 0)
            shape = (shapes.B, shapes.Sk, call.kv_offset)
            begun = self._begun.get(site.stack)
            views = Views(self.regions, site, shape, born, begun, shapes.device)
            frame.cache[key] = views
        return views

    def fits(self, method: Any, name: str, views: Views, place: Place) -> bool:
        """Whether a region fits here, noted either way."""
        index = next(i for i, (m, _) in enumerate(self._scopes) if m is method)
        why = views.misfits.get(name)
        if why is None:
            self.regions.known(name, repr(method))
            self._fitted.add((index, name))
            return True
        self._missed.setdefault((index, name), (method, why))
        place.why[why] = None
        return False


class Visit:
    """One session's part in one attention call."""

    __slots__ = ("call", "frame", "hits", "mask", "methods", "place", "reads", "session", "tensors")

    def __init__(
        self, session: Session, frame: _Frame, place: Place, call: Call, methods: tuple[Any, ...],
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
