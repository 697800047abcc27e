"""What was measured under :func:`foveate.attach`: recorded cheaply, assembled when asked for.

Recording a value is one list append; tensors are put together only when a :class:`Series` is read.
The results hold the **last** sequence: a prefill that starts at position 0 (or a decode step that
does not come after the one before it) begins a new one. ``run.calls`` lists every forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..engine.measures import Read
from ..errors import FoveateError
from .assembly import Record
from .series import SHAPES, Series

__all__ = ["Results"]


class Results(Mapping[str, "Series"]):
    """Measures by key: ``results["mass:evidence"]`` is a :class:`Series`.

    Parameters
    ----------
    stacks : mapping of str to int or sequence of int
        The stacks of the model, each with its number of layers (or their numbers).
    reads : sequence of Read
        The measures that will be recorded; needed for renamed ones (``as_=``), whose key alone does
        not tell whether the last axis counts queries or keys.
    """

    def __init__(
        self, stacks: Mapping[str, int | Sequence[int]] | None = None, reads: Sequence[Read] = ()
    ) -> None:
        self.stacks: dict[str, list[int]] = {
            name: list(range(layers)) if isinstance(layers, int) else list(layers)
            for name, layers in (stacks or {}).items()
        }
        self._shape: dict[str, str] = {}
        # key -> stack -> layer -> the calls of the current sequence, in their order
        self._log: dict[str, dict[str, dict[int, list[Record]]]] = {}
        self.declare(*reads)

    def declare(self, *reads: Read) -> None:
        """Announce measures, so that their keys and shapes are known before anything ran."""
        for read in reads:
            for key in read.keys:
                suffix = key.removeprefix(read.key)
                self._shape[key] = SHAPES.get(read.kind + suffix, "query")

    def record(
        self,
        stack: str,
        layer: int,
        phase: str,
        step: int,
        key: str,
        value: Tensor,
        *,
        q_start: int,
        kv_start: int,
        queries: Tensor | None = None,
    ) -> None:
        """Keep one measure of one attention call.

        Parameters
        ----------
        stack, layer : str, int
            The address of the site.
        phase : {"prefill", "decode"}
        step : int
            0 in prefill; 1, 2, … in decode.
        key : str
            The measure's key.
        value : Tensor
            ``[B, H, Sq]`` for per-query measures, else as in :mod:`foveate.engine.measures`. Kept
            as it is, with its graph when it has one.
        q_start, kv_start : int
            Absolute positions of the call's first query and first key.
        queries : Tensor, optional
            Bool ``[B, Sq]``: queries that are real. Padded ones never count in means.
        """
        log = self._log.setdefault(key, {}).setdefault(stack, {}).setdefault(layer, [])
        if log:
            last = log[-1]
            restarts = q_start == 0 if phase == "prefill" else last.step >= step
            if restarts:
                log.clear()
            elif phase == "prefill" and last.phase == "decode":
                # the next turn of a chat on the same cache: its decode steps are counted anew
                log[:] = [one for one in log if one.phase == "prefill"]
        if not value.is_contiguous():  # a value column: a view that keeps all columns alive
            value = value.contiguous()
        log.append(Record(phase, step, q_start, kv_start, value, queries))

    def clear(self) -> None:
        """Forget what was recorded."""
        self._log.clear()

    # -- keeping -----------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write what was recorded to one safetensors file; the path is returned.

        Everything a :class:`Series` needs goes along: phases, steps, offsets, padding, dtypes.
        Graphs do not: what is loaded has no gradient.

        Raises
        ------
        FoveateError
            If nothing was recorded, or the file cannot be written.
        """
        from .files import write

        return write(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read what :meth:`save` wrote; the tensors come to the CPU.

        Raises
        ------
        FoveateError
            If the file cannot be read, is none of ours, or was written in another format.
        """
        from .files import read

        return read(path)

    # -- reading -----------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Series:
        if key not in self._log:
            if key in self._shape:
                raise FoveateError(
                    f"Nothing was recorded for {key!r} yet: run the model inside the attach block."
                )
            known = ", ".join(map(repr, self)) or "none (add fv.Measure(...) to attach)"
            raise FoveateError(f"No measure {key!r} was taken; the keys there are: {known}.")
        return Series(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._log)

    def __len__(self) -> int:
        return len(self._log)

    def __contains__(self, key: object) -> bool:
        return key in self._log

    def __repr__(self) -> str:
        if not self:
            return "Results(nothing recorded)"
        return "Results(\n" + "".join(f"  {self[key]!r}\n" for key in self) + ")"

    def _repr_html_(self) -> str:
        """A table of what was measured, and a picture of each."""
        from .show import results

        return results(self)
