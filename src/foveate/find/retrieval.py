"""Heads that copy what is asked for out of a long text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..attach import attach
from ..engine.measures import top
from ..errors import FoveateError
from ..methods.measure import Measure
from ..prompt import Prompt
from ..tasks._task import Item, prompts
from ..tasks.needle import Needle
from ._decode import greedy, read, step

__all__ = ["copied", "retrieval_scores"]

_KEY = "top.indices"


@implements("retrieval-heads", basis="paper")
def retrieval_scores(
    model: nn.Module,
    tokenizer: Any,
    *,
    n: int = 24,
    seed: int = 0,
    length: int | Sequence[int] = (256, 384, 512),
    mode: str = "generate",
    items: Sequence[Item] | None = None,
    region: str = "evidence",
    only_right: bool = True,
    max_new_tokens: int = 24,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Retrieval scores: the share of a needle's tokens that a head copies into the answer.

    While the model generates, a head *copies* token ``w`` from position ``j`` if ``w`` is what is
    generated, position ``j`` is the head's most attended one, it lies in the needle and holds
    ``w``. With ``g`` the positions copied and ``k`` those of the needle, the score of an item is
    ``|g ∩ k| / |k|``; it is averaged over the items whose answer is right.

    Parameters
    ----------
    n : int
        Needle prompts, depths spread evenly.
    seed : int
    length : int or sequence of int
        Tokens of a prompt; the items go round them.
    mode : {"generate", "forced"}
        ``"generate"``: the model answers freely, one token a forward, as in the paper.
        ``"forced"``: the needle is put into its mouth in one forward; a token counts where the
        model would have said it.
    items : sequence of Item, optional
        Your own instead of needles; ``n``, ``seed`` and ``length`` have no effect then.
    region : str
        The items' region that is to be copied.
    only_right : bool
        Count only items that are answered rightly (``"forced"``: more than half of the needle's
        tokens are predicted).
    max_new_tokens, batch_size : int
    progress : callable, optional
        Called with the number of items just done.

    Returns
    -------
    Tensor, dict
        ``[layers, heads]`` in [0, 1]; ``{"items": asked, "right": counted}``.

    Raises
    ------
    FoveateError
        If no item is answered rightly: there is nothing to see the heads retrieve.

    Notes
    -----
    Wu et al., "Retrieval Head Mechanistically Explains Long-Context Factuality" (2024), section 2;
    heads above 0.1 are called retrieval heads there. As in the official code the prompt but its
    last token is read without measuring; items with a wrong answer do not count (there: Rouge-1
    recall of at most 50). That code adds up hits, so that a needle said twice may score above 1;
    the paper's set, used here, cannot. Tokens are compared by id: a word at the very beginning of
    an answer often has another id than after a space.

    Memory is linear in the length: the most attended key of each generated token alone is kept.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> found = fv.find_heads(model, tokenizer, "retrieval", mode="forced", n=4, length=160)
    >>> found.top(5)  # HeadScores of retrieval_scores; heads=found.top(5) goes into any method
    """
    if mode not in ("generate", "forced"):
        raise FoveateError(f'mode={mode!r} was given; it is "generate" or "forced".')
    asked = _needles(n, seed, length, tokenizer) if items is None else list(items)
    total: Tensor | None = None
    counted = 0
    for batch, prompt in prompts(asked, tokenizer, batch_size):
        needle = prompt.regions.get(region)
        if needle is None or not bool(needle.any(1).all()):
            raise FoveateError(
                f"retrieval_scores copies out of region {region!r}, which not every item marks; "
                f"item {batch[0].id!r} marks: {', '.join(batch[0].marks) or 'nothing'}."
            )
        if mode == "generate":
            said, looked = _generate(model, prompt, max_new_tokens)
            replies = [tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in said]
            right = [item.right(reply) for item, reply in zip(batch, replies, strict=True)]
        else:
            said, looked = _force(model, prompt, needle)
            right = ((said >= 0).sum(1) > needle.cpu().sum(1) / 2).tolist()
        scores = copied(looked, said, prompt.inputs["input_ids"].cpu(), needle.cpu())
        keep = torch.tensor(right) if only_right else torch.ones(len(batch), dtype=torch.bool)
        part = scores[keep].sum(0)
        total = part if total is None else total + part
        counted += int(keep.sum())
        if progress is not None:
            progress(len(batch))
    if total is None or not counted:
        raise FoveateError(
            f"None of the {len(asked)} items was answered rightly, so no head is seen to retrieve: "
            "take a shorter length=, or items= that this model can answer."
        )
    return total / counted, {"items": len(asked), "right": counted}


def copied(looked: Tensor, said: Tensor, ids: Tensor, needle: Tensor) -> Tensor:
    """The share of each needle's tokens that each head copied.

    Parameters
    ----------
    looked : Tensor
        int64 ``[L, B, H, T]``: the most attended position when token ``t`` was chosen.
    said : Tensor
        int64 ``[B, T]``: the tokens chosen; -1 for those that do not count.
    ids : Tensor
        int64 ``[B, S]``: the prompt.
    needle : Tensor
        bool ``[B, S]``.

    Returns
    -------
    Tensor
        ``[B, L, H]``, float32 in [0, 1].
    """
    (layers, batch, heads, steps), length = looked.shape, ids.shape[1]
    at = looked.permute(1, 0, 2, 3).reshape(batch, -1)  # (B, L·H·T)
    inside = (at >= 0) & (at < length)  # what was generated lies behind the prompt
    at = at.clamp(0, length - 1)
    inside &= needle.gather(1, at)
    inside &= ids.gather(1, at) == said[:, None].expand(-1, layers * heads, -1).reshape(batch, -1)
    hit = torch.zeros(batch, layers * heads, length)
    hit.scatter_reduce_(
        2, at.view(batch, -1, steps), inside.float().view(batch, -1, steps), reduce="amax"
    )
    shares = hit.sum(2) / needle.sum(1, keepdim=True).clamp(min=1)
    return shares.view(batch, layers, heads)


def _needles(n: int, seed: int, length: int | Sequence[int], tokenizer: Any) -> list[Item]:
    """``n`` needle prompts that go round the lengths, shortest first within a batch or not."""
    lengths = [length] if isinstance(length, int) else list(length)
    if not lengths or isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise FoveateError(f"n={n!r}, length={length!r} was given; at least one item was wanted.")
    made = [Needle(n=n, seed=seed, length=size).items(tokenizer) for size in lengths]
    each = [made[i % len(lengths)][i] for i in range(n)]
    return sorted(each, key=lambda item: len(str(item.content)))  # batches of one length


def _generate(model: Any, prompt: Prompt, most: int) -> tuple[Tensor, Tensor]:
    """Tokens ``[B, T]`` (-1 behind the end) and the most attended positions ``[L, B, H, T]``."""
    cache = read(model, prompt)
    with attach(model, Measure(top(1))) as run:
        said = greedy(model, prompt, cache, most)
    return said, run.results[_KEY].decode[..., 0].cpu()


@torch.no_grad()
def _force(model: Any, prompt: Prompt, needle: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`_generate`, with the needle as the answer; -1 where the model would differ."""
    ids, mask = prompt.inputs["input_ids"], prompt.inputs["attention_mask"]
    cache = read(model, prompt)
    tails = [row[inside] for row, inside in zip(ids, needle, strict=True)]
    longest = max(map(len, tails))
    tail = ids.new_zeros(len(tails), longest)
    real = mask.new_zeros(len(tails), longest)
    for row, tokens in enumerate(tails):
        tail[row, : len(tokens)], real[row, : len(tokens)] = tokens, 1
    fed = torch.cat([ids[:, -1:], tail[:, :-1]], 1)
    with attach(model, Measure(top(1))) as run:
        output = step(model, fed, torch.cat([mask, real[:, :-1]], 1), cache)
    kept = (output.logits.argmax(-1) == tail) & real.bool()
    series = run.results[_KEY]
    looked = series.prefill if longest > 1 else series.decode
    return tail.masked_fill(~kept, -1).cpu(), looked[..., 0].cpu()
