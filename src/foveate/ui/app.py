"""The page: four tabs around one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from html import escape
from importlib import resources
from typing import Any

from ..catalog.status import STATUSES
from ..errors import FoveateError
from . import compare, inputs, look, papers, steer
from .frame import status
from .session import Desk, Session, Stopped
from .ways import WAYS, way_for

__all__ = ["build", "gradio"]

EXAMPLE = (
    "The mill at Harlow was built in 1877 by Ann Pell. The mill at Seaton was built in 1832 by "
    "John Marsh. When was the mill at Seaton built? Answer with the year."
)
PIECE = "The mill at Seaton was built in 1832 by John Marsh."


def gradio() -> Any:
    """The module gradio, told not to report home.

    Raises
    ------
    FoveateError
        Where it is not installed.
    """
    import os

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as error:
        raise FoveateError(
            "The page needs gradio, which is not installed: pip install 'foveate[ui]'."
        ) from error
    return gr


def build(model: Any, tokenizer: Any, name: str = "smollm2") -> Any:
    """The page of one model.

    Parameters
    ----------
    model, tokenizer
        A causal language model.
    name : str
        What to call it.

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
    desk = Desk(model, tokenizer, name)
    with gr.Blocks(title="foveate", analytics_enabled=False) as page:
        session = gr.State(Session())
        size = f"{desk.calls} attention layers"
        gr.HTML(
            f'<header class="fv-head"><b>foveate</b> <span>{escape(name)} · {size}</span></header>'
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Look", id="look"):
                _look(gr, desk, session)
            with gr.Tab("Steer", id="steer"):
                way = _steer(gr, desk, session)
            with gr.Tab("Compare", id="compare"):
                _compare(gr, desk, session)
            with gr.Tab("Papers", id="papers"):
                _papers(gr, tabs, way)
    page.queue(max_size=64, default_concurrency_limit=None)
    return page


# -- the tabs --------------------------------------------------------------------------------------
def _look(gr: Any, desk: Desk, session: Any) -> None:
    picked = gr.State("")
    with gr.Row():
        with gr.Column(scale=3):
            text, form = _prompt(gr, desk, "look")
        with gr.Column(scale=2):
            marked = gr.Textbox(
                label="Marked pieces",
                info="One on a line: NAME = text. Or select text in the prompt and mark it.",
                value=f"evidence = {PIECE}",
                lines=4,
                max_lines=8,
                elem_id="look-marks",
            )
            mark = gr.Button("Mark the selected text", size="sm", elem_id="look-mark")
            ablation = gr.Checkbox(
                label="Did it matter? Hide each marked piece, too", elem_id="look-ablation"
            )
    go, said = _buttons(gr, "look", "Look", session)
    report = gr.HTML(elem_id="look-report")
    # the report's own page says which token was chosen; the answer goes back the same way
    asked = gr.HTML(
        "", elem_id="look-asked", html_template="<span hidden>${value}</span>",
        js_on_load=_asset("ask.js"), visible="hidden",
    )  # fmt: skip

    text.select(_selected(gr), None, picked, **_choosing())
    mark.click(_marked, [marked, picked], [marked, said], queue=False, api_visibility="private")

    def looking(
        own: Session, text: str, form: str, marked: str, ablation: bool
    ) -> Iterator[list[Any]]:
        yield from _tell(
            desk, own, lambda: look.look(desk, own, text, form, marked, ablation), gr.skip
        )

    def around(own: Session, event: Any) -> Iterator[list[Any]]:
        token = getattr(event, "token", None)
        yield from _tell(desk, own, lambda: look.around(desk, own, token), gr.skip)

    around.__annotations__["event"] = gr.EventData  # what tells gradio to hand it over
    go.click(looking, [session, text, form, marked, ablation], [said, report], **_quiet("look"))
    asked.input(around, session, [said, asked], **_quiet("around"))


def _steer(gr: Any, desk: Desk, session: Any) -> Any:
    first = WAYS["Emphasize"]
    assert first.strength is not None
    with gr.Row():
        with gr.Column(scale=3):
            text, form = _prompt(gr, desk, "steer")
            piece = gr.Textbox(
                label="Piece",
                info="Select text in the prompt, or type a piece of it.",
                value=PIECE,
                lines=2,
                max_lines=4,
                elem_id="steer-piece",
            )
        with gr.Column(scale=2):
            way = gr.Dropdown(
                list(WAYS), value="Emphasize", label="Method", info=first.about,
                filterable=False, elem_id="steer-way",
            )  # fmt: skip
            strength = gr.Slider(
                first.strength.low, first.strength.high, first.strength.usual,
                step=first.strength.step, label=first.strength.label, elem_id="steer-strength",
            )  # fmt: skip
            with gr.Row():
                layers = gr.Textbox(
                    label="Layers", placeholder="all, or 3-10,12", min_width=120, max_length=400
                )
                heads = gr.Textbox(
                    label="Heads", placeholder="all, or 5.0,7.3", min_width=120, max_length=400
                )
            new = gr.Slider(1, steer.MOST_NEW, 24, step=1, label="Longest answer, in tokens")
            ablation = gr.Checkbox(True, label="Did it matter? Hide the piece, too")
    go, said = _buttons(gr, "steer", "Steer", session)
    answers = gr.HTML(elem_id="steer-answers")
    report = gr.HTML(elem_id="steer-report")

    def described(name: str) -> list[Any]:
        one = WAYS[name]
        s = one.strength
        slider = gr.update(visible=False) if s is None else gr.update(
            minimum=s.low, maximum=s.high, value=s.usual, step=s.step, label=s.label, visible=True
        )  # fmt: skip
        return [gr.update(info=one.about), slider, gr.update(visible=one.piece)]

    def steering(own: Session, *given: Any) -> Iterator[list[Any]]:
        told = _tell(desk, own, lambda: steer.steer(desk, *given), gr.skip)
        for line, value in told:
            shown = value if isinstance(value, steer.Steered) else (value, value)
            yield [line, *shown]

    text.select(_selected(gr), None, piece, **_choosing())
    way.change(described, way, [way, strength, piece], queue=False, api_visibility="private")
    given = [session, text, form, piece, way, strength, layers, heads, new, ablation]
    go.click(steering, given, [said, answers, report], **_quiet("steer"))
    return way


def _compare(gr: Any, desk: Desk, session: Any) -> None:
    with gr.Row():
        with gr.Column():
            methods = gr.CheckboxGroup(
                list(compare.METHODS), value=list(compare.METHODS)[:1], label="Methods",
                info="Each is compared with the model as it is (dense).", elem_id="compare-methods",
            )  # fmt: skip
            own = gr.Textbox(
                label="Your own, one on a line",
                placeholder="Emphasize(evidence, gain=3, layers=[10, 11, 12])",
                lines=2,
                max_length=compare.MOST_CHARACTERS,
            )
        with gr.Column():
            tasks = gr.CheckboxGroup(
                list(compare.TASKS), value=list(compare.TASKS)[:1], label="Tasks",
                elem_id="compare-tasks",
            )  # fmt: skip
            n = gr.Slider(2, compare.MOST_ITEMS, 8, step=1, label="Items of every task")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    go, said = _buttons(gr, "compare", "Compare", session)
    table = gr.HTML(elem_id="compare-table")

    def comparing(own_session: Session, *given: Any) -> Iterator[list[Any]]:
        told = _tell(desk, own_session, lambda: compare.compare(desk, *given), gr.skip)
        for line, value in told:
            yield [line, value if isinstance(value, dict) else compare.shown(value)]

    go.click(comparing, [session, methods, own, tasks, n, seed], [said, table], **_quiet("compare"))


def _papers(gr: Any, tabs: Any, way: Any) -> None:
    narrow = {"min_width": 120, "filterable": False}
    with gr.Row():
        words = gr.Textbox(
            label="What are you looking for?",
            placeholder="reduce hallucination of vision models without training",
            scale=4,
            max_length=papers.MOST_WORDS,
            elem_id="papers-words",
        )
        state = gr.Dropdown(["any", *STATUSES], value="any", label="Status", **narrow)
        needs = gr.Dropdown(["any", *papers.NEEDS], value="any", label="Needs", **narrow)
        year = gr.Textbox("", label="Year", min_width=80, placeholder="any", max_length=8)
    go = gr.Button("Search", variant="primary", elem_id="papers-go")
    said = gr.HTML(elem_id="papers-status")
    with gr.Row():
        with gr.Column(scale=2):
            rows = gr.Radio([], label="Papers", visible=False, elem_id="papers-rows")
        with gr.Column(scale=3):
            attempt = gr.Button("Try it", visible=False, elem_id="papers-try")
            card = gr.HTML(elem_id="papers-card")

    def search(words: str, state: str, needs: str, year: str) -> list[Any]:
        try:
            pairs = papers.found(words, state, needs, year)
        except FoveateError as error:
            return [status(str(error), "bad"), gr.skip(), gr.skip(), gr.skip()]
        count = f"{len(pairs)} papers" if len(pairs) != papers.SHOWN else f"The best {len(pairs)}"
        line = count if pairs else "Nothing fits; try fewer words, or another status or year."
        rows = gr.update(choices=pairs, value=None, visible=bool(pairs))
        return [status(line), rows, "", gr.update(visible=False)]

    def read(slug: str | None) -> list[Any]:
        if not slug:
            return [gr.update(visible=False), ""]
        name = way_for(slug)
        return [gr.update(visible=name is not None, value=f"Try it: {name}"), papers.card(slug)]

    def take(slug: str) -> list[Any]:
        return [gr.update(selected="steer"), gr.update(value=way_for(slug))]

    for event in (go.click, words.submit):
        event(search, [words, state, needs, year], [said, rows, card, attempt], **_quiet("papers"))
    rows.change(read, rows, [attempt, card], scroll_to_output=True, **_quiet("card"))
    attempt.click(take, rows, [tabs, way], queue=False, api_visibility="private")


# -- what the tabs share ---------------------------------------------------------------------------
def _prompt(gr: Any, desk: Desk, tab: str) -> tuple[Any, Any]:
    text = gr.Textbox(
        EXAMPLE, label="Prompt", lines=6, max_lines=14, max_length=inputs.MOST_CHARACTERS,
        elem_id=f"{tab}-text",
    )  # fmt: skip
    knows_chats = getattr(desk.tokenizer, "chat_template", None)
    forms = [inputs.CHAT, inputs.PLAIN] if knows_chats else [inputs.PLAIN]
    form = gr.Radio(
        forms, value=forms[0], label="Read as",
        info="In a chat, a line that begins with system:, user: or assistant: begins a message.",
        elem_id=f"{tab}-form",
    )  # fmt: skip
    return text, form


def _buttons(gr: Any, tab: str, label: str, session: Any) -> tuple[Any, Any]:
    """The button that begins, and the line that says how far it is; Stop stops."""
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_id=f"{tab}-go", min_width=100)
        stop = gr.Button("Stop", variant="stop", elem_id=f"{tab}-stop", min_width=100)
    said = gr.HTML(elem_id=f"{tab}-status")

    def stopping(own: Session) -> Any:
        return gr.skip() if own.stop() else status("Nothing is at work.")

    stop.click(stopping, session, said, queue=False, api_visibility="private")
    return go, said


def _tell(
    desk: Desk, session: Session, prepare: Callable[[], Any], skip: Callable[[], Any]
) -> Iterator[list[Any]]:
    """Run a piece of work: a line of status and what there is to show, again and again."""
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
    except FoveateError as error:
        yield [status(str(error), "bad"), skip()]


def _quiet(name: str) -> dict[str, Any]:
    """The page shows its own progress."""
    return {"show_progress": "hidden", "api_name": name, "api_visibility": "undocumented"}


def _choosing() -> dict[str, Any]:
    """A selection is told as it grows; the last one counts."""
    return {"queue": False, "api_visibility": "private", "trigger_mode": "always_last"}


def _selected(gr: Any) -> Callable[[Any], str]:
    """What gives the text that was selected."""

    def selected(event: Any) -> str:
        return str(event.value or "")

    selected.__annotations__["event"] = gr.SelectData
    return selected


def _marked(marked: str, picked: str) -> list[str]:
    """The marks with one more; and a line that says what to do where nothing is selected."""
    if not picked.strip():
        return [marked, status("Select some text in the prompt first, then mark it.", "bad")]
    names = {line.partition("=")[0].strip() for line in marked.splitlines()}
    number = next(i for i in range(1, len(names) + 2) if f"piece {i}" not in names)
    line = f"piece {number} = " + picked.strip().replace("\n", "\\n")
    return [f"{marked.rstrip()}\n{line}".lstrip(), ""]


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")
