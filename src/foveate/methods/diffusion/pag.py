"""PAG and SoftPAG: guidance away from a forward whose image tokens see only themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._implements import implements
from ...adapters.diffusers import given
from ...adapters.sites import Site
from ...attach.denoising import prompt_alone
from ...attach.frame import apart, aside
from ...engine.attention import attention
from ...engine.partial import Partial, merge
from ...engine.program import Program
from ...errors import FoveateError
from .._method import Method
from ._forward import denoiser_of, half, predicting, prediction_of

if TYPE_CHECKING:
    from ...attach import Call
    from ...attach.denoising import Moment

__all__ = ["PAG"]

TOKENS = ("all", "image")
_PLAIN = ("pattern", "key_bias", "bias", "softcap", "score_terms", "sinks", "gains", "operators")


@implements("headhunter-softpag", basis="paper")
class PAG(Method):
    """Guide a denoiser away from a weak version of itself, whose heads look nowhere else.

    Beside each forward of the denoiser runs a second one, in which the attention map ``A`` of the
    chosen heads is ``(1 - u) A + u I``: each token sees more of itself. What is predicted becomes
    ``e + w (e - e_weak)`` for the prompt, and under classifier-free guidance with the scale ``g``
    ``e_neg + g (e - e_neg) + w (e - e_weak)``. It needs no prompt. ``u = 1`` with all heads of a
    layer is PAG, with some heads the paper's head-level guidance, and between 0 and 1 SoftPAG.

    Parameters
    ----------
    scale : float
        ``w``, not negative; 0 changes nothing and costs nothing. Too much simplifies pictures until
        nothing but flat shapes is left.
    strength : float
        ``u`` in [0, 1]: how far the heads' maps go towards the identity.
    tokens : {"all", "image"}
        Of whom, in joint attention. ``"all"``: the whole map, text included, as in the paper's code
        and the guiders of diffusers. ``"image"``: image tokens see themselves and the text, with
        what they put on each (their softmax over those keys), and the text sees all, as in
        diffusers' ``StableDiffusion3PAGPipeline``. In self-attention they are the same.
    layers, heads, stack, steps
        As everywhere: ``heads={9: [0, 5]}``, ``[(9, 0), (9, 5)]`` or what
        :func:`foveate.find.head_hunter` found; ``stack="unet.mid.self"`` in UNets.

    Raises
    ------
    FoveateError
        For a negative scale, a strength outside [0, 1]; inside the block for cross-attention, which
        has no identity, a model that is no denoiser, a pipeline whose guidance is in an order of
        its own or that perturbs already, and a second PAG on the same denoiser.

    Notes
    -----
    Ahn et al., "Fine-Grained Perturbation Guidance via Attention Head Selection" (2025; in its last
    version "Where and How to Perturb"), equations 5 to 7: ``(1 + w) e - w e_weak``, and the
    official code, whose perturbation ``attention_identity`` is over all joint tokens and whose weak
    forward is the prompt's alone. ``(1 - u) A V + u V`` is an edit of the head outputs: no map is
    ever made.

    Cost: one more forward a step, of the prompt's rows. What the other methods do they do in both
    forwards; what is measured is the model's own, not the weak one. ``guidance_rescale`` and
    skip-layer guidance take the guided prediction for the prompt's. Attached to a denoiser alone,
    each row of the batch is guided by its own weak forward.

    Examples
    --------
    >>> import foveate as fv
    >>> pipe, _ = fv.load("shapes-dit")
    >>> with fv.attach(pipe, fv.PAG(scale=2.0, strength=0.5, layers=2)):
    ...     picture = pipe("a red circle", num_inference_steps=8, guidance_scale=1).images[0]
    >>> print(picture.size)
    """

    def __init__(
        self,
        scale: float = 3.0,
        strength: float = 1.0,
        *,
        tokens: str = "all",
        layers: Any = None,
        heads: Any = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        super().__init__(layers=layers, heads=heads, stack=stack, steps=steps)
        if not _number(scale) or scale < 0:
            raise FoveateError(
                f"scale={scale!r} was given; a finite number, not negative, was wanted."
            )
        if not _number(strength) or not 0 <= strength <= 1:
            raise FoveateError(
                f"strength={strength!r} was given; a number from 0 (the model's own attention) to "
                "1 (the identity) was wanted."
            )
        if tokens not in TOKENS:
            raise FoveateError(f"tokens={tokens!r} was given; it is one of {', '.join(TOKENS)}.")
        self.scale = float(scale)
        self.strength = float(strength)
        self.tokens = tokens
        self._weak = False  # whether the forward in progress is this method's own
        self._moment: Moment | None = None  # of the model's forward in which this method acts
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None  # of the call in progress
        self._program: Program | None = None
        self._pull: dict[int, tuple[int, Tensor]] = {}  # denoiser -> step, w (e - e_weak)

    def check(self, site: Site) -> None:
        """Refuse attention that has no identity, or is in no denoiser."""
        if not site.denoiser:
            raise FoveateError(
                f"{self!r} guides denoisers, and {site.name} is in none: attach it to a pipeline, "
                "a UNet or a diffusion transformer of diffusers, and leave its text encoder out."
            )
        if site.kind == "cross":
            raise FoveateError(
                f"{self!r} names {site.name}, a cross-attention: its queries are the image's and "
                "its keys the text's, so no query can see itself. Give a stack of self-attention "
                'or of joint attention: stack="self".'
            )
        if self.tokens == "image" and site.kind != "self" and site.order is None:
            raise FoveateError(
                f'tokens="image" was given, and where the image is among the tokens of {site.name} '
                'is not known: give tokens="all".'
            )

    # -- the two forwards --------------------------------------------------------------------------
    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        """One on every denoiser that has a site in scope."""
        for denoiser in {
            id(found): found for found in (denoiser_of(model, s) for s in sites)
        }.values():
            for hook in denoiser._forward_hooks.values():
                other = getattr(getattr(hook, "function", None), "__self__", None)
                if isinstance(other, PAG):
                    raise FoveateError(
                        f"{self!r} and {other!r} would guide the same {type(denoiser).__name__}, "
                        "each away from what the other made of it: give one of them all heads."
                    )
            yield denoiser, "pre", self._begin
            yield denoiser, "post", self._guide

    def _begin(self, module: Any, args: Any, kwargs: Any) -> None:
        if not apart():  # an interrupted forward may have left its own
            self._moment = None

    def _guide(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        moment, self._moment = self._moment, None
        if moment is None or apart() or moment.partial:
            return None
        if moment.parts in (0, 3):
            raise FoveateError(
                f"{self!r} does not know which rows of the batch are the prompt's: "
                + (
                    "the pipeline guides in an order of its own."
                    if moment.parts == 0
                    else "the pipeline has perturbed attention of its own; use the plain one."
                )
            )
        strong = prediction_of(output)
        if (
            moment.negative
        ):  # after the prompt's forward: with both pulled, the guidance is as it was
            step, pull = self._pull.get(id(module), (-1, strong))
            return predicting(output, strong + pull) if step == moment.step else None
        parts = moment.parts or 1
        strong_alone = strong[len(strong) // parts * (parts - 1) :]  # the prompt's rows
        pull = self.scale * (strong_alone - self._weakly(module, args, kwargs, moment))
        self._pull[id(module)] = moment.step, pull
        return predicting(output, strong + pull.repeat(parts, *[1] * (pull.dim() - 1)))

    def _weakly(self, module: Any, args: Any, kwargs: Any, moment: Moment) -> Tensor:
        """What the weak forward predicts for the prompt's rows."""
        told = given(module, args, kwargs)
        if moment.parts == 2:
            told = {name: half(name, value, moment.batch) for name, value in told.items()}
        self._weak = True
        try:
            with aside(), prompt_alone() if moment.parts else nullcontext():
                return prediction_of(module(**told))
        finally:
            self._weak, self._kept, self._program = False, None, None

    # -- the weak one ------------------------------------------------------------------------------
    def inputs(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Note when this is, and what the weak forward's heads are made of; nothing is edited."""
        if self._weak:
            self._kept = q, k, v
        elif self.scale and self.strength and not apart():
            self._moment = call.moment
        return q, k, v

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program as it is; noted where the image's scores are needed."""
        self._program = program
        return program

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        """In the weak forward, ``(1 - u) A V + u V`` at the heads chosen."""
        if not self._weak or self._kept is None:
            return out
        q, k, v = (_grouped(t, out.shape[1]) for t in self._kept)
        if v.shape != out.shape:
            raise FoveateError(
                f"{self!r}: {site.name} has {out.shape[2]} queries and {v.shape[2]} keys, so no "
                "query can see itself there. Leave it out with layers= or stack=."
            )
        alone = (
            v if self.tokens == "all" or site.kind == "self" else self._seeing(q, k, v, out, call)
        )
        heads = self.scope.heads_at(site, out.shape[1])
        chosen = list(range(out.shape[1]) if heads is None else heads)
        new = out.clone()
        new[:, chosen] = torch.lerp(out[:, chosen], alone[:, chosen].to(out.dtype), self.strength)
        return new

    def _seeing(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, call: Call) -> Tensor:
        """Head outputs where image tokens see the text and of the image themselves."""
        program = self._program
        assert program is not None
        odd = [name for name in _PLAIN if getattr(program, name) not in (None, ())]
        if odd or program.causal:
            raise FoveateError(
                f'{self!r}: tokens="image" works where scores are the dot products alone; here '
                f'there is {", ".join(odd) or "a causal mask"} too. Give tokens="all".'
            )
        rows = call.queries("image").reshape(-1, out.shape[2])[0]
        scale = q.shape[-1] ** -0.5 if program.scale is None else program.scale
        image, own, text = q[:, :, rows], k[:, :, rows], ~rows
        seen = attention(image, k[:, :, text], v[:, :, text], scale=scale)
        score = scale * (image.float() * own.float()).sum(-1)
        both = merge(Partial(seen.out, seen.lse), Partial(v[:, :, rows], score.to(seen.lse.dtype)))
        new = out.clone()
        new[:, :, rows] = both.out.to(out.dtype)
        return new

    def _given(self) -> list[str]:
        given = [f"scale={self.scale:g}", f"strength={self.strength:g}"]
        return given if self.tokens == "all" else [*given, f"tokens={self.tokens!r}"]


def _number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given)


def _grouped(t: Tensor, heads: int) -> Tensor:
    """Keys or values with one head for each query head."""
    return t if t.shape[1] == heads else t.repeat_interleave(heads // t.shape[1], 1)
