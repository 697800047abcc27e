"""Attach methods to a live model; detach them on exit, whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from os import PathLike
from types import TracebackType
from typing import Any, ClassVar

from torch import nn

from ..adapters.connect import connect
from ..adapters.diffusers import opened
from ..adapters.dispatch import untraced, unwind
from ..adapters.sites import Site, sites, unreachable
from ..errors import FoveateError
from ..patterns import Pattern
from ..results import Results
from .regions import Regions
from .run import Coverage, Place, Run
from .session import Session

__all__ = ["Attachment", "attach"]


def attach(
    model: nn.Module, *methods: Any, prompt: Any = None, regions: Mapping[str, Any] | None = None
) -> Attachment:
    """Route a model's attention through foveate inside a ``with`` block.

    Everything is checked here, before the model is touched. On exit, whatever happened, the model
    and its configs are as they were. Attachments nest: the inner one's methods act after the outer
    one's, in the same pass.

    Parameters
    ----------
    model : torch.nn.Module or diffusers pipeline
        A model of transformers or diffusers, or any module that attends or holds one that does. Of
        a pipeline, its denoisers and text encoders.
    *methods
        Objects with a ``scope`` and ``rewrite(program, site, call) -> Program``: ``fv.Emphasize``,
        ``fv.Measure``, your own (see :mod:`foveate.methods`); patterns, such as
        ``fv.SlidingWindow``; and an ``fv.Policy``, which stands for its methods (as whatever has
        ``stands_for(model, prompt, regions)`` does). None is passthrough: the model's own
        attention, call by call.
    prompt : Prompt, optional
        Its regions are known to the methods. In an encoder–decoder text model they mark tokens of
        the encoder, for ``stack="encoder"`` and ``stack="cross"``.
    regions : mapping of str to Tensor, optional
        Further regions: bool ``[S]`` or ``[B, S]`` in absolute token positions. They apply to sites
        whose keys they fit; the others are passed over and listed in ``run.coverage``.

    Returns
    -------
    Attachment
        A context manager; it gives a :class:`Run` with ``results``, ``calls`` and ``coverage``.

    Raises
    ------
    FoveateError
        A model nothing can be attached to; what is no method; an unknown region, layer, head or
        stack; a region with no token; measures under one key. Inside the block: a region that fits
        no site, a batch the regions' rows do not divide, dropout, ``output_attentions=True``, a
        forward that reaches none of the sites.

    Notes
    -----
    Tokens past the regions' length belong to ``generated`` only. Rows of a region are repeated for
    beams and ``num_return_sequences``. A single query behind everything seen is decode; several are
    prefill. Inside the block a compiled model runs uncompiled. Attaching is per model, not per
    thread: a model used by two threads at once is attached for both. Which ways of running a model
    work and which are refused is in ``docs/day-one.md``.

    Examples
    --------
    >>> with fv.attach(model, fv.Emphasize("evidence", gain=5.0), prompt=prompt) as run:
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=30)
    >>> run.coverage
    """
    return Attachment(model, methods, prompt, regions)


class Attachment:
    """The context manager that :func:`attach` returns; enter it once."""

    # What makes a method of a pattern stands above this room: the package's root says what it is.
    select: ClassVar[Callable[[Pattern], Any] | None] = None

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Any],
        prompt: Any,
        regions: Mapping[str, Any] | None,
    ) -> None:
        model = opened(model)
        if Attachment.select is not None:
            methods = [Attachment.select(m) if isinstance(m, Pattern) else m for m in methods]
        methods = [one for m in methods for one in _meant(m, model, prompt, regions)]
        found = _sites_of(model)
        crossed = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        known = Regions(
            prompt,
            regions,
            encoder_decoder=crossed,
            encoded=crossed and getattr(model, "main_input_name", None) == "input_ids",
            alone=len({site.stack for site in found}) == 1,
            parts=any(site.denoiser for site in found),
        )
        selected = [(method, _selected(method, found, known)) for method in methods]
        places = [_place(site, selected) for site in found]
        _no_key_twice(places)
        depths = {site.stack: site.depth for site in found}
        reads = [read for method in methods for read in getattr(method, "reads", ())]
        self._run = Run(
            Results(depths, reads),
            Coverage(places, list(unreachable(model))),
            prompt,
            tuple(methods),
        )
        self._session = Session(model, found, selected, known, self._run, places)
        self._model: nn.Module | None = model
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Run:

        if self._model is None:
            raise FoveateError("This attachment was used already: call fv.attach(…) again.")
        model, session = self._model, self._session
        self._model = None
        try:
            for module in list(session.models()):
                self._undo.append(lambda module=module: _unhook(module, session))  # type: ignore[misc]
                module.register_forward_pre_hook(_Hook(session, "opening"), with_kwargs=True)
                module.register_forward_hook(_Hook(session, "closing"), always_call=True)
            for method, here in self._session.scopes:
                self._hang(method, here, model, session)
            connect(session, model, session.sites(), self._undo)
            return self._run
        except BaseException:
            unwind(self._undo)
            raise

    def _hang(self, method: Any, here: Sequence[Site], model: nn.Module, session: Session) -> None:
        """Register the hooks a method asks for."""
        for module, kind, function in getattr(method, "hooks", lambda model, sites: ())(
            model, here
        ):
            if kind not in ("pre", "post") or not isinstance(module, nn.Module):
                raise FoveateError(
                    f'{method!r}.hooks gave ({module!r:.40}, {kind!r}, …); (module, "pre" or '
                    '"post", function) was wanted.'
                )
            self._undo.append(lambda module=module: _unhook(module, session))  # type: ignore[misc]
            hook = _MethodHook(session, function)
            if kind == "pre":
                module.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                module.register_forward_hook(hook, with_kwargs=True)
        for owner, name, function in getattr(method, "instead", lambda model: ())(model):
            self._undo.append(_instead(owner, name, function))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unwind(self._undo)
        if kind is None:
            self._session.check_met()

    def __del__(self) -> None:
        # an interrupt before the first line of __exit__, or a generator that held the block dropped
        if getattr(self, "_undo", None):
            unwind(self._undo)


class _Hook:
    """A session's hook; a copy of it, made with a copy of the model, does nothing."""

    def __init__(self, session: Session | None = None, name: str = "") -> None:
        self.session = session
        self.run = untraced(getattr(session, name)) if name else None

    def __call__(self, *args: Any) -> None:
        if self.run is not None:
            self.run(*args)

    def __deepcopy__(self, memo: Any) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


class _MethodHook(_Hook):
    """A method's hook on a module of the model."""

    def __init__(self, session: Session | None = None, function: Any = None) -> None:
        super().__init__(session)
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return None if self.session is None else self.function(*args)


def _instead(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Let ``owner.name(…)`` be ``function(own, …)``; what takes it back."""
    own, held = getattr(owner, name), vars(owner)
    before = {name: held[name]} if name in held else {}

    @wraps(own)  # what asks for its parameters sees its own
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(own, *args, **kwargs)

    def undo() -> None:
        held.pop(name, None)
        held.update(before)

    setattr(owner, name, called)
    return undo


def _unhook(module: nn.Module, session: Session) -> None:
    """Take this session's hooks off a module; twice does no harm."""
    tables = (
        (module._forward_pre_hooks, [module._forward_pre_hooks_with_kwargs]),
        (
            module._forward_hooks,
            [module._forward_hooks_with_kwargs, module._forward_hooks_always_called],
        ),
    )
    for hooks, extras in tables:
        for number in [n for n, hook in hooks.items() if getattr(hook, "session", None) is session]:
            for extra in extras:
                extra.pop(number, None)
            hooks.pop(number, None)


# -- what is checked before anything is touched ----------------------------------------------------
def _meant(method: Any, model: Any, prompt: Any, regions: Any) -> Sequence[Any]:
    """The methods that what was given stands for: those of a policy, else itself."""
    stands = getattr(method, "stands_for", None)
    if isinstance(method, type) or not callable(stands):
        return (method,)
    return stands(model, prompt, regions)


def _sites_of(model: Any) -> list[Site]:
    if not isinstance(model, nn.Module):
        raise FoveateError(
            f"attach takes a model (torch.nn.Module) or a pipeline of diffusers; "
            f"{type(model).__name__} was given: model, tokenizer = fv.load(…)."
        )
    if type(model).__name__ == "OptimizedModule":
        raise FoveateError(
            "attach was given a compiled model; what is compiled cannot be routed: attach to the "
            "model itself, before torch.compile (model._orig_mod)."
        )
    found = sites(model)
    if found:
        return found
    alike = dict.fromkeys(kind for _, kind in unreachable(model))
    seen = (
        f"It has {', '.join(alike)}, which attend"
        if alike
        else "Nothing in it looks like attention"
    )
    how = " by a way of their own" if alike else ""
    raise FoveateError(
        f"{type(model).__name__} has no attention that foveate can reach: a module that dispatches "
        "through transformers' attention interface, calls scaled_dot_product_attention or takes a "
        f"softmax over keys was wanted. {seen}{how}."
    )


def _selected(method: Any, found: Sequence[Site], regions: Regions) -> list[Site]:
    """The sites a method acts on, after every check that can be made before the first forward."""
    name = getattr(method, "__name__", None)
    if isinstance(method, type):
        made = f'fv.{name}.load("…")' if hasattr(method, "load") else f"{name}(…)"
        raise FoveateError(f"attach was given the class {name}; give it an object: {made}.")
    if isinstance(method, str | PathLike):
        kind = "Policy" if str(method).endswith(".toml") else "Tuned"
        raise FoveateError(
            f"attach was given {str(method)!r}, which is no method; the file of a policy is read "
            f"by fv.Policy.load(…), what foveate tune wrote by fv.Tuned.load(…): "
            f'fv.{kind}.load("{method}").'
        )
    if not callable(getattr(method, "rewrite", None)) or not hasattr(method, "scope"):
        raise FoveateError(
            f"attach was given {method!r}, which is no method: a method has a scope and "
            "rewrite(program, site, call), like fv.Emphasize and fv.Measure."
        )
    here = method.scope.select(found, repr(method))
    for site in here:
        getattr(method, "check", lambda site: None)(site)
    for region in getattr(method, "regions", ()):
        regions.known(region, repr(method))
        mask = regions.masks.get(region)
        if mask is not None and not bool(mask.any()) and not getattr(method, "reads", ()):
            raise FoveateError(f"{method!r} would act nowhere: region {region!r} has no token.")
    _on_encoder(method, here, found, regions)
    return here


def _on_encoder(method: Any, here: Sequence[Site], found: Sequence[Site], regions: Regions) -> None:
    """Refuse what asks the decoder's self-attention for tokens of the encoder."""
    names = [name for name in getattr(method, "regions", ()) if name in regions.of_prompt]
    if not regions.encoded or not names or {site.kind for site in here} - {"decoder"}:
        return
    others = [
        stack
        for stack in dict.fromkeys(s.stack for s in found)
        if stack not in {s.stack for s in here}
    ]
    raise FoveateError(
        f"{method!r} acts on decoder self-attention, but the prompt's tokens "
        f"({', '.join(names)}) are the "
        f"encoder's: give it stack={others[-1]!r}"
        + (f" or {others[0]!r}." if len(others) > 1 else ".")
    )


def _place(site: Site, selected: Sequence[tuple[Any, Sequence[Site]]]) -> Place:
    methods = tuple(method for method, here in selected if site in here)
    if all(hasattr(method, "alike") for method in methods):
        alike: object = tuple((id(method), method.alike(site)) for method in methods)
    else:  # a method that does not say may treat every site differently
        alike = site
    return Place(site, methods, alike)


def _no_key_twice(places: Sequence[Place]) -> None:
    for place in places:
        keys: dict[str, Any] = {}
        for method in place.methods:
            for key in (key for read in getattr(method, "reads", ()) for key in read.keys):
                if key in keys:
                    raise FoveateError(
                        f"Two methods measure {key!r} at {place.site.name}: give one of them "
                        "another key with as_=, or another scope."
                    )
                keys[key] = method
