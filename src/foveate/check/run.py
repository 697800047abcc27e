"""Run the tests on a model and put together what they found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ..adapters.sites import unreachable
from ..errors import FoveateError
from . import exact, gains, sequences
from .inputs import example_inputs
from .report import FAILED, NOT_APPLICABLE, PASSED, REFUSED, Outcome, Report, Stack
from .subject import Failed, NotApplicable, Subject

__all__ = ["check"]


def check(
    model: nn.Module, inputs: Mapping[str, Any] | None = None, *, policy: Any = None
) -> Report:
    """Check on a model whether foveate tells the truth about it, as far as its outputs show.

    Parameters
    ----------
    model : torch.nn.Module
        Any model; it is left bitwise as it was.
    inputs : mapping of str to Tensor, optional
        Arguments of its forward, a batch of at least one. Default: random ones of the shapes that
        its signature and configuration ask for.
    policy : Policy, optional
        It is attached too, on regions made up: does the model run under it, and is it left as it
        was?

    Returns
    -------
    Report
        ``ok``, ``stacks``, ``outcomes``; a table as text, HTML and JSON.

    Raises
    ------
    FoveateError
        For what is no model, and when no inputs could be made up. What is wrong with the model
        itself is in the report.

    Notes
    -----
    ``passthrough`` and ``restore`` compare bit for bit. The others allow 1e-5 of the largest value
    in float32 (1e-9 in float64, 2e-2 in half precision), or ten times what a change of every head's
    output in its last place does to this model, if that is more. A test that says nothing about a
    model (no cache, no padding) is *not applicable*, and says why. A model that answers differently
    when asked twice shows nothing, and is not ok. torch's fused encoder layers are switched off
    while it runs: an attachment leaves them aside.

    Examples
    --------
    >>> report = fv.check(model)
    >>> report.ok, report.failures
    """
    if not isinstance(model, nn.Module):
        raise FoveateError(
            f"check takes a model (torch.nn.Module); {type(model).__name__} was given: "
            "model, tokenizer = fv.load(…); fv.check(model)."
        )
    if inputs is not None and not isinstance(inputs, Mapping):
        raise FoveateError(
            f"inputs= takes the arguments of the model's forward by name, a dict; "
            f"{type(inputs).__name__} was given."
        )
    training = [module for module in model.modules() if module.training]
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    try:
        # torch's fused encoder layers, in which no attention is called, are left aside throughout
        torch.backends.mha.set_fastpath_enabled(False)
        return _checked(model, inputs, policy)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module in training:
            module.training = True


def _checked(model: nn.Module, inputs: Mapping[str, Any] | None, policy: Any) -> Report:
    name = type(model).__name__
    unreached = tuple(unreachable(model))
    subject = Subject(model, example_inputs(model) if inputs is None else inputs)
    if not subject.sites:
        if not unreached:
            return Report(name, (), (), (), "Nothing in it attends.")
        said = _outcome("passthrough", None, partial(exact.passthrough, subject))
        return Report(name, (), unreached, (said,))  # attach says in its own words why not
    outcomes = [
        _outcome("passthrough", None, partial(exact.passthrough, subject)),
        _outcome("restore", None, partial(exact.restore, subject)),
    ]
    if policy is not None:
        outcomes.append(_outcome("policy", None, partial(exact.policy, subject, policy)))
    outcomes += [
        _outcome(test, stack, partial(function, subject, stack))
        for stack in subject.stacks
        for test, function in gains.TESTS.items()
    ]
    outcomes += [
        _outcome(test, None, partial(function, subject))
        for test, function in sequences.TESTS.items()
    ]
    return Report(name, _stacks(subject), unreached, tuple(outcomes))


def _outcome(test: str, stack: str | None, run: Callable[[], float | None]) -> Outcome:
    try:
        return Outcome(test, stack, PASSED, error=run())
    except NotApplicable as error:
        return Outcome(test, stack, NOT_APPLICABLE, str(error))
    except Failed as error:
        return Outcome(test, stack, FAILED, str(error), error.error)
    except FoveateError as error:
        return Outcome(test, stack, REFUSED, str(error))
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError,
            NotImplementedError) as error:  # fmt: skip
        lines = str(error).strip().splitlines() or [""]
        return Outcome(test, stack, FAILED, f"{type(error).__name__}: {lines[0]}"[:300])


def _stacks(subject: Subject) -> tuple[Stack, ...]:
    found = []
    for name, sites in subject.stacks.items():
        heads = {site.heads for site in sites}
        reach = dict.fromkeys(getattr(site, "reach", "interface") for site in sites)
        found.append(
            Stack(
                name,
                sites[0].kind,
                len(sites),
                heads.pop() if len(heads) == 1 else None,
                ", ".join(reach),
                sites[0].name,
                sites[-1].name,
            )
        )
    return tuple(found)
