"""The parts of a vision transformer that hold its tokens: where they come in, blocks, neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...adapters.sites import Site
from ...errors import FoveateError
from ..residual import block_of

__all__ = ["Tower"]

ENTRIES = ("embeddings", "pos_drop")  # of transformers, of timm: what gives the blocks' tokens
LEADING = ("cls_token", "class_embedding", "distillation_token", "register_tokens")


@dataclass(frozen=True, eq=False)
class Tower:
    """A vision transformer inside a model.

    Attributes
    ----------
    name : str
        The owner's address.
    owner : torch.nn.Module
        What holds the embeddings and the blocks.
    entry : torch.nn.Module
        What gives the tokens ``[B, S, dim]``, positions included.
    blocks : sequence of torch.nn.Module
    attention : sequence of torch.nn.Module
        That of each block.
    around : sequence of torch.nn.Module
        What holds the blocks, from the inside out; the owner is the last.
    """

    name: str
    owner: nn.Module
    entry: nn.Module
    blocks: Sequence[nn.Module]
    attention: Sequence[nn.Module]
    around: Sequence[nn.Module]

    @classmethod
    def of(cls, model: nn.Module, sites: Sequence[Site], who: str) -> Tower:
        """The tower that the sites belong to.

        Parameters
        ----------
        model : torch.nn.Module
        sites : sequence of Site
            Of one stack, all its layers.
        who : str
            What asks, for messages.

        Raises
        ------
        FoveateError
            Where the sites are not one attention a block of one list, or nothing around them says
            where tokens come in.
        """
        blocks = [block_of(model, site) for site in sites]
        lists = {_list_of(site.name) for site in sites}
        if len(lists) != 1 or len({id(block) for block in blocks}) != len(blocks):
            raise FoveateError(
                f"{who} needs one list of blocks that keep all tokens throughout; these are in "
                f"{', '.join(sorted(lists))}. Stages and windows (Swin) are not supported; of "
                "several towers, name one with stack=."
            )
        parts = lists.pop().split(".")
        around = []
        while parts:
            parts.pop()
            name = ".".join(parts)
            owner = model.get_submodule(name)
            around.append(owner)
            for child in ENTRIES:
                entry = getattr(owner, child, None)
                if isinstance(entry, nn.Module):
                    own = [site.module for site in sites]
                    return cls(name, owner, entry, blocks, own, around)
        raise FoveateError(
            f"{who} found no module {' or '.join(map(repr, ENTRIES))} around {sites[0].name}, so "
            "nothing says where the tokens come in: towers of transformers and timm have one."
        )

    def check_tokens(self, who: str) -> None:
        """Refuse a tower in which one more token would move the others."""
        for name, _ in (*self.owner.named_modules(), *self.owner.named_parameters()):
            last = name.rsplit(".", 1)[-1].lower()
            if any(word in last for word in ("rope", "rotary", "relative_position", "rel_pos")):
                raise FoveateError(
                    f"{who} adds a token, and {type(self.owner).__name__} has positions of tokens "
                    f"to each other ({name}): one more would stand in the wrong place."
                )

    def lead(self) -> int:
        """How many tokens stand before the patches."""
        told = getattr(self.owner, "num_prefix_tokens", None)  # timm
        if isinstance(told, int):
            return told
        tokens = [getattr(self.entry, name, None) for name in LEADING]
        return sum(
            token.shape[1] if token.dim() == 3 else 1
            for token in tokens
            if isinstance(token, Tensor)
        )

    def down(self, layer: int) -> nn.Linear:
        """The projection out of a block's MLP; what goes into it are the neurons.

        Raises
        ------
        FoveateError
            Where the block's last linear map, its attention aside, is no such thing.
        """
        block, attention = self.blocks[layer], self.attention[layer]
        inside = {id(module) for module in attention.modules()}
        maps = [
            module
            for module in block.modules()
            if isinstance(module, nn.Linear) and id(module) not in inside
        ]
        if not maps or maps[-1].out_features == maps[-1].in_features:
            raise FoveateError(
                f"{type(block).__name__} ends in no linear map out of an MLP, so its neurons are "
                "not to be found."
            )
        return maps[-1]


def _list_of(name: str) -> str:
    """The address of the list a block is in."""
    parts = name.split(".")
    while parts and not parts[-1].isdigit():
        parts.pop()
    return ".".join(parts[:-1])
