"""Where the text and the image are in one attention call of a denoiser, and regions on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adapters.diffusers import aside
from ..adapters.sites import Site
from ..engine.shapes import Shapes
from ..errors import FoveateError
from .denoising import Moment

if TYPE_CHECKING:
    from .regions import Regions

__all__ = ["PARTS", "Layout"]

PARTS = ("text", "image")
Spans = Mapping[str, tuple[int, int]]


def _split(order: str, text: int, length: int) -> Spans:
    if order == "text first":
        return {"text": (0, text), "image": (text, length)}
    return {"image": (0, length - text), "text": (length - text, length)}


@dataclass(frozen=True, eq=False)
class Layout:
    """Text and image of one call: ranges of its keys and of its queries, by name.

    Attributes
    ----------
    site : Site
    shapes : Shapes
    moment : Moment
    keys, queries : mapping of str to (int, int)
        ``text`` and ``image``, as far as they are there and known.
    """

    site: Site
    shapes: Shapes
    moment: Moment
    keys: Spans
    queries: Spans

    @classmethod
    def of(cls, site: Site, shapes: Shapes, moment: Moment) -> Layout:
        """The layout of a call of ``site``."""
        queries, keys, text = shapes.Sq, shapes.Sk, moment.text
        whole = {"image": (0, queries)}
        if site.kind in ("joint", "single"):
            if text is None or site.order is None or not text < keys or queries != keys:
                return cls(site, shapes, moment, {}, {})
            both = _split(site.order, text, keys)
            return cls(site, shapes, moment, both, both)
        if site.kind == "self":
            whole = {} if aside(site.name) else whole
            return cls(site, shapes, moment, whole, whole)
        if text is not None and keys == text + queries:  # the image's keys behind the text's
            return cls(site, shapes, moment, _split("text first", text, keys), whole)
        return cls(site, shapes, moment, {"text": (0, keys)}, whole)

    # -- regions -----------------------------------------------------------------------------------
    def misfit(self, regions: Regions, name: str, keys: bool = True) -> str | None:
        """Why a region does not fit the keys (or the queries) of the call; None if it does."""
        spans = self.keys if keys else self.queries
        if name not in regions.masks:
            known = name in spans
            return None if known else f"region {name!r} is not known at a {self.site.kind} site"
        if self.moment.negative:
            return "the forward is the negative prompt's"
        found = self._start(regions, name, keys)
        return found if isinstance(found, str) else None

    def _start(self, regions: Regions, name: str, keys: bool) -> int | str:
        """Where a region begins among the keys (or queries), or why it does not fit."""
        spans = self.keys if keys else self.queries
        total = self.shapes.Sk if keys else self.shapes.Sq
        length = regions.masks[name].shape[-1]
        sizes = {part: stop - start for part, (start, stop) in spans.items()}
        if name in regions.of_prompt:
            if length <= sizes.get("text", 0):
                return spans["text"][0]
            there = f"{sizes['text']} of text" if "text" in sizes else "none of text known"
            return f"region {name!r} marks {length} tokens of text, the site has {there}"
        if length == total:
            return 0
        fits = [part for part, size in sizes.items() if size == length]
        if len(fits) == 1:
            return spans[fits[0]][0]
        if fits:
            return (
                f"region {name!r} has {length} positions, as many as the text and as the image: "
                f"give it all {total}"
            )
        there = " and ".join(f"{size} of {part}" for part, size in sizes.items())
        return f"region {name!r} has {length} positions, the site {total}" + (
            f" ({there})" if len(sizes) > 1 else ""
        )

    def on(self, regions: Regions, name: str, keys: bool = True) -> Tensor:
        """A region that fits, on the keys (or queries): bool ``[S]`` or ``[B, S]``."""
        spans = self.keys if keys else self.queries
        total = self.shapes.Sk if keys else self.shapes.Sq
        device = self.shapes.device
        if name not in regions.masks:
            at = torch.arange(total, device=device)
            first, stop = spans[name]
            return (at >= first) & (at < stop)
        start = self._start(regions, name, keys)
        assert isinstance(start, int)
        mask = regions.masks[name]
        mask = torch.nn.functional.pad(mask, (start, total - start - mask.shape[-1]))
        return self._rows(name, mask).to(device)

    def _rows(self, name: str, mask: Tensor) -> Tensor:
        """The rows of a region as those of the batch; the negative prompt's have none."""
        moment, batch = self.moment, self.shapes.B
        rows = mask.shape[0] if mask.dim() == 2 else 1
        total = moment.batch if moment.batch and batch % moment.batch == 0 else batch
        if mask.dim() == 2 and rows == total:
            return mask.repeat_interleave(batch // total, dim=0)
        if moment.parts in (None, 1) and mask.dim() == 1:
            return mask
        parts = moment.parts or 1
        each = total // parts
        if moment.parts in (None, 0) or total % parts or each % rows:
            why = (
                "foveate does not know which of them are the prompt's"
                if moment.parts == 0
                else "only a pipeline tells which are the negative prompt's (attach to it)"
                if moment.parts is None
                else f"{each} of them are the prompt's"
            )
            raise FoveateError(
                f"Region {name!r} has {rows} row{'s' * (rows > 1)} and {self.site.name} runs a "
                f"batch of {total}; {why}: give the region {total} rows, in the batch's order."
            )
        mask = mask.expand(rows, mask.shape[-1]).repeat_interleave(each // rows, dim=0)
        if parts > 1:
            mask = torch.cat([torch.zeros_like(mask), *[mask] * (parts - 1)])
        return mask.repeat_interleave(batch // total, dim=0)
