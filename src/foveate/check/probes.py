"""Methods that ask: what every site puts where, and what a gain makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.sites import Site
from ..engine.measures import mass, max
from ..engine.program import Program
from ..methods._method import Method

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["Gain", "Jitter", "Look", "Seen", "part"]

_WHOLE, _PART = "check: all keys", "check: some keys"


def part(keys: int, device: Any) -> Tensor:
    """Some of the keys, bool ``[Sk]``: every second one from the first."""
    return torch.arange(keys, device=device) % 2 == 0


@dataclass(frozen=True, eq=False)
class Seen:
    """What one call of a site did.

    ``whole`` and ``part`` are masses ``[B, Hq, Sq]``, ``max`` the largest probability of each row;
    ``sinks`` says whether a learned sink took its share.
    """

    shape: tuple[int, int, int, int]  # B, Hq, Sq, Sk
    whole: Tensor
    part: Tensor
    max: Tensor
    sinks: bool


@dataclass(eq=False)
class Look:
    """Read every site of a stack, and edit nothing.

    Parameters
    ----------
    stack : str
    gain : float, optional
        Read as if the keys of :func:`part` had this gain.
    """

    stack: str
    gain: float | None = None
    looks = True
    seen: dict[str, list[Seen]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scope = Method(stack=self.stack).scope

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Read."""
        h = call.shapes
        named = program.with_region(_WHOLE, torch.ones(h.Sk, dtype=torch.bool, device=h.device))
        named = named.with_region(_PART, part(h.Sk, h.device))
        if self.gain is not None:
            named = named.with_gain(_PART, self.gain)
        got = call.read(named, mass(_WHOLE), mass(_PART), max())
        self.seen.setdefault(site.name, []).append(
            Seen(
                (h.B, h.Hq, h.Sq, h.Sk),
                got[f"mass:{_WHOLE}"],
                got[f"mass:{_PART}"],
                got["max"],
                program.sinks is not None,
            )
        )
        return program


class Gain(Method):
    """A gain on all keys, or on those of :func:`part`."""

    def __init__(self, gain: float, *, everywhere: bool, stack: str, layers: Any = None) -> None:
        super().__init__(stack=stack, layers=layers)
        self.gain = gain
        self.everywhere = everywhere
        self._masks: dict[Any, Tensor] = {}

    def alike(self, site: Site) -> object:
        """All sites are edited alike."""
        return True

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Add the gain."""
        keys, device = call.shapes.Sk, call.shapes.device
        mask = self._masks.get((keys, device))
        if mask is None:
            whole = torch.ones(keys, dtype=torch.bool, device=device)
            mask = self._masks[keys, device] = whole if self.everywhere else part(keys, device)
        return program.with_region(_PART, mask).with_gain(_PART, self.gain)


class Jitter(Method):
    """Shift every head's output by as little as rounding does."""

    def __init__(self, stack: str) -> None:
        super().__init__(stack=stack)

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        """Up to two units in the last place."""
        noise = torch.empty_like(out).uniform_(-1, 1)
        return out * (1 + 2 * torch.finfo(out.dtype).eps * noise)
