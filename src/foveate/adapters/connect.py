"""Connect a listener to a model: every site by its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from . import generation, modules
from .dispatch import Listener, listen, switch
from .sites import Site

__all__ = ["connect"]


def connect(
    listener: Listener, model: nn.Module, sites: Sequence[Site], undo: list[Callable[[], None]]
) -> None:
    """Route the attention of ``sites`` through ``listener``.

    Parameters
    ----------
    listener : Listener
        Also the identity of the connection.
    model : torch.nn.Module
    sites : sequence of Site
        Attention sites of ``model``.
    undo : list
        Filled with the undoings, to be run last first (see :func:`.dispatch.listen`).
    """
    for site in sites:
        listen(site.module, listener, undo)
    for module in model.modules():
        if vars(module).get("_compiled_call_impl") is not None:  # module.compile()
            switch(module, "_compiled_call_impl", None, listener, undo)
        if isinstance(module, nn.TransformerEncoder):  # packs for fused layers: see modules._slow
            switch(module, "use_nested_tensor", False, listener, undo)
    for site in sites:
        if site.reach != "interface":
            modules.connect(listener, site.module, site.reach, undo)
    if any(site.reach == "interface" for site in sites):
        from . import transformers

        transformers.connect(listener, model, undo)
    generation.connect(listener, model, undo)
