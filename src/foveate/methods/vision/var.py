"""VAR: attention that visual sinks soak up goes to the patches that show something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._implements import implements
from ...adapters.sites import Site
from ...engine.measures import mass
from ...engine.program import Program
from ...errors import FoveateError
from .._method import Method
from .._scope import Middle
from ..residual import block_of, entering

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["VAR", "default_tau", "sink_values"]

NOTHING = 1e-30  # a gain stands for p = 0


@implements("var", basis="paper")
class VAR(Method):
    """Take from visual sinks, in the heads that look at the picture; its other patches get it.

    A token is a *sink* of a layer where its hidden state, as it enters the layer, is large in one
    of the dimensions ``dims``: ``max_d |x_d| / RMS(x) > tau``. A head is *image-centric* for a
    query if the picture gets at least ``summ`` of its mass, and at least ``rho`` of that goes to
    patches that are no sinks. There the weight of every sink, patch or text, is multiplied by ``p``
    and what is taken goes to the patches that are no sinks, in proportion to what they have. Rows
    sum to 1; all other weights stay. Queries before the end of the picture are left alone.

    It needs the row's own masses before it can edit the row (type b): one pass beside the call,
    never the matrix.

    Parameters
    ----------
    dims : sequence of int
        The sink dimensions, a property of the language model: (2533, 1415) of Llama-2-7B, (2100,
        4743) of Llama-2-13B; :func:`foveate.find.find_visual_sinks` finds those of others.
    p : float
        What a sink keeps, 0 to 1; 0.6 in the authors' code. 1 changes nothing.
    rho : float
        0 to 1; in the paper 0.5 against hallucination, 0.8 for general questions, 0.9 for what
        wants close looking.
    summ : float
        0 to 1; 0.2 in the paper.
    tau : float, optional
        Greater than 0; 20 in the paper, whose models have 4,096 and 5,120 dimensions. ``|x_d| /
        RMS(x)`` is at most the root of their number, so the default is ``20 sqrt(dim / 4096)``: a
        tenth of the energy of the token in one dimension.
    image : str
        The region of the pictures' tokens.
    heads : optional
        Only these heads may be image-centric.
    layers : int or sequence of int, optional
        Default: all but the first two and the last, as in the authors' code.
    phase, stack, steps
        As in :class:`~foveate.methods._method.Method`.

    Attributes
    ----------
    sinks : dict of str to Tensor
        The sinks found in the last prompt, by site: bool ``[B, S]``, text tokens included.
    chosen : dict of str to Tensor
        The share of the queries behind the picture, in the last forward, for which each head was
        image-centric, by site: ``[B, Hq]``.

    Raises
    ------
    FoveateError
        For numbers out of range, and dimensions that the model does not have. Attaching it raises
        without a region of that name: ``prompt=`` with a picture, or ``regions={"image": mask}``.

    Notes
    -----
    Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models" (ICLR
    2025), equations 1 to 4, and the authors' code (``DimProspector``, ``HeadFork``,
    ``VARProcessor``), which this follows: sinks are those of the prompt, and generated tokens
    never become sinks; text sinks give too, but only where the layer has a visual one. Its ``p``
    is what is kept, the paper's what is taken. Its ``rho`` bounds the sinks' share from above (0.5
    is the same either way) and it adds 1e-6 a patch to that share's denominator, which is left out
    here. Of several pictures in a prompt, only queries behind the last are edited.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.tasks.shapes import render, scenes
    >>> model, processor = fv.load("shapes-vlm")
    >>> (scene,) = scenes(1, seed=0)
    >>> text = {"type": "text", "text": "describe the picture."}
    >>> asked = [{"type": "image", "image": render(scene)}, text]
    >>> prompt = fv.Prompt(processor, [{"role": "user", "content": asked}])
    >>> dims = fv.find.find_visual_sinks(model, prompt, count=1).dims
    >>> with fv.attach(model, fv.VAR(dims, layers=[1, 2]), prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=20)
    >>> print(processor.decode(ids[0, prompt.length :]))
    """

    looks = True

    def __init__(
        self,
        dims: Sequence[int],
        p: float = 0.6,
        rho: float = 0.5,
        summ: float = 0.2,
        tau: float | None = None,
        image: str = "image",
        heads: Any = None,
        layers: Any = None,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        self.dims = _dimensions(dims)
        self.p, self.rho, self.summ = (
            _share(name, value) for name, value in (("p", p), ("rho", rho), ("summ", summ))
        )
        if tau is not None and not (_number(tau) and 0 < tau < float("inf")):
            raise FoveateError(f"VAR takes a tau greater than 0; {tau!r} was given.")
        self.tau = tau
        if not isinstance(image, str) or not image:
            raise FoveateError(f"image={image!r} was given; the name of a region was wanted.")
        self.image = image
        self.regions = (image,)
        super().__init__(layers=layers, heads=heads, phase=phase, stack=stack, steps=steps)
        self.scope.from_the_prompt("VAR", "finds the sinks in the prompt")
        if layers is None and not isinstance(self.scope.heads, dict):
            self.scope = Middle(**vars(self.scope))
        self.sinks: dict[str, Tensor] = {}
        self.chosen: dict[str, Tensor] = {}
        self._fresh: dict[str, Tensor] = {}

    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        """One on every block, which looks at what enters it."""
        for site in sites:

            def look(module: Any, args: Any, kwargs: Any, name: str = site.name) -> None:
                hidden = entering(args, kwargs)
                tau = default_tau(hidden.shape[-1]) if self.tau is None else self.tau
                self._fresh[name] = sink_values(hidden, self.dims) > tau

            yield block_of(model, site), "pre", look

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Take from the sinks and give to the other patches, where the head is image-centric."""
        sinks = self._sinks(site, call)
        if self.p == 1.0 or sinks is None:
            return program
        if program.operators:
            raise FoveateError(
                f"{self!r} has to know what the regions receive, and {program.operators[-1]!r}, "
                "given before it, never writes that out: attach VAR before it."
            )
        image = call.views[self.image].reshape(-1, call.shapes.Sk)
        sinks = sinks & (sinks & image).any(-1, keepdim=True)  # text alone is no visual sink
        if not bool(sinks.any()):
            return program
        parts = {"sinks": sinks, "visual sinks": sinks & image, "others": image & ~sinks}
        names = {part: f"VAR{id(self):x} {part}" for part in parts}
        for part, mask in parts.items():
            program = program.with_region(names[part], mask)
        with torch.no_grad():
            found = call.read(program, *(mass(name) for name in names.values()))
        taken, visual, others = (found[f"mass:{name}"] for name in names.values())
        all_of_it = visual + others
        centric = (all_of_it >= self.summ) & (others >= self.rho * all_of_it) & (others > 0)
        heads = self.scope.mask_at(site, call.shapes.Hq, call.shapes.device)
        centric = centric & heads[:, None] & (behind := _behind(image, call))
        rows = behind.expand(centric.shape).sum(-1).clamp(min=1)
        self.chosen[site.name] = centric.sum(-1) / rows
        keep = torch.where(centric, max(self.p, NOTHING), 1.0)
        give = torch.where(centric, 1 + (1 - self.p) * taken / others, 1.0)
        return program.with_gain(names["sinks"], keep).with_gain(names["others"], give)

    def _sinks(self, site: Site, call: Call) -> Tensor | None:
        """Where the call's keys are sinks, bool ``[B, Sk]``; None where nothing is known."""
        if call.phase == "prefill" and site.name in self._fresh:
            fresh, known = self._fresh.pop(site.name), self.sinks.get(site.name)
            if call.q_offset and known is not None and known.shape[0] == fresh.shape[0]:
                fresh = torch.cat([known[:, : call.q_offset], fresh], -1)  # a chunk of a prefill
            self.sinks[site.name] = nn.functional.pad(
                fresh, (call.q_offset + call.shapes.Sq - fresh.shape[-1], 0)
            )
        found = self.sinks.get(site.name)
        if found is None:  # attached behind a prefill: nothing is known of the prompt
            return None
        part = found[:, call.kv_offset : call.kv_offset + call.shapes.Sk]
        return nn.functional.pad(part, (0, call.shapes.Sk - part.shape[-1]))  # later: none

    def _given(self) -> list[str]:
        given = [f"dims={self.dims}", f"p={self.p:g}", f"rho={self.rho:g}", f"summ={self.summ:g}"]
        return given if self.tau is None else [*given, f"tau={self.tau:g}"]


def sink_values(hidden: Tensor, dims: Sequence[int]) -> Tensor:
    """``max over dims of |x_d| / RMS(x)`` of hidden states ``[B, S, dim]``: ``[B, S]``, float32.

    Raises
    ------
    FoveateError
        For a dimension that the hidden states do not have.
    """
    if max(dims) >= hidden.shape[-1]:
        raise FoveateError(
            f"dims={tuple(dims)} was given; the hidden states have dimensions 0–"
            f"{hidden.shape[-1] - 1}: find_visual_sinks(model, …).dims are those of this model."
        )
    x = hidden.detach().float()
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return (x[..., list(dims)] * scale).abs().amax(-1)


def default_tau(dim: int) -> float:
    """The paper's 20 at 4,096 dimensions, brought to ``dim``: as large a share of the energy."""
    return 20.0 * (dim / 4096) ** 0.5


def _behind(image: Tensor, call: Call) -> Tensor:
    """The queries behind the last token of the picture, bool ``[B|1, 1, Sq]``."""
    key = torch.arange(image.shape[-1], device=image.device)
    last = torch.where(image, key, -1).amax(-1) + call.kv_offset
    query = torch.arange(call.shapes.Sq, device=image.device) + call.q_offset
    return (query > last[:, None])[:, None]


def _dimensions(dims: Any) -> tuple[int, ...]:
    found = tuple(dims) if isinstance(dims, Sequence) and not isinstance(dims, str) else ()
    good = all(isinstance(d, int) and not isinstance(d, bool) and d >= 0 for d in found)
    if not found or not good:
        raise FoveateError(
            f"VAR takes the sink dimensions of the model, such as (2533, 1415) for Llama-2-7B; "
            f"{dims!r} was given: foveate.find.find_visual_sinks(model, …).dims finds them."
        )
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share(name: str, value: Any) -> float:
    if not _number(value) or not 0 <= value <= 1:
        raise FoveateError(f"VAR takes {name} from 0 to 1; {value!r} was given.")
    return float(value)
