"""The four tabs: what stands in each, and what happens when its buttons are pressed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..catalog.search import notes
from ..catalog.status import STATUSES
from . import compare, look, papers, steer
from .frame import status
from .parts import PIECE, asset, buttons, prompt_box, quiet, selection, tell, with_mark
from .session import Desk, Session, fault
from .ways import WAYS, way_for

__all__ = ["compare_tab", "look_tab", "papers_tab", "steer_tab"]


def look_tab(gr: Any, desk: Desk, session: Any) -> None:
    with gr.Row():
        with gr.Column(scale=3):
            text, form = prompt_box(gr, desk, "look")
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
    go, said = buttons(gr, "look", "Look", session)
    report = gr.HTML(elem_id="look-report")
    # the report's own page says which token was chosen; the answer goes back the same way
    asked = gr.HTML(
        "", elem_id="look-asked", html_template="<span hidden>${value}</span>",
        js_on_load=asset("ask.js"), visible="hidden",
    )  # fmt: skip

    mark.click(
        with_mark, [marked, text], [marked, said], js=f"(marks) => [marks, {selection('look')}]",
        queue=False, api_visibility="private",
    )  # fmt: skip

    def looking(
        own: Session, text: str, form: str, marked: str, ablation: bool
    ) -> Iterator[list[Any]]:
        yield from tell(
            desk, own, lambda: look.look(desk, own, text, form, marked, ablation), gr.skip
        )

    def around(own: Session, event: Any) -> Iterator[list[Any]]:
        token = getattr(event, "token", None)
        yield from tell(desk, own, lambda: look.around(desk, own, token), gr.skip)

    around.__annotations__["event"] = gr.EventData  # what tells gradio to hand it over
    go.click(looking, [session, text, form, marked, ablation], [said, report], **quiet("look"))
    asked.input(around, session, [said, asked], **quiet("around"))


def steer_tab(gr: Any, desk: Desk, session: Any) -> Any:
    first = WAYS["Emphasize"]
    assert first.strength is not None
    with gr.Row():
        with gr.Column(scale=3):
            text, form = prompt_box(gr, desk, "steer")
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
                    label="Layers",
                    placeholder="all, or 3-10,12",
                    min_width=120,
                    elem_id="steer-layers",
                )
                heads = gr.Textbox(label="Heads", placeholder="all, or 5.0,7.3", min_width=120)
            new = gr.Slider(1, steer.MOST_NEW, 24, step=1, label="Longest answer, in tokens")
            ablation = gr.Checkbox(True, label="Did it matter? Hide the piece, too")
    go, said = buttons(gr, "steer", "Steer", session)
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
        told = tell(desk, own, lambda: steer.steer(desk, *given), gr.skip)
        for line, value in told:
            shown = value if isinstance(value, steer.Steered) else (value, value)
            yield [line, *shown]

    text.select(None, None, piece, js=f"() => {selection('steer')}", api_visibility="private")
    way.change(described, way, [way, strength, piece], queue=False, api_visibility="private")
    given = [session, text, form, piece, way, strength, layers, heads, new, ablation]
    go.click(steering, given, [said, answers, report], **quiet("steer"))
    return way


def compare_tab(gr: Any, desk: Desk, session: Any) -> None:
    offered = list(compare.offered(desk))
    with gr.Row():
        with gr.Column():
            methods = gr.CheckboxGroup(
                offered, value=offered[:1] + offered[len(compare.METHODS) :], label="Methods",
                info="Each is compared with the model as it is (dense).", elem_id="compare-methods",
            )  # fmt: skip
            own = gr.Textbox(
                label="Your own, one on a line",
                placeholder="Emphasize(evidence, gain=3, layers=[10, 11, 12])",
                lines=2,
            )
        with gr.Column():
            tasks = gr.CheckboxGroup(
                list(compare.TASKS), value=list(compare.TASKS)[:1], label="Tasks",
                elem_id="compare-tasks",
            )  # fmt: skip
            n = gr.Slider(2, compare.MOST_ITEMS, 8, step=1, label="Items of every task")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    go, said = buttons(gr, "compare", "Compare", session)
    table = gr.HTML(elem_id="compare-table")

    def comparing(own_session: Session, *given: Any) -> Iterator[list[Any]]:
        told = tell(desk, own_session, lambda: compare.compare(desk, *given), gr.skip)
        for line, value in told:
            yield [line, value if isinstance(value, dict) else compare.shown(value)]

    go.click(comparing, [session, methods, own, tasks, n, seed], [said, table], **quiet("compare"))


def papers_tab(gr: Any, tabs: Any, way: Any) -> None:
    narrow = {"min_width": 120, "filterable": False}
    with gr.Row():
        words = gr.Textbox(
            label="What are you looking for?",
            placeholder="reduce hallucination of vision models without training",
            scale=4,
            elem_id="papers-words",
        )
        state = gr.Dropdown(["any", *STATUSES], value="any", label="Status", **narrow)
        needs = gr.Dropdown(["any", *papers.NEEDS], value="any", label="Needs", **narrow)
        year = gr.Textbox("", label="Year", min_width=80, placeholder="any")
    go = gr.Button("Search", variant="primary", elem_id="papers-go")
    said = gr.HTML(elem_id="papers-status")
    with gr.Row():
        with gr.Column(scale=2):
            rows = gr.Radio([], label="Papers", visible=False, elem_id="papers-rows")
        with gr.Column(scale=3, elem_id="papers-read"):
            attempt = gr.Button("Try it", visible=False, elem_id="papers-try")
            card = gr.HTML(elem_id="papers-card")

    def search(words: str, state: str, needs: str, year: str) -> list[Any]:
        try:
            pairs = papers.found(words, state, needs, year)
        except Exception as error:
            nothing = gr.update(choices=[], value=None, visible=False)
            return [status(str(fault(error)), "bad"), nothing, "", gr.update(visible=False)]
        count = f"{len(pairs)} papers"
        if len(pairs) == papers.SHOWN:
            count = f"The {'best' if words.strip() else 'first'} {count}"
        line = f"{count}." if pairs else "Nothing fits; try fewer words, or another status or year."
        if words.strip():
            line = " ".join([line, *(f"Note: {note}." for note in notes())])
        rows = gr.update(choices=pairs, value=None, visible=bool(pairs))
        return [status(line), rows, "", gr.update(visible=False)]

    def read(slug: str | None) -> list[Any]:
        if not slug:
            return [gr.skip(), gr.update(visible=False), ""]
        name = way_for(slug)
        try:
            shown = papers.card(slug)
        except Exception as error:
            return [status(str(fault(error)), "bad"), gr.update(visible=False), ""]
        return [gr.skip(), gr.update(visible=name is not None, value=f"Try it: {name}"), shown]

    def take(slug: str) -> list[Any]:
        return [gr.update(selected="steer"), gr.update(value=way_for(slug))]

    for event in (go.click, words.submit):
        event(search, [words, state, needs, year], [said, rows, card, attempt], **quiet("papers"))
    rows.change(read, rows, [said, attempt, card], **quiet("card"))
    attempt.click(take, rows, [tabs, way], queue=False, api_visibility="private")
