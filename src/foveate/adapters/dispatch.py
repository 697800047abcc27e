"""From one attention call of a live model to whatever is attached there, and back.

How a call is come by differs (see :mod:`.transformers`, :mod:`.modules`); what happens to it does
not: those who listen to the calling module are told, their methods edit the model's own program,
and where nobody edits anything the model's own attention runs, untouched.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..engine.measures import Read
from ..engine.program import Output, Program
from ..errors import FoveateError
from .calls import Base

__all__ = [
    "idle",
    "Listener",
    "Own",
    "Visit",
    "listen",
    "lock",
    "refuse_dropout",
    "route",
    "switch",
    "untraced",
    "unwind",
]

lock = threading.RLock()
_MISSING: Any = object()
_listeners: weakref.WeakKeyDictionary[nn.Module, tuple[Listener, ...]] = weakref.WeakKeyDictionary()
_switched: dict[tuple[int, str], _Switched] = {}


class Visit(Protocol):
    """One attached set of methods looking at one attention call."""

    tensors: tuple[Tensor, Tensor, Tensor]

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the methods make of the call's tensors."""
        ...

    def base(self, own: str | None, options: Mapping[str, Any], implicit_causal: bool) -> Base:
        """The model's own program for this call."""
        ...

    def edit(self, program: Program, index: int, own: Program) -> Program:
        """What the methods make of the program of the ``index`` attachments outside this one.

        ``own`` is the model's.
        """
        ...

    def emptied(self, q: Tensor) -> Tensor:
        """The queries, those at 0 whose own scores the methods let count for nothing."""
        ...

    def run(self, base: Base, program: Program, check: Callable[[], None]) -> Output:
        """Plan (after ``check``) and run the final program."""
        ...

    @property
    def handles_outputs(self) -> bool:
        """Whether a method looks at the head outputs."""
        ...

    def only_program(self, who: str) -> None:
        """Raise where a method wants more of this call than its scores."""
        ...

    def outputs(self, out: Tensor) -> Tensor:
        """What the methods make of the head outputs ``[B, Hq, Sq, Dv]``."""
        ...

    def collect(self, output: Output, program: Program) -> None:
        """Take what was measured."""
        ...

    def count(self) -> None:
        """Note whether the call was edited or measured, where :meth:`collect` is not called."""
        ...


class Listener(Protocol):
    """What is attached to a model."""

    def visit(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, scores: bool
    ) -> Visit | None:
        """Be told of a call; None where no method has anything to do."""
        ...

    def idle(self, module: nn.Module) -> bool:
        """Be told of a call; whether that is all, and :meth:`visit` need not be asked."""
        ...

    def passed(self, module: nn.Module) -> None:
        """Be told that a watched module ran and did nothing that is known as attention."""
        ...

    def generates(self, way: str) -> None:
        """Be told how a model is about to generate (``"assisted"``, ``"guided"``, ``"paged"``);
        raise to refuse.
        """
        ...


@dataclass(frozen=True, eq=False)
class Own:
    """What a module's own attention is, for one call.

    Attributes
    ----------
    run : callable
        ``run(q, k, v)``: what the module's code gets where nobody edits anything.
    heads : callable
        The head outputs ``[B,Hq,Sq,Dv]`` in what ``run`` gave.
    name : str or None
        The implementation, as transformers names it.
    options : mapping
        ``scaling``, ``softcap``, ``position_bias``, ``s_aux``, ``dropout`` of the call.
    causal : bool
        Whether it is causal (upper left) when it is given no mask.
    check : callable
        ``check(base, q, k, v)`` raises where the program would not be what the module computes.
    scores : bool
        Whether the call is a softmax: there are scores (as the mask) and no q, k, v.
    """

    run: Callable[[Tensor, Tensor, Tensor], Any]
    heads: Callable[[Any], Tensor]
    name: str | None
    options: Mapping[str, Any]
    causal: bool
    check: Callable[[Base, Tensor, Tensor, Tensor], None]
    scores: bool = False


def route(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, own: Own
) -> tuple[Tensor | None, Any]:
    """Run one attention call of ``module``.

    Returns
    -------
    out : Tensor or None
        Head outputs ``[B,Hq,Sq,Dv]``, or the probabilities where ``own.scores``; None where nobody
        edited anything or looks at them.
    given : object
        What ``own.run`` gave besides, if it ran.
    """
    visits = [
        visit
        for listener in _listeners.get(module, ())
        if (visit := listener.visit(module, q, k, v, mask, own.scores)) is not None
    ]
    if own.scores:
        for visit in visits:
            visit.only_program(type(module).__name__)
    else:
        for visit in visits:
            q, k, v = visit.inputs(q, k, v)
    if visits:
        for visit in visits:
            visit.tensors = q, k, v
        base = visits[0].base(own.name, own.options, own.causal)
        program = base.program
        for index, visit in enumerate(visits):
            program = visit.edit(program, index, base.program)
        if program is not base.program:
            for visit in visits if not own.scores else ():
                q = visit.emptied(q)
            visits[0].tensors = q, k, v
            refuse_dropout(module, own.options)
            wanted = program.with_reads(_all_rows(q.shape[2])) if own.scores else program
            output = visits[0].run(base, wanted, lambda: own.check(base, q, k, v))
            out = output.measures.pop(_ROWS) if own.scores else output.out
            if own.scores and program.head_scale is not None:
                out = out * program.head_scale.to(out.dtype).expand(out.shape[:-1]).unsqueeze(-1)
            for visit in visits:
                out = out if own.scores else visit.outputs(out)
                visit.collect(output, program)
            return out, None
    given = own.run(q, k, v)
    heads = own.heads(given) if any(visit.handles_outputs for visit in visits) else None
    for visit in visits:
        if heads is not None:
            heads = visit.outputs(heads)
        visit.count()
    return heads, given  # also where they were only looked at: gradients arrive at what was shown


def idle(module: nn.Module) -> bool:
    """Tell who listens of a call; whether nothing will be made of it."""
    listeners = _listeners.get(module, ())
    return len(listeners) == 1 and listeners[0].idle(module)


def passed(module: nn.Module) -> None:
    """Tell those who listen that ``module`` ran and did nothing that is known as attention."""
    for listener in _listeners.get(module, ()):
        listener.passed(module)


_ROWS = "foveate.rows"


def _all_rows(queries: int) -> Read:
    return Read("rows", index=tuple(range(queries)), name=_ROWS)


def refuse_dropout(module: nn.Module, options: Mapping[str, Any]) -> None:
    """Raise where attention weights are dropped: no program holds that."""
    if options.get("dropout"):
        raise FoveateError(
            f"{type(module).__name__} drops attention weights (p={options['dropout']}) and methods "
            "are attached; foveate computes attention without dropout: call model.eval() or set "
            "attention_dropout=0."
        )


def listeners(model: nn.Module) -> list[Listener]:
    """Those who listen to any module of ``model``, each once, the outermost first."""
    found = (listener for module in model.modules() for listener in _listeners.get(module, ()))
    return list({id(listener): listener for listener in found}.values())


# -- listening, and switching attributes -----------------------------------------------------------
def listen(module: nn.Module, listener: Listener, undo: list[Callable[[], None]]) -> None:
    """Tell ``listener`` of the calls of ``module`` until undone.

    Here as in :func:`switch`, a step is preceded by its own undoing on ``undo``, and every undoing
    may run twice or before its step: an interrupt between any two instructions finds on the list
    all that it takes to go back.
    """
    undo.append(partial(_forget, module, listener))
    with lock:
        _listeners[module] = (*_listeners.get(module, ()), listener)


def _forget(module: nn.Module, listener: Listener) -> None:
    with lock:
        rest = tuple(other for other in _listeners.get(module, ()) if other is not listener)
        if rest:
            _listeners[module] = rest
        else:
            _listeners.pop(module, None)


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that compilers leave alone: a compiled model breaks its graph there."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import takes a second
        return function
    return torch.compiler.disable(function)


@dataclass
class _Switched:
    """An attribute that is switched: of what, for whom, and what it was."""

    holder: Any
    name: str
    was: Any
    now: Any
    owners: set[object] = field(default_factory=set)


def switch(
    holder: Any, name: str, value: Any, owner: object, undo: list[Callable[[], None]]
) -> None:
    """Set an attribute in ``vars(holder)`` until the last owner is gone (in a dict, itself)."""
    undo.append(partial(_restore, holder, name, owner))
    with lock:
        entry = _switched.get((id(holder), name))
        if entry is None:
            entry = _Switched(holder, name, _vars(holder).get(name, _MISSING), value)
            _switched[id(holder), name] = entry
        entry.owners.add(owner)
        _vars(holder)[name] = entry.now


def _vars(holder: Any) -> dict[str, Any]:
    return holder if isinstance(holder, dict) else vars(holder)


def _restore(holder: Any, name: str, owner: object) -> None:
    with lock:
        entry = _switched.get((id(holder), name))
        if entry is None:
            return
        entry.owners.discard(owner)
        if entry.owners:
            return
        # what a user chose meanwhile stays
        if _vars(holder).get(name, _MISSING) is entry.now:
            if entry.was is _MISSING:
                del _vars(holder)[name]
            else:
                _vars(holder)[name] = entry.was
        del _switched[id(holder), name]


def unwind(undo: list[Callable[[], None]], again: bool = True) -> None:
    """Run the undoings, last first, all of them, whatever is raised on the way.

    One that was interrupted runs once more; one that fails twice is passed over, and its error
    raised at the end.
    """
    try:
        while undo:
            undo[-1]()
            undo.pop()
            again = True
    finally:
        if undo:
            if not again:
                undo.pop()
            unwind(undo, not again)
