"""ZeroTuning: more or less attention to the first token, at the heads where it helps."""

from __future__ import annotations

from typing import Any

from .._implements import implements
from .emphasis import Emphasize

__all__ = ["ZeroTuning"]


@implements("zerotuning", basis="paper", maturity="stable")
class ZeroTuning(Emphasize):
    """Multiply the first token's attention by ``gamma`` and renormalise the rows.

    The first token is a sink without content, so what this moves is how much mass all the others
    share: ``a_0' = gamma a_0 / D``, ``a_i' = a_i / D``, ``D = 1 + (gamma - 1) a_0``. Their ratios
    stay. It is a term ``log gamma`` on one key's score (type a): no second pass, no matrix, and
    exact where the authors approximate it for fused kernels by scaling the key or the query.

    Parameters
    ----------
    gamma : float, sequence, Tensor or dict
        Greater than 0: above 1 the others get less, and differences among them count less; below 1
        more. One number in the paper; more as in :class:`~foveate.methods.emphasis.Emphasize`.
    heads : sequence of int, dict or ``HeadScores.top(k)``, optional
        Default: all. ``[0, 5]`` is those heads of every layer, as the authors choose them;
        :func:`~foveate.find.zerotuning.fit_zerotuning` chooses.
    layers, phase, stack, steps
        As in :class:`~foveate.methods.emphasis.Emphasize`.

    Raises
    ------
    FoveateError
        For a gamma that is not a finite number greater than 0. Attaching it raises without
        ``prompt=`` (or ``regions={"first": mask}``), which says where the first real token is:
        under left padding it is not position 0, where the authors' code looks for it.

    Notes
    -----
    Han et al., "ZeroTuning: Unlocking the Initial Token's Power to Enhance Large Language Models
    Without Training" (2025), and the authors' code: ``ZeroTuning_Attention`` multiplies column 0
    after the softmax and renormalises, in prefill and decode alike.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, [{"role": "user", "content": "Is this film good? Dull."}])
    >>> with fv.attach(model, fv.ZeroTuning(1.7, heads=[2, 7]), prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=8)
    >>> print(tokenizer.decode(ids[0, prompt.inputs["input_ids"].shape[1] :]))
    """

    def __init__(
        self,
        gamma: Any,
        heads: Any = None,
        layers: Any = None,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        super().__init__("first", gamma, layers, heads, phase, stack, steps)

    @property
    def gamma(self) -> Any:
        """What the first token's attention is multiplied by."""
        return self.gain

    def __repr__(self) -> str:
        return (
            super()
            .__repr__()
            .replace(f"Emphasize('first', gain={self.gain!r}", f"ZeroTuning({self.gain!r}")
        )
