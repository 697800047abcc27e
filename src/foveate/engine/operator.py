"""What computes a call instead of one softmax over its visible pairs: estimates, corrections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from .program import Program


@runtime_checkable
class Operator(Protocol):
    """A stage around a call: it gets the rest of the program and runs it as it sees fit.

    ``Program.operators`` lists them, the outermost last.
    """

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the call.

        Parameters
        ----------
        program : Program
            What is left of the call: without this operator, without measures and head scales. Run
            it, or a changed copy, by ``plan(program, Shapes.of(q, k, v)).run(q, k, v)``.
        q, k, v : Tensor
            ``[B,Hq,Sq,D]``, ``[B,Hkv,Sk,D]``, ``[B,Hkv,Sk,Dv]``; ``v`` may have more columns than
            the model's values: the result must be linear in it, and is measured by them.

        Returns
        -------
        out, lse : Tensor
            ``[B,Hq,Sq,Dv]`` and ``[B,Hq,Sq]`` (float32 or wider); ``-inf`` where a row saw nothing.

        Raises
        ------
        FoveateError
            What of the program it cannot do.
        """
        ...
