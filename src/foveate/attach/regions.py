"""Regions of a run: named token positions, and how they fall on the keys of one attention call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..adapters.sites import Site
from ..errors import FoveateError
from .denoising import Moment
from .layout import PARTS, Layout

__all__ = ["GENERATED", "Regions", "Views"]

GENERATED = "generated"


def _as_mask(name: str, given: Any) -> Tensor:
    """A region as bool ``[S]`` or ``[B, S]``."""
    try:
        mask = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        mask = None
    if mask is None or mask.dtype != torch.bool or mask.dim() not in (1, 2) or mask.numel() == 0:
        what = f"{mask.dtype} {list(mask.shape)}" if mask is not None else repr(given)
        raise FoveateError(
            f"Region {name!r} is {what}; a region is a bool tensor [S] or [B, S], True at its "
            "tokens: mask = torch.zeros(S, dtype=torch.bool); mask[3:7] = True."
        )
    return mask[0] if mask.dim() == 2 and mask.shape[0] == 1 else mask


class Regions:
    """All regions of one run.

    Positions are absolute. A prompt's regions belong to the tokens it tokenises: the decoder's, or
    in an encoder–decoder text model the encoder's; they then fit ``encoder`` and ``cross`` sites.
    Other regions fit a stack beside the decoder by their length.

    Parameters
    ----------
    prompt : object, optional
        With ``regions``, a mapping of names to bool ``[B, S]``.
    explicit : mapping of str to bool Tensor, optional
    encoder_decoder : bool
        Whether the decoder's tokens are not the encoder's.
    encoded : bool
        Whether the prompt goes to the encoder.
    alone : bool
        Whether there is one stack, to whose tokens all regions must belong.
    parts : bool
        Whether there is a denoiser, whose regions ``text`` and ``image`` are known by themselves.
    """

    def __init__(
        self,
        prompt: Any,
        explicit: Mapping[str, Any] | None,
        *,
        encoder_decoder: bool = False,
        encoded: bool = False,
        alone: bool = True,
        parts: bool = False,
    ) -> None:
        self._own = (GENERATED, *PARTS) if parts else (GENERATED,)
        self.encoder_decoder = encoder_decoder
        self.encoded = encoded
        self._alone = alone
        self.of_prompt: dict[str, Tensor] = {}
        self._text = False
        self.masks: dict[str, Tensor] = {}
        if prompt is not None:
            regions = getattr(prompt, "regions", None)
            if not isinstance(regions, Mapping):
                raise FoveateError(
                    f"prompt= takes an fv.Prompt; {type(prompt).__name__} was given: "
                    "fv.Prompt(tokenizer, text)."
                )
            self.of_prompt = {
                name: _as_mask(name, mask) for name, mask in regions.items() if name != GENERATED
            }
        # a text that happens to be as long as a tower's row of patches is still no part of it
        self._text = bool(self.of_prompt) and "input_ids" in getattr(prompt, "inputs", ())
        if explicit is not None and not isinstance(explicit, Mapping):
            raise FoveateError(
                f'regions= takes a dict {{"name": bool mask}}; {type(explicit).__name__} was given.'
            )
        for name, mask in (explicit or {}).items():
            if not isinstance(name, str) or not name or name in (*self._own, *self.of_prompt):
                why = (
                    "is foveate's own"
                    if name in self._own
                    else "is taken by the prompt or no string"
                )
                raise FoveateError(
                    f"regions= names a region {name!r}, which {why}: choose another name."
                )
            self.masks[name] = _as_mask(name, mask)
        self.masks |= self.of_prompt

    @property
    def names(self) -> list[str]:
        """The names there are."""
        return [*self.masks, *self._own]

    @property
    def prompt_length(self) -> int | None:
        """Tokens of the decoder's prompt where known: what comes after was generated."""
        told = {} if self.encoded else self.of_prompt
        if not told and self._alone:
            told = self.masks
        return max((mask.shape[-1] for mask in told.values()), default=None)

    def known(self, name: str, who: object) -> None:
        """Raise unless there is such a region."""
        if name not in self.names:
            there = ", ".join(map(repr, self.names))
            raise FoveateError(
                f"{who} speaks of a region {name!r}; the regions there are: {there}. Mark it with "
                "prompt.mark(name, text) and pass prompt=, or pass regions={name: mask}."
            )

    def misfit(self, name: str, kind: str, keys: int, begun: int | None) -> str | None:
        """Why a region does not fit the keys of a site, or None if it does.

        Parameters
        ----------
        name : str
        kind : str
            The site's kind.
        keys : int
            Number of keys of the call.
        begun : int or None
            Length of the decoder's first forward, if it is known.
        """
        if name in self._own and name != GENERATED and name not in self.masks:
            return f"region {name!r} is known in a denoiser only"
        if kind == "decoder":
            if name == GENERATED or not self.encoder_decoder:
                return None
            if name in self.of_prompt:
                return f"region {name!r} marks tokens of the encoder" if self.encoded else None
            if begun is None or self.masks[name].shape[-1] == begun:
                return None
            length = self.masks[name].shape[-1]
            return f"region {name!r} has {length} positions, the decoder began with {begun}"
        if name == GENERATED:
            return f"region {name!r} has its tokens in the decoder"
        if kind in ("vision", "audio") and self._text and name in self.of_prompt:
            return f"region {name!r} marks tokens of the text"
        length = self.masks[name].shape[-1]
        return (
            None
            if length == keys
            else f"region {name!r} has {length} positions, the site {keys} keys"
        )

    def on(
        self,
        name: str,
        site: Site,
        batch: int,
        keys: int,
        kv_start: int,
        born: int,
        device: torch.device,
    ) -> Tensor:
        """The part of a region on a call's keys: bool ``[Sk]`` or ``[B, Sk]``.

        ``born`` is the position of the first generated token.
        """
        if name == GENERATED:
            return torch.arange(kv_start, kv_start + keys, device=device) >= born
        mask = self._rows(name, site, batch)
        part = mask[..., kv_start : kv_start + keys]
        if part.shape[-1] < keys:  # tokens generated later belong to `generated` only
            part = torch.nn.functional.pad(part, (0, keys - part.shape[-1]))
        return part.to(device)

    def marked(self, name: str, site: Site, batch: int) -> Tensor:
        """The rows of a batch in which a region marks any token: bool ``[1]`` or ``[B]``."""
        return self._rows(name, site, batch).any(-1).reshape(-1)

    def _rows(self, name: str, site: Site, batch: int) -> Tensor:
        mask = self.masks[name]
        if mask.dim() == 1 or mask.shape[0] == batch:
            return mask
        if batch % mask.shape[0]:
            raise FoveateError(
                f"Region {name!r} has {mask.shape[0]} rows and {site.name} runs a batch of "
                f"{batch}: the rows must be the batch's, or divide it (beams, "
                "num_return_sequences)."
            )
        return mask.repeat_interleave(batch // mask.shape[0], dim=0)


class Views(Mapping[str, Tensor]):
    """The regions that fit one call, each cut to its keys when first asked for."""

    def __init__(
        self, regions: Regions, site: Site, shape: tuple[int, int, int], born: int, begun: int |
        None, device: torch.device, layout: Layout | None = None,
    ) -> None:  # fmt: skip
        self._regions = regions
        self._site = site
        self._batch, self._keys, self._kv_start = shape
        self._born = born
        self._device = device
        self._layout = layout  # of a denoiser's call
        self._cut: dict[str, Tensor] = {}
        self.lost: int | None = None  # where the tokens had come to, if the keys went back
        self.misfits = {}
        for name in regions.names:
            if layout is not None:
                why = layout.misfit(regions, name)
            else:
                why = regions.misfit(name, site.kind, self._keys, begun)
            if why is not None:
                self.misfits[name] = why

    def queries(self, name: str) -> Tensor | None:
        """A region on the queries of a denoiser's call, or None where they are among the keys.

        Raises
        ------
        FoveateError
            If the region does not fit the queries.
        """
        if self._layout is None:
            return None
        why = self._layout.misfit(self._regions, name, keys=False)
        if why is not None:
            raise FoveateError(f"{self._site.name} has no such queries: {why}.")
        return self._layout.on(self._regions, name, keys=False)

    @property
    def moment(self) -> Moment | None:
        """The moment of a denoiser's call."""
        return None if self._layout is None else self._layout.moment

    def marked(self, name: str) -> Tensor | None:
        """The rows in which a region marks any token, on these keys or not; None if it is made."""
        if name not in self._regions.masks or self._layout is not None:
            return None
        return self._regions.marked(name, self._site, self._batch)

    def __getitem__(self, name: str) -> Tensor:
        cut = self._cut.get(name)
        if cut is None:
            if name not in self:
                raise KeyError(name)
            if self._layout is not None:
                cut = self._layout.on(self._regions, name)
            else:
                shape = self._batch, self._keys, self._kv_start
                cut = self._regions.on(name, self._site, *shape, self._born, self._device)
            self._cut[name] = cut
        return cut

    def __contains__(self, name: object) -> bool:
        return name not in self.misfits and name in self._regions.names

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._regions.names if name not in self.misfits)

    def __len__(self) -> int:
        return sum(1 for _ in self)
