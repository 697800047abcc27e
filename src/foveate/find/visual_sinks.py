"""Visual sinks: patches of a picture that are large in a few fixed dimensions, and what they get.

Which dimensions those are is a property of the language model behind the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.sites import Site
from ..attach import attach
from ..engine.measures import rows
from ..errors import FoveateError
from ..methods._method import Method
from ..methods.measure import Measure
from ..methods.residual import block_of, entering
from ..methods.vision.var import default_tau, sink_values

__all__ = ["VisualSinks", "find_visual_sinks"]

FIRST = 2  # layers before it make the large dimensions and are not looked at


@dataclass(frozen=True, eq=False)
class VisualSinks:
    """What :func:`find_visual_sinks` found.

    Attributes
    ----------
    dims : tuple of int
        The dimensions looked at.
    tau : float
        From which value a token is a sink.
    values : Tensor
        ``max_d |x_d| / RMS(x)`` of every token as it enters a layer: ``[L, B, S]``, float32.
    sinks : Tensor
        The patches that are sinks: bool ``[L, B, S]``, False outside the picture.
    share : Tensor
        What they get of the attention that the last position pays the picture: ``[L, B, Hq]``.
    """

    dims: tuple[int, ...]
    tau: float
    values: Tensor
    sinks: Tensor
    share: Tensor

    def __repr__(self) -> str:
        rate, share = float(self.sinks.float().mean()), float(self.share.nanmean())
        return (
            f"VisualSinks(dims={self.dims}, tau={self.tau:.3g}: {rate:.1%} of the tokens a layer, "
            f"{share:.1%} of the attention to the picture)"
        )


@torch.no_grad()
def find_visual_sinks(
    model: nn.Module,
    inputs: Any,
    *,
    regions: Mapping[str, Tensor] | None = None,
    image: str = "image",
    dims: Sequence[int] | None = None,
    count: int = 2,
    tau: float | None = None,
    stack: str | None = None,
) -> VisualSinks:
    """Find the sink dimensions of a model, its visual sinks, and the attention that they soak up.

    Parameters
    ----------
    inputs : Prompt with pictures, or mapping
        What goes to the model; for a mapping ``regions`` says where the picture is.
    regions : mapping of str to bool Tensor, optional
        ``{"image": [S] or [B, S]}``.
    image : str
        The region of the picture's tokens.
    dims : sequence of int, optional
        Known ones. Default: the ``count`` dimensions in which single tokens, of text or picture,
        are largest.
    count : int
        At least 1; 2 in the paper.
    tau : float, optional
        Default as in :class:`~foveate.methods.vision.var.VAR`.
    stack : str, optional

    Returns
    -------
    VisualSinks

    Raises
    ------
    FoveateError
        For no region of that name, dimensions the model does not have, a bad ``count`` or ``tau``.

    Notes
    -----
    The value and the threshold are the paper's (Kang et al. 2025, section 3). Its dimensions are
    those of the massive activations of the bare language model, listed in the code for two Llamas.
    Here they are looked for in the model at hand: those with the greatest ``|x_d| / RMS(x)`` of any
    token of a sequence, in the mean over sequences and the layers from the third on.
    """
    given = dict(getattr(inputs, "inputs", inputs))
    known = dict(getattr(inputs, "regions", {})) | dict(regions or {})
    if image not in known:
        raise FoveateError(
            f"There is no region {image!r}, so nothing says where the picture is: pass an "
            'fv.Prompt with a picture, or regions={"image": mask}.'
        )
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise FoveateError(f"count={count!r} was given; a whole number from 1 was wanted.")
    if tau is not None and not (isinstance(tau, int | float) and tau > 0):
        raise FoveateError(f"tau={tau!r} was given; a number greater than 0 was wanted.")
    region = torch.as_tensor(known[image])
    keep, look = _Entering(stack=stack), Measure(rows(-1), stack=stack)
    with attach(model, keep, look, regions={image: region}) as run:
        model(**given)
    hidden = torch.stack(list(keep.tensors.values())).float()
    region = region.to(hidden.device).expand(hidden.shape[1:3])
    seen = run.results["rows"].prefill[..., 0, :].to(hidden.device) * region[:, None]
    if dims is None:
        real = given.get("attention_mask", torch.ones_like(region)).to(hidden.device)
        dims = _sticking_out(hidden[min(FIRST, len(hidden) - 1) :], real, count)
    tau = default_tau(hidden.shape[-1]) if tau is None else float(tau)
    values = torch.stack([sink_values(layer, dims) for layer in hidden])
    sinks = (values > tau) & region
    share = (seen * sinks[:, :, None]).sum(-1) / seen.sum(-1)
    return VisualSinks(tuple(dims), tau, values, sinks, share)


class _Entering(Method):
    """Keep what enters the blocks, by site."""

    def __init__(self, **scope: Any) -> None:
        super().__init__(**scope)
        self.tensors: dict[str, Tensor] = {}

    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        for site in sites:

            def keep(module: Any, args: Any, kwargs: Any, name: str = site.name) -> None:
                self.tensors[name] = entering(args, kwargs)

            yield block_of(model, site), "pre", keep


def _sticking_out(hidden: Tensor, real: Tensor, count: int) -> tuple[int, ...]:
    """The dimensions of ``hidden [L, B, S, dim]`` in which single tokens are largest."""
    size = hidden.abs() * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
    most = (size * real[..., None]).amax(2).mean((0, 1))
    return tuple(sorted(most.topk(count).indices.tolist()))
