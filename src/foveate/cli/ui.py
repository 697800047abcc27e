"""``foveate ui``: look and steer in a page on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from . import common
from .common import err, out


def ui(
    model: common.Model = "smollm2",
    policy: Annotated[
        Path | None,
        common.policy_option("Offer this policy among the methods of the tab Compare."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; others reach the page only if it is not loopback.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser, too.")
    ] = False,
) -> None:
    """Open a local page: look, steer, compare, and find papers."""
    from ..ui.app import gradio
    from ..ui.serve import listenable, loopback, serve

    gradio()  # before a model is loaded for nothing
    listenable(host, port)
    if not loopback(host):
        err.print(
            f"[yellow]warning:[/] the page listens on {host}: everybody who reaches this machine "
            "can use the model, and nothing is encrypted. --host 127.0.0.1 is for you alone."
        )
    held = common.read_policy(policy)
    live, tokenizer = common.load_model(model)
    held = common.for_model(held, live)
    page, address = serve(live, tokenizer, model, host, port, policy=held)
    out.print(f"The page of {model}: {address}  (Ctrl+C ends it)", soft_wrap=True)
    if open_:
        typer.launch(address)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        err.print("Ended.")
    finally:
        page.close(verbose=False)
