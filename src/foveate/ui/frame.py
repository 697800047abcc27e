"""Pieces of HTML for the page: what foveate writes for itself, and what others wrote, shut in."""

from __future__ import annotations

from html import escape

__all__ = ["figures", "frame", "status"]

# The page inside cannot be reached from outside: it says itself how high it is. Browsers do not
# observe sizes in a frame that is out of sight, so it says so at once, too.
_HEIGHT = (
    "<script>(() => { const tell = () => parent.postMessage({height: "
    "document.documentElement.getBoundingClientRect().height}, '*'); tell(); "
    "new ResizeObserver(tell).observe(document.documentElement); })()</script>"
)


def frame(document: str, title: str) -> str:
    """A whole document inside the page, in a box of its own: no origin, no forms, no way out.

    Links may open a new window.
    """
    head, body, tail = document.rpartition("</body>")
    inside = head + _HEIGHT + body + tail if body else document + _HEIGHT
    return (
        f'<iframe class="fv-frame" title="{escape(title)}" '
        'sandbox="allow-scripts allow-popups allow-popups-to-escape-sandbox" '
        f'srcdoc="{escape(inside)}"></iframe>'
    )


def status(message: str, kind: str = "") -> str:
    """One line that says what is going on; ``kind`` is empty, "busy" or "bad"."""
    if not message:
        return ""
    role = "alert" if kind == "bad" else "status"
    return f'<p class="fv-status {kind}" role="{role}">{escape(message)}</p>'


def figures(cards: list[tuple[str, str, str]]) -> str:
    """Texts side by side: (head, text, foot) of each."""
    inside = "".join(
        f"<figure><figcaption>{escape(head)}</figcaption><blockquote>{escape(text)}</blockquote>"
        f"<small>{escape(foot)}</small></figure>"
        for head, text, foot in cards
    )
    return f'<div class="fv-answers">{inside}</div>'
