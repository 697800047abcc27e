"""What the tabs share: the prompt, the buttons, the line that says how far the work is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

from . import inputs
from .frame import status
from .session import Desk, Session, Stopped, fault

__all__ = [
    "EXAMPLE",
    "PIECE",
    "asset",
    "buttons",
    "prompt_box",
    "quiet",
    "selection",
    "tell",
    "with_mark",
]

EXAMPLE = (
    "The mill at Harlow was built in 1877 by Ann Pell. The mill at Seaton was built in 1832 by "
    "John Marsh. When was the mill at Seaton built? Answer with the year."
)
PIECE = "The mill at Seaton was built in 1832 by John Marsh."


def prompt_box(gr: Any, desk: Desk, tab: str) -> tuple[Any, Any]:
    """The prompt, and how it is read."""
    text = gr.Textbox(EXAMPLE, label="Prompt", lines=6, max_lines=14, elem_id=f"{tab}-text")
    knows_chats = getattr(desk.tokenizer, "chat_template", None)
    forms = [inputs.CHAT, inputs.PLAIN] if knows_chats else [inputs.PLAIN]
    form = gr.Radio(
        forms, value=forms[0], label="Read as",
        info="In a chat, a line that begins with system:, user: or assistant: begins a message.",
        elem_id=f"{tab}-form",
    )  # fmt: skip
    return text, form


def buttons(gr: Any, tab: str, label: str, session: Any) -> tuple[Any, Any]:
    """The button that begins, and the line that says how far it is; Stop stops."""
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_id=f"{tab}-go", min_width=100)
        stop = gr.Button("Stop", variant="stop", elem_id=f"{tab}-stop", min_width=100)
    said = gr.HTML(elem_id=f"{tab}-status")

    def stopping(own: Session) -> Any:
        return gr.skip() if own.stop() else status("Nothing is at work.")

    stop.click(stopping, session, said, queue=False, api_visibility="private")
    return go, said


def tell(
    desk: Desk, session: Session, prepare: Callable[[], Any], skip: Callable[[], Any]
) -> Iterator[list[Any]]:
    """Run a piece of work: a line of status and what there is to show, again and again.

    Work that fails with nothing to show gives None: what was there answers another question.
    """
    start, shown = time.perf_counter(), None
    try:
        for update in desk.run(session, prepare()):
            value = skip() if update.value is shown else update.value
            shown = update.value
            line = status(update.message, "busy")
            if not update.message:
                line = status(f"Done in {time.perf_counter() - start:.1f} s")
            yield [line, value]
    except Stopped:
        yield [status("Stopped. The model is as it was."), skip()]
    except Exception as error:
        yield [status(str(fault(error)), "bad"), None if shown is None else skip()]


def quiet(name: str) -> dict[str, Any]:
    """The page shows its own progress."""
    return {"show_progress": "hidden", "api_name": name, "api_visibility": "undocumented"}


def selection(tab: str) -> str:
    """What is selected in a tab's prompt, in the browser's own words."""
    return (
        f"((x) => x.value.slice(x.selectionStart, x.selectionEnd))"
        f"(document.querySelector('#{tab}-text textarea'))"
    )


def with_mark(marked: str, picked: str) -> list[str]:
    """The marks with one more; and a line that says what to do where nothing is selected."""
    if not picked.strip():
        return [marked, status("Select some text in the prompt first, then mark it.", "bad")]
    names = {line.partition("=")[0].strip() for line in marked.splitlines()}
    number = next(i for i in range(1, len(names) + 2) if f"piece {i}" not in names)
    line = f"piece {number} = " + picked.strip().replace("\n", "\\n")
    return [f"{marked.rstrip()}\n{line}".lstrip(), ""]


def asset(name: str) -> str:
    """A script or a style sheet of the page."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")
