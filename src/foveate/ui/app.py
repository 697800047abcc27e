"""The page: four tabs around one model."""

from __future__ import annotations

import os
from html import escape
from typing import Any

from ..errors import FoveateError
from .session import Desk, Session
from .tabs import compare_tab, look_tab, papers_tab, steer_tab

__all__ = ["build", "gradio"]


def gradio() -> Any:
    """The module gradio, told not to report home.

    Raises
    ------
    FoveateError
        Where it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as error:
        raise FoveateError(
            "The page needs gradio, which is not installed: pip install 'foveate[ui]'."
        ) from error
    return gr


def build(model: Any, tokenizer: Any, name: str = "smollm2", policy: Any = None) -> Any:
    """The page of one model.

    Parameters
    ----------
    model, tokenizer
        A causal language model.
    name : str
        What to call it.
    policy : Policy, optional
        One more of the methods to compare.

    Returns
    -------
    gradio.Blocks
        :func:`foveate.ui.serve` shows it.

    Raises
    ------
    FoveateError
        Without gradio (the extra ``ui``).
    """
    gr = gradio()
    desk = Desk(model, tokenizer, name, policy)
    with gr.Blocks(title="foveate", analytics_enabled=False) as page:
        session = gr.State(Session())
        size = f"{desk.calls} attention layers"
        gr.HTML(
            f'<header class="fv-head"><b>foveate</b> <span>{escape(name)} · {size}</span></header>'
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Look", id="look"):
                look_tab(gr, desk, session)
            with gr.Tab("Steer", id="steer"):
                way = steer_tab(gr, desk, session)
            with gr.Tab("Compare", id="compare"):
                compare_tab(gr, desk, session)
            with gr.Tab("Papers", id="papers"):
                papers_tab(gr, tabs, way)
    page.queue(max_size=64, default_concurrency_limit=None)
    return page
