"""What a user is handed: a run, its forwards, its coverage; what a method is told of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..adapters.sites import Site
from ..engine.measures import Read
from ..engine.planner import plan
from ..engine.program import Program
from ..engine.shapes import Shapes
from ..errors import FoveateError
from ..results import Results
from .denoising import Moment

__all__ = ["Call", "Coverage", "Covered", "Forward", "Place", "Run"]


@dataclass(frozen=True, eq=False)
class Call:
    """What a method is told of one attention call.

    Attributes
    ----------
    phase : {"prefill", "decode"}
        A single query behind everything seen before is decode; a chunk of a prefill is prefill.
    step : int
        0 in prefill; 1, 2, … in decode. In a denoiser, the denoising step, from 0.
    q_offset, kv_offset : int
        Absolute positions of the first query and the first key.
    shapes : Shapes
        ``B, Hq, Hkv, Sq, Sk, D, Dv, dtype, device``.
    views : mapping of str to Tensor
        The run's regions on the call's keys, bool ``[Sk]`` or ``[B, Sk]``.
    tensors : (q, k, v), optional
        Only for methods with ``looks = True``, in their ``rewrite``.
    own : Program, optional
        What the model itself computes here, before any method; in ``rewrite``. What it hides is
        padding; what a program hides besides, a method has hidden.
    """

    phase: str
    step: int
    q_offset: int
    kv_offset: int
    shapes: Shapes
    views: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    tensors: tuple[Tensor, Tensor, Tensor] | None = field(default=None, repr=False)
    own: Program | None = field(default=None, repr=False)

    @property
    def moment(self) -> Moment | None:
        """Of a denoiser's call: its step, and which rows of the batch are the prompt's."""
        return getattr(self.views, "moment", None)

    def queries(self, region: str) -> Tensor:
        """A region on the call's queries instead of its keys: bool ``[Sq]`` or ``[B, Sq]``.

        For self-attention, whose queries are among the keys, and for the image's queries and the
        text's in a denoiser, whatever the keys are.
        """
        known = getattr(self.views, "queries", lambda region: None)(region)
        if known is not None:
            return known
        start = self.q_offset - self.kv_offset
        return self.views[region][..., start : start + self.shapes.Sq]

    def marked(self, region: str) -> Tensor:
        """The rows in which a region marks any token, seen from this call or not.

        bool ``[1]`` or ``[B]``.
        """
        known = getattr(self.views, "marked", lambda region: None)(region)
        return self.views[region].any(-1).reshape(-1) if known is None else known

    def read(self, program: Program, *reads: Read) -> dict[str, Tensor]:
        """Measure ``program`` on this call, one pass beside it: ``{key: tensor}``.

        For methods that edit by what they see (a column statistic, then an edit). They say so with
        ``looks = True``.
        """
        if self.tensors is None:
            raise FoveateError(
                "call.read(…) needs the call's tensors: give the method the attribute looks = True."
            )
        return plan(program.evolve(reads=reads), self.shapes).measure(*self.tensors)


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


@dataclass(eq=False)
class Place:
    """A site with what is attached there and what became of it."""

    site: Site
    methods: tuple[Any, ...] = ()
    alike: object = None  # places that compare equal are rewritten alike within one forward
    calls: int = 0
    edited: int = 0
    keys: int | None = None  # of its last call
    why: dict[str, None] = field(default_factory=dict)

    def covered(self) -> Covered:
        state = "touched" if self.edited else "passed over" if self.calls else "not reached"
        why = "; ".join(self.why)
        if state == "passed over" and not why:
            why = "in no method's phase or steps" if self.methods else "in no method's scope"
        elif state == "not reached" and not why:
            why = "no forward came here"
        return Covered(self.site.name, self.site.stack, self.site.layer, state, self.calls, why)


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

    def _repr_html_(self) -> str:
        from .show import coverage

        return coverage(self)

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

    # Reports stand above this room: the package's root says who writes them.
    writer: ClassVar[Callable[..., Path] | None] = None

    def __init__(
        self, results: Results, coverage: Coverage, prompt: Any, methods: tuple[Any, ...]
    ) -> None:
        self.results = results
        self.calls: list[Forward] = []
        self.coverage = coverage
        self.prompt = prompt
        self.methods = methods

    def report(self, path: str | Path, **options: Any) -> Path:
        """Write what was measured as one self-contained HTML file; the path is returned.

        ``options`` are those of :func:`foveate.report.write`: a baseline, answers, a title.
        """
        if Run.writer is None:
            raise FoveateError("run.report needs foveate.report: import foveate, not a part of it.")
        return Run.writer(self, path, **options)

    def _repr_html_(self) -> str:
        """What ran, where the methods acted, what was measured."""
        from .show import run

        return run(self)

    def __repr__(self) -> str:
        methods = ", ".join(map(repr, self.methods)) or "passthrough"
        return f"Run({methods}; {len(self.calls)} forwards, {len(self.results)} measures)"
