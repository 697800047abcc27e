"""One attachment at work: listens to the sites' calls and keeps time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Size, Tensor, nn

from ..adapters.calls import where
from ..adapters.diffusers import denoises, takes_image_prompts
from ..adapters.masks import MaskInfo
from ..adapters.sites import Site
from ..engine.shapes import Shapes
from ..errors import FoveateError
from .denoising import Denoising, Moment
from .frame import Frame, Time, apart
from .layout import Layout
from .regions import Regions, Views
from .run import Call, Forward, Place, Run
from .visit import Visit
from .ways import Ways

__all__ = ["Session"]


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
        self._denoising = Denoising(getattr(model, "pipeline", None))
        self._denoisers = {site.stack for site in sites if site.denoiser}
        self._unfinished: dict[Moment, None] = {}  # forwards whose graphs may be recomputed
        self._recomputed = False
        self._kinds = {site.stack: site.kind for site in sites}
        self._depths = {site.stack: site.depth for site in sites}
        self.scopes = methods
        self._ways = Ways([method for method, _ in methods])
        self._scopes = [(method, {site.stack for site in here}) for method, here in methods]
        self._places = {id(place.site.module): place for place in places}
        self._local = threading.local()
        self._steps = dict.fromkeys(self._kinds, 0)
        self._begun: dict[str, int] = {}  # length of a stack's first forward
        self._born: dict[str, int] = {}  # where its prefill ended
        self._ends: dict[str, int] = {}  # where the forward before ended
        self._reached: set[str] = set()
        self._fitted: set[tuple[int, str]] = set()
        self._missed: dict[tuple[int, str], tuple[Any, str]] = {}
        self.seen = 0  # tokens of the decoder so far
        prompt = regions.prompt_length
        self._prompt = 0 if prompt is None else prompt

    def sites(self) -> list[Site]:
        """The attention sites."""
        return [place.site for place in self._places.values()]

    # -- forwards ----------------------------------------------------------------------------------
    def models(self) -> Iterator[nn.Module]:
        """The modules whose forward is a forward: the model and the models inside that attend."""
        names = [place.site.name for place in self._places.values()]
        within = "?"
        for name, module in self._model.named_modules():
            inner = hasattr(module, "main_input_name") and hasattr(module, "config")
            if denoises(module) and not name.startswith(within):
                inner, within = True, f"{name}." if name else ""
            if not name or (inner and any(site.startswith(f"{name}.") for site in names)):
                yield module

    def generates(self, way: str) -> None:
        """See :class:`foveate.adapters.dispatch.Listener`."""
        self._ways.generates(way)

    def opening(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook: the outermost model opens a frame."""
        self._ways.opening()
        frame = getattr(self._local, "frame", None)
        moment = self._moment(module, args, kwargs) if denoises(module) else None
        own = apart() and not (frame is not None and frame.apart)
        if frame is None or frame.owner is module or own:  # an interrupt left its own open
            wants = kwargs.get("output_attentions")
            if wants is None:
                wants = getattr(getattr(module, "config", None), "output_attentions", False)
            past = _past(module, args, kwargs)
            self._local.frame = frame = Frame(
                module,
                recording=not own,
                attentions=bool(wants),
                past=past,
                apart=own,
                outer=frame if own else None,
            )
            self._local.loose = None
        if moment is not None:
            frame.moment, frame.recording = moment, moment.main and not frame.apart

    def _moment(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Moment:
        """The moment of a denoiser's forward; noted where its graph may be recomputed."""
        moment = self._denoising.moment(module, args, kwargs)
        if torch.is_grad_enabled():
            if self._recomputed:  # the forwards before belonged to a backward that ran
                self._unfinished.clear()
                self._recomputed = False
            self._unfinished[moment] = None
        return moment

    def _moment_again(self) -> Moment | None:
        """The moment of the forward that a checkpoint recomputes in a backward."""
        self._recomputed = True
        if len(self._unfinished) > 1:
            raise FoveateError(
                "A checkpointed layer is recomputed after several forwards of the denoiser, and "
                "nothing tells of which one it was: call backward() after each forward, run those "
                "without a gradient under torch.no_grad(), or disable gradient checkpointing."
            )
        return next(iter(self._unfinished), None)

    def closing(self, module: nn.Module, args: Any, result: Any) -> None:
        """Forward hook, called after exceptions too: check that the sites were reached."""
        frame = getattr(self._local, "frame", None)
        if frame is None or frame.owner is not module:
            return
        self._local.frame = frame.outer
        if result is not None:  # None: the forward raised
            self._ways.closing()
            self._check_reached(frame, module)
            self._check_fits()
            if not frame.apart:
                self.run.calls.append(self._summary(frame))

    def _summary(self, frame: Frame) -> Forward:
        time = frame.decoder or next(iter(frame.times.values()), Time("prefill", 0, 0, 0, 0))
        return Forward(*time, sites=dict(frame.stacks), edited=frame.edited)

    def _check_reached(self, frame: Frame, module: nn.Module) -> None:
        if not frame.stacks:
            raise FoveateError(
                f"A forward of {type(module).__name__} reached none of the {len(self._places)} "
                "attached attention sites. Its implementation was changed inside the attach block "
                "(set_attn_implementation), or it attends by a way of its own "
                "(reorder_and_upcast_attn of GPT-2, say)."
            )
        if module.training or (frame.moment is not None and frame.moment.partial):
            return  # layers are left out, by chance or on purpose
        for stack, count in frame.stacks.items():
            if count != self._depths[stack]:
                absent = [
                    place.site.name
                    for place in self._places.values()
                    if place.site.stack == stack and id(place) not in frame.hits
                ]
                raise FoveateError(
                    f"A forward of {type(module).__name__} reached {count} of "
                    f"{self._depths[stack]} attention sites of stack {stack!r}; not reached: "
                    f"{', '.join(absent[:4])}. What was measured or edited would be a part of it: "
                    "run the whole stack."
                )

    def _frame(self, place: Place | None = None, queries: Size | None = None) -> Frame:
        """The forward in progress; of a call: its place and its queries' shape."""
        frame = getattr(self._local, "frame", None)
        if frame is not None:
            return frame
        if torch._C._current_graph_task_id() != -1:  # recomputed in a backward: recorded already
            frame = Frame(None, recording=False)
            if self._denoisers:
                frame.moment = self._moment_again()
            return frame
        # modules called by themselves, not through the model: a forward until one comes again
        if place is None or queries is None:
            return Frame(None)
        frame = getattr(self._local, "loose", None)
        time = None if frame is None else frame.times.get(place.site.stack)
        other = time is not None and (time.batch, time.length) != (queries[0], queries[2])
        if frame is None or id(place) in frame.hits or other:
            self._local.loose = frame = Frame(None)
        return frame

    # -- fits --------------------------------------------------------------------------------------
    def _check_fits(self) -> None:
        """Raise for a region that has met every stack of its method's scope and fitted none."""
        for (index, name), (method, why) in self._missed.items():
            if (index, name) not in self._fitted and self._scopes[index][1] <= self._reached:
                fits = [s for s in self._kinds if self._might_fit_stack(name, s)]
                elsewhere = [s for s in fits if s not in self._scopes[index][1]]
                hint = f" Give stack={elsewhere[0]!r}." if elsewhere else ""
                raise FoveateError(f"{method!r} acts nowhere: {why}.{hint}")

    def _might_fit_stack(self, name: str, stack: str) -> bool:
        if stack not in self._denoisers:
            return self._might_fit(name, self._kinds[stack])
        mask = self.regions.masks.get(name)
        return mask is not None and self._begun.get(stack) == mask.shape[-1]

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
                        f"and the model saw {self.seen} tokens. Give the model the prompt's own "
                        "inputs: model.generate(**prompt.inputs)."
                    )

    # -- calls -------------------------------------------------------------------------------------
    def visit(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, scores: bool = False
    ) -> Visit | None:
        """See :class:`foveate.adapters.dispatch.Listener`."""
        place = self._places[id(module)]
        frame = self._frame(place, q.shape)
        site = place.site
        hits = frame.hits.get(id(place), 0)
        if site.denoiser and self._on_pictures(frame.moment, site, k, hits):
            return None
        self._count(frame, place)
        if place.methods and site.kind == "encoder" and site.reach != "interface":
            self._refuse_growing(place, q, k)
        if site.denoiser and not place.methods:  # no position to keep either
            if site.stack not in frame.times:
                self._at_once(frame, site, q, k, 0)
            return None
        # scores are a matrix, and no other layer's: nothing made of them is kept for the forward
        cache: dict[Any, Any] = {} if scores else frame.cache
        key = (site.stack, id(mask), q.shape, k.shape, v.shape, q.dtype, q.device)
        known = cache.get(key)
        if known is None:
            known = cache[key] = (self._call(frame, site, q, k, v, mask), mask)
        call = known[0]
        for method in place.methods:
            if method.scope.now(call.phase, call.step):
                return Visit(self, frame, place, call, (q, k, v), mask, hits, cache)
        return None

    def _refuse_growing(self, place: Place, q: Tensor, k: Tensor) -> None:
        """Refuse a cache that grows where an encoder was made out: its phases would be wrong."""
        before, keys = place.keys, k.shape[2]
        place.keys = keys
        if before is not None and keys == before + q.shape[2]:
            raise FoveateError(
                f"{place.site.name} was taken for an encoder's attention, but its keys grow from "
                f"{before} to {keys} as a decoder's cache does. Say so before attaching: "
                f"model.get_submodule({place.site.name!r}).is_causal = True, on each such module."
            )

    def idle(self, module: nn.Module) -> bool:
        """See :class:`foveate.adapters.dispatch.Listener`: not where methods are, or first.

        A denoiser has no positions to keep, and its layers are called many times.
        """
        place = self._places[id(module)]
        if place.methods or not place.site.denoiser:
            return False
        frame = self._frame()
        if place.site.stack not in frame.times:
            return False
        self._count(frame, place)
        return True

    def _count(self, frame: Frame, place: Place) -> int:
        """Note a call of a site; how many there were in this forward before."""
        place.calls += 1
        hits = frame.hits.get(id(place), 0)
        frame.hits[id(place)] = hits + 1
        if not hits:
            stack = place.site.stack
            frame.stacks[stack] = frame.stacks.get(stack, 0) + 1
        return hits

    def passed(self, module: nn.Module) -> None:
        """See :class:`foveate.adapters.dispatch.Listener`."""
        place = self._places[id(module)]
        why = (
            "foveate sees calls of softmax and of scaled_dot_product_attention, and this module "
            "made none with an axis of keys (a linear attention, channels over channels, exp and "
            "sum written out, a kernel of its own): no softmax over keys"
        )
        if place.methods:
            raise FoveateError(
                f"{place.site.name} ({type(module).__name__}) has no attention to edit or measure: "
                f"{why}. Leave it out with layers= or stack=."
            )
        place.why[why] = None
        self._count(self._frame(), place)

    def _on_pictures(self, moment: Moment | None, site: Site, k: Tensor, hits: int) -> bool:
        """Whether a call is on the tokens of an image prompt, beside the one on the text's."""
        if not k.shape[2]:  # a text of no tokens beside the image prompt
            return True
        if hits and takes_image_prompts(site.module):
            return True
        pictures = None if moment is None or moment.pictures == moment.text else moment.pictures
        return pictures is not None and site.kind == "cross" and k.shape[2] == pictures

    def _call(self, frame: Frame, site: Site, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Call:
        """Where and when this is; the first call of a stack in a forward sets the stack's time."""
        q_start, kv_start = where(site, mask, q, k)
        queries = q.shape[2]
        astray = _astray(frame, site, mask, q_start)
        if astray and frame.past is not None:
            q_start = frame.past
        time = frame.times.get(site.stack)
        if _unheard(frame, site, mask):
            keys = frame.keys.setdefault(site.stack, k.shape[2])
            astray = astray or keys != k.shape[2]  # not the tokens of the layers before
            if time is None and queries == 1 and 0 < q_start < self._ends.get(site.stack, 0):
                frame.lost[site.stack] = self._ends[site.stack]
        if time is None:
            self._reached.add(site.stack)
            if frame.recording and q_start == 0 and site.kind != "cross":
                self._ways.begins()
            if site.kind == "decoder":
                decode = queries == 1 and q_start > 0 and q_start >= self._prompt
                step = self._steps[site.stack] + 1 if decode else 0
                phase = "decode" if decode else "prefill"
                time = Time(phase, step, q_start, queries, q.shape[0])
                if frame.decoder is None:
                    frame.decoder, frame.decoder_mask = time, mask
                if frame.recording:
                    self._ends[site.stack] = q_start + queries
                    self._steps[site.stack] = step
                    self.seen = max(self.seen, q_start + queries)
                    if decode:  # behind a prefill that ran before: what is there was not generated
                        self._born.setdefault(site.stack, q_start)
                    else:
                        self._born[site.stack] = q_start + queries
                        if q_start == 0:
                            self._begun[site.stack] = queries
            elif site.kind == "cross" and frame.decoder is not None:
                time = frame.decoder
            else:
                time = self._at_once(frame, site, q, k, q_start)
            frame.times[site.stack] = time
        if site.kind == "cross":
            q_start = time.start
        shapes = Shapes.of(q, k, v)
        views = self._views(frame, site, shapes, kv_start, astray)
        return Call(time.phase, time.step, q_start, kv_start, shapes, views)

    def _at_once(self, frame: Frame, site: Site, q: Tensor, k: Tensor, q_start: int) -> Time:
        """The time of a stack that is no decoder: prefill, in a denoising step if any."""
        step = 0 if frame.moment is None else frame.moment.step
        time = frame.times[site.stack] = Time("prefill", step, q_start, q.shape[2], q.shape[0])
        self._reached.add(site.stack)
        self._begun.setdefault(site.stack, k.shape[2])
        return time

    def _views(
        self, frame: Frame, site: Site, shapes: Shapes, kv_start: int, astray: bool
    ) -> Views:
        """The regions on the keys of a call."""
        key = (self, site.stack, shapes.B, shapes.Sq, shapes.Sk, kv_start, shapes.device, astray)
        views = frame.cache.get(key)
        if views is None:
            born = self._prompt or self._born.get(site.stack, 0)
            shape = (shapes.B, shapes.Sk, kv_start)
            begun = self._begun.get(site.stack)
            layout = Layout.of(site, shapes, frame.moment or Moment()) if site.denoiser else None
            views = Views(self.regions, site, shape, born, begun, shapes.device, layout)
            if astray:
                why = f"the keys of {site.name} are not the tokens alone, in their places"
                views.misfits = dict.fromkeys(self.regions.names, why)
            views.lost = frame.lost.get(site.stack)
            frame.cache[key] = views
        return views

    def misfit(self, method: Any, name: str, views: Views) -> str | None:
        """Why a region does not fit here, or None; noted either way."""
        if views.lost is not None:
            raise FoveateError(
                f"{method!r} speaks of region {name!r}, and the model went back: it had come to "
                f"position {views.lost}, and its keys now end before. A cache that rolls, or was "
                "cut, does not say which tokens its keys are: let the cache grow, or give each "
                "sequence an attach block of its own."
            )
        index = next(i for i, (m, _) in enumerate(self._scopes) if m is method)
        why = views.misfits.get(name)
        if why is None:
            self.regions.known(name, repr(method))
            self._fitted.add((index, name))
        else:
            self._missed.setdefault((index, name), (method, why))
        return why


@cache
def _takes_past(cls: type) -> bool:
    return "past_key_values" in signature(cls.forward).parameters  # type: ignore[attr-defined]


def _past(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> int | None:
    """How many tokens a forward's cache holds before it; None where nobody says."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        cls: type = type(module)
        return 0 if len(args) <= 1 and _takes_past(cls) else None
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError):  # another's cache; one of linear layers alone
        return None


def _unheard(frame: Frame, site: Site, mask: Any) -> bool:
    """Whether nobody but a decoder's keys themselves says where they are."""
    told = isinstance(mask, MaskInfo) or frame.past is not None or site.reach == "interface"
    return site.kind == "decoder" and not told


def _astray(frame: Frame, site: Site, mask: Any, q_start: int) -> bool:
    """Whether a decoder's keys are not its tokens: entries that a model compresses and appends, an
    encoder's keys behind its own, a window of which nothing says where it begins.

    Then the prepared mask ends elsewhere than the tokens do.
    """
    prepared = isinstance(mask, Tensor) and not isinstance(mask, MaskInfo)
    return prepared and site.kind == "decoder" and frame.past not in (None, q_start)
