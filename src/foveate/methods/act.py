"""ACT: calibrate the attention that tokens in mid-sequence soak up, and give it to the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .._implements import implements
from ..adapters.sites import Site
from ..engine.measures import received
from ..engine.program import Program
from ..engine.shapes import Shapes
from ..engine.terms import hidden
from ..errors import FoveateError
from ._method import Method
from ._scope import Middle

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["ACT"]

TILE = 4_000_000  # pairs of queries and keys looked at together


@implements("act-attention-calibration", basis="paper", maturity="stable")
class ACT(Method):
    """Multiply the attention to hidden sinks by ``beta``; the other tokens get what is taken.

    A head's sinks are the keys other than the first real token whose average received attention
    exceeds ``alpha / N``: the mean of column ``j`` over the rows that see it, of ``N`` real tokens.
    In every row the mass taken from them goes to the tokens that are no sinks, in proportion to
    what they have: their weights are multiplied by ``1 + (1 - beta) m_sinks / m_others``. Rows sum
    to 1, the first token's weight stays.

    It needs what the columns receive before it can edit the rows (type c, then b): one pass beside
    the call and one over tiles of scores, never the matrix.

    Parameters
    ----------
    alpha : float
        Greater than 0; 5 in the paper.
    beta : float
        In (0, 1]; 0.4 in the paper. 1 changes nothing.
    heads : sequence of int, dict or ``HeadScores.above(0)``, optional
        Where it acts. The paper leaves out the heads where it harms on held-out items:
        :func:`~foveate.find.act.calibrate_act`.
    layers : int or sequence of int, optional
        Default: all but the first two and the last, as the authors do (unless ``heads=`` names
        layers itself).
    threshold : float, optional
        An absolute threshold instead of ``alpha / N``; the authors' scripts take 0.1.
    share_first : bool
        Whether the first token takes its share too, as in the authors' code. Default: its weight
        stays.
    phase, stack, steps
        As in :class:`~foveate.methods._method.Method`.

    Attributes
    ----------
    sinks : dict of str to Tensor
        The sinks found in the last prompt, by site: bool ``[B, Hq, S]``, of all heads.

    Raises
    ------
    FoveateError
        For numbers out of range. Attaching it raises without ``prompt=`` (or ``regions={"first":
        mask}``), which says where the first real token is.

    Notes
    -----
    Yu et al., "Unveiling and Harnessing Hidden Attention Sinks" (ICML 2024), and the authors' code
    (``atten_process_eval``). In generation the sinks found in the prompt keep their part and new
    tokens never become sinks; the authors' chat script judges each decode step by its single row,
    which would flatten every sharp look back. Chunks of one prefill are judged by all rows so far.
    In rows that see nothing but sinks and the first token, these share what is taken. Under a
    pattern that looks at the content every later row counts as one that sees a key.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find import calibrate_act
    >>> model, tokenizer = fv.load("smollm2")
    >>> task = fv.tasks.Classification(n=8, kind="sentiment", shots=2, labels="words")
    >>> items = task.items(tokenizer)
    >>> fit = calibrate_act(model, tokenizer, items, by="estimate", score="choice")
    >>> prompt = fv.Prompt(tokenizer, items[0].content)
    >>> with fv.attach(model, fv.ACT(heads=fit.profile.top(40)), prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=4)
    >>> print(tokenizer.decode(ids[0, prompt.inputs["input_ids"].shape[1] :]))
    """

    looks = True
    regions = ("first",)

    def __init__(
        self,
        alpha: float = 5.0,
        beta: float = 0.4,
        heads: Any = None,
        layers: Any = None,
        threshold: float | None = None,
        share_first: bool = False,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        self.alpha = _number("alpha", alpha, float("inf"))
        self.beta = _number("beta", beta, 1.0)
        self.threshold = None if threshold is None else _number("threshold", threshold, 1.0)
        self.share_first = bool(share_first)
        super().__init__(layers=layers, heads=heads, phase=phase, stack=stack, steps=steps)
        self.scope.from_the_prompt("ACT", "finds the sinks in the prompt")
        if layers is None and not isinstance(self.scope.heads, dict):
            self.scope = Middle(**vars(self.scope))
        self.sinks: dict[str, Tensor] = {}
        self._seen: dict[str, _Seen] = {}

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Find the sinks, then add the two gains."""
        if self.beta == 1.0:
            return program
        if program.operators:
            raise FoveateError(
                f"{self!r} has to know what every key receives, and {program.operators[-1]!r}, "
                "given before it, never writes that out: attach ACT before it."
            )
        if "first" not in call.views:  # keys of another stack: attach passes it over, and says why
            return program.with_gain("first", self.beta)
        sinks = self._sinks(program, site, call)
        if sinks is None or not bool(sinks.any()):
            return program
        others = ~sinks if self.share_first else ~sinks & ~_per_head(call.views["first"])
        take = (1 - self.beta) / self.beta  # the masses read are those after beta

        def share(masses: dict[str, Tensor]) -> Tensor:
            return 1 + take * masses[taken] / masses[given]

        taken, given = (f"ACT{id(self):x} {name}" for name in ("sinks", "others"))
        named = program.with_region(taken, sinks).with_region(given, others)
        return named.with_gain(taken, self.beta).with_gain(given, share, of=(taken, given))

    def _sinks(self, program: Program, site: Site, call: Call) -> Tensor | None:
        """Where the call's keys are sinks of heads that are meant, bool ``[B, Hq, Sk]``."""
        h = call.shapes
        if call.phase == "prefill":
            known = None if call.q_offset == 0 else self._seen.get(site.name)
            seen = self._seen[site.name] = _look(program, call, known)
            limit = self.alpha / seen.tokens if self.threshold is None else self.threshold
            found = seen.received > limit * seen.rows.clamp(min=1)
            first = nn.functional.pad(_per_head(call.views["first"]), (call.kv_offset, 0))
            self.sinks[site.name] = found & ~first
        kept = self.sinks.get(site.name)
        if kept is None:  # attached behind a prefill: nothing is known of the prompt
            return None
        part = kept[..., call.kv_offset : call.kv_offset + h.Sk]
        part = nn.functional.pad(part, (0, h.Sk - part.shape[-1]))  # what came later is none
        heads = self.scope.heads_at(site, h.Hq)
        if heads is not None:
            meant = torch.zeros(h.Hq, dtype=torch.bool, device=h.device)
            meant[list(heads)] = True
            part = part & meant[:, None]
        return part

    def _given(self) -> list[str]:
        given = [f"alpha={self.alpha:g}", f"beta={self.beta:g}"]
        if self.threshold is not None:
            given[0] = f"threshold={self.threshold:g}"
        return given + ["share_first=True"] * self.share_first


class _Seen(NamedTuple):
    """What the columns received in the prefill so far; axes of keys begin at position 0."""

    received: Tensor  # [B, Hq, S]
    rows: Tensor  # [B|1, H|1, S]: real queries that see the key
    tokens: Tensor  # [B|1, 1, 1]: real tokens


def _look(program: Program, call: Call, before: _Seen | None) -> _Seen:
    h = call.shapes
    with torch.no_grad():
        got = call.read(program, received())["received"]
    offset = h.Sk - h.Sq if program.q_offset is None else program.q_offset
    key = torch.arange(h.Sk, device=h.device)
    visible = torch.ones(1, h.Sk, dtype=torch.bool, device=h.device)
    bias = (call.own or program).key_bias  # the model's: what a method hides are tokens still
    if bias is not None:
        visible = ~hidden(bias.reshape((1,) * (3 - bias.dim()) + bias.shape)[:, 0]).expand(-1, h.Sk)
    if program.causal:
        visible = visible & (key < offset + h.Sq)
    tokens = visible.sum(-1)[:, None, None] + call.kv_offset
    lead = (call.kv_offset, 0)
    got = nn.functional.pad(got, lead)
    seen = nn.functional.pad(_seeing(program, h, offset).to(got.dtype), lead)
    if before is not None and before.received.shape[0] == got.shape[0]:
        longer = (0, got.shape[-1] - before.received.shape[-1])
        got = got + nn.functional.pad(before.received, longer)
        seen = seen + nn.functional.pad(before.rows, longer)
    return _Seen(got, seen, tokens)


def _seeing(program: Program, h: Shapes, offset: int) -> Tensor:
    """How many real queries see each key, ``[B|1, H|1, Sk]``: a tile of pairs at a time."""
    real = torch.ones(1, h.Sq, dtype=torch.bool, device=h.device)
    if program.queries is not None:
        real = program.queries
    key, pattern = torch.arange(h.Sk, device=h.device), program.pattern
    if pattern is None or getattr(pattern, "routed", False):
        later = nn.functional.pad(real.flip(1).cumsum(1).flip(1), (0, 1))  # real ones from i on
        first = (key - offset).clamp(0, h.Sq) if program.causal else torch.zeros_like(key)
        return later[:, None, first]
    count = torch.zeros(1, 1, h.Sk, dtype=torch.int64, device=h.device)
    for some in torch.arange(h.Sq, device=h.device).split(max(1, TILE // h.Sk)):
        pairs = pattern.tile(some + offset, key) & real[:, None, some, None]
        if program.causal:
            pairs = pairs & (key <= (some + offset)[:, None])
        count = count + pairs.sum(-2)
    return count


def _per_head(region: Tensor) -> Tensor:
    """``[Sk]`` or ``[B, Sk]`` as ``[B|1, 1, Sk]``."""
    return region.reshape(-1, 1, region.shape[-1])


def _number(name: str, value: Any, most: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < value <= most or value == float("inf"):
        upto = "" if most == float("inf") else f", at most {most:g},"
        raise FoveateError(f"ACT takes a finite {name} greater than 0{upto}; {value!r} was given.")
    return float(value)
