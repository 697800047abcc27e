"""Show the page: on this machine, with nothing fetched from anywhere."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from ..errors import FoveateError
from .app import build, gradio
from .parts import asset

__all__ = ["launch", "listenable", "loopback", "serve"]

# The browser itself refuses to fetch from anywhere else, whatever a page or a report says.
# Frames (srcdoc) inherit this; gradio's own scripts and the report's are inline, hence the unsafe.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)

# dark enough under white text, light enough upon a dark ground
_ACCENT = {
    "color_accent": "#b3431a",
    "button_primary_background_fill": "#b3431a",
    "button_primary_background_fill_hover": "#96370f",
    "button_primary_background_fill_dark": "#b3431a",
    "button_primary_background_fill_hover_dark": "#c9521f",
    "body_text_color_subdued": "#6b655b",
    "body_text_color_subdued_dark": "#a8a398",
    "input_placeholder_color": "#6b655b",
    "input_placeholder_color_dark": "#a8a398",
}


def loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listenable(host: str, port: int | None = None) -> None:
    """Refuse what cannot be listened on; quicker than to try every port there is.

    Raises
    ------
    FoveateError
        For a host that is not this machine's, and a port that is taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host.strip("[]"), port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except (OSError, UnicodeError, OverflowError) as error:
        place = f"{host}:{port}" if port else host
        raise FoveateError(
            f"The page cannot be served at {place} ({error}); give another --port or --host."
        ) from error


def launch(page: Any, host: str = "127.0.0.1", port: int | None = None) -> tuple[Any, str]:
    """Serve a page in the background.

    Parameters
    ----------
    page : gradio.Blocks
        Of :func:`foveate.ui.build`.
    host : str
    port : int, optional
        Default: the first free one from 7860 on.

    Returns
    -------
    (gradio.Blocks, str)
        ``page.close()`` ends it; the address.

    Raises
    ------
    FoveateError
        For a host or a port that cannot be listened on.
    """
    gr = gradio()
    listenable(host, port)
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    around = [Middleware(_Policy)]
    if loopback(host):  # a page elsewhere must not reach this one under a name of its own
        names = ["localhost", "127.0.0.1", "[::1]", "::1", host]
        around.append(Middleware(TrustedHostMiddleware, allowed_hosts=names))
    fonts = ["system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
    mono = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Base(
        primary_hue="orange", neutral_hue="stone", font=fonts, font_mono=mono, radius_size="md"
    ).set(**_ACCENT)
    _, address, _ = page.launch(
        server_name=f"[{host.strip('[]')}]" if ":" in host else host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=0,
        theme=theme,
        css=asset("page.css"),
        head=f"<script>{asset('page.js')}</script>",
        app_kwargs={"middleware": around, "docs_url": None, "redoc_url": None},
    )
    return page, str(address)


def serve(
    model: Any,
    tokenizer: Any,
    name: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    policy: Any = None,
) -> tuple[Any, str]:
    """Build the page of a model and serve it in the background.

    Parameters
    ----------
    model, tokenizer, name, policy
        As :func:`foveate.ui.build` takes them.
    host, port
        As :func:`launch` takes them.

    Returns
    -------
    (gradio.Blocks, str)
        ``page.close()`` ends it; the address.

    Raises
    ------
    FoveateError
        Without gradio (the extra ``ui``), and as :func:`launch`.
    """
    return launch(build(model, tokenizer, name, policy), host, port)


class _Policy:
    """Adds the content policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)
