"""Cards: what stands on them is what the code and the evidence say."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import foveate
from foveate import _implements
from foveate._implements import implements
from foveate.catalog import paper, papers, read_evidence, verdicts
from foveate.catalog.cards import LABELS, Card, card, fragment, labels, markdown, page, show
from foveate.catalog.cards.figures import number
from foveate.catalog.cards.plot import svg
from foveate.catalog.command import papers_command
from foveate.catalog.verdicts import EVIDENCE, evidence_path
from foveate.errors import FoveateError
from snippets import faults

CARDS = {row.slug: card(row) for row in papers()}
IMPLEMENTED = [one for one in CARDS.values() if one.implementations]
SNIPPETS = {
    f"{one.paper.slug}:{part.name}": part.snippet
    for one in IMPLEMENTED
    for part in one.implementations
}


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the shipped evidence."""
    monkeypatch.setattr(verdicts, "EVIDENCE", tmp_path)
    return tmp_path


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A copy of what implements what, free to edit."""
    found = {slug: dict(records) for slug, records in _implements._REGISTRY.items()}
    monkeypatch.setattr(_implements, "_REGISTRY", found)
    return found


# --- what a card says


def test_the_labels_follow_from_basis_and_verdict() -> None:
    tested = card("zerotuning")
    assert tested.labels == ("faithful", "claim tested: observed")
    assert (
        card("decore").labels[0] == "faithful" and card("autopasta").labels[0] == "reconstruction"
    )
    idle = next(row for row in papers() if row.status == "catalogue only")
    assert card(idle).labels == ("catalogue only",)
    off = next(row for row in papers() if row.status == "off topic")
    assert card(off).labels == ("off topic",) and off.note in fragment(card(off)).replace(
        "&#x27;", "'"
    ).replace("&quot;", '"').replace("&amp;", "&")
    assert tested.evidence is not None
    for verdict, said in (("not observed", "claim tested: not observed"), ("oracle only", None)):
        given = dataclasses.replace(tested.evidence, verdict=verdict)
        assert labels(tested.paper, given)[1] == (said or "claim not tested")
    assert all(label in LABELS for one in CARDS.values() for label in one.labels)


def test_evidence_removed_takes_its_label_along(evidence: Path) -> None:
    found = card("zerotuning")
    assert found.labels == ("faithful", "claim not tested") and found.evidence is None
    for text in (fragment(found), markdown(found)):
        assert "not tried yet" in text and "0.93" not in text and "<svg" not in text


def test_broken_evidence_does_not_count_and_says_why(evidence: Path) -> None:
    (evidence / "zerotuning.json").write_text("{")
    found = card("zerotuning")
    assert found.labels[1] == "claim not tested"
    assert "does not count" in markdown(found) and "does not count" in fragment(found)


def test_evidence_without_an_object_is_not_shown(registry: dict[str, Any]) -> None:
    registry.pop("zerotuning")
    found = card("zerotuning")
    assert found.labels == ("catalogue only",) and found.evidence is None
    assert "Not implemented yet" in markdown(found) and "Not implemented yet" in fragment(found)


def test_an_object_renamed_is_renamed_on_the_card(registry: dict[str, Any]) -> None:
    registry.pop("zerotuning")

    class Turned:
        """Turn the first token."""

    Turned.__module__, Turned.__qualname__ = foveate.methods.act.__name__, "Turned"
    foveate.methods.act.Turned = Turned  # type: ignore[attr-defined]
    try:
        implements("zerotuning", basis="abstract")(Turned)
        found = card("zerotuning")
    finally:
        del foveate.methods.act.Turned  # type: ignore[attr-defined]
    assert found.labels[0] == "reconstruction"
    assert "foveate.methods.act.Turned" in markdown(found)
    assert "foveate.ZeroTuning" not in markdown(found)


def test_an_object_that_is_gone_fails(registry: dict[str, Any]) -> None:
    ((record, obj),) = registry["zerotuning"].values()
    registry["zerotuning"] = {
        "gone": (dataclasses.replace(record, qualname="Gone"), obj),
    }
    with pytest.raises(AttributeError, match="Gone"):
        card("zerotuning")


def test_unknown_slug() -> None:
    with pytest.raises(FoveateError, match="zerotuning"):
        card("zerotunin")


@pytest.mark.parametrize("one", IMPLEMENTED, ids=lambda one: one.paper.slug)
def test_a_card_shows_code_and_figures_in_every_form(one: Card) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    show(one, console)
    forms = {"terminal": console.export_text(), "html": page(one), "markdown": markdown(one)}
    assert one.evidence is not None and one.evidence.method is not None
    for form, text in forms.items():
        for part in one.implementations:
            assert part.name in text, form
        assert one.evidence.verdict in text and one.evidence.date in text, form
        assert number(one.evidence.method["value"]) in text, form
        for label in one.labels:
            assert label in text, form
    assert "<svg" in forms["html"] and "http" not in forms["html"].replace(
        "http://www.w3.org/2000/svg", ""
    ), "nothing is fetched"


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "piped"])
def test_code_is_neither_cropped_nor_broken(terminal: bool) -> None:
    for one in IMPLEMENTED:
        out = io.StringIO()
        show(one, Console(width=40, file=out, force_terminal=terminal, color_system=None))
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        for part in one.implementations:
            for line in (part.snippet or "").splitlines():
                assert (f"    {line}" if line.strip() else "") in lines


def test_nothing_of_a_paper_is_interpreted() -> None:
    nasty = '<script>alert("1")</script> **b** [x](javascript:y) `c` | $z$\n# h'
    row = dataclasses.replace(paper("densediffusion"), title=nasty, does=nasty, claim=nasty)
    given = Card(row, ("catalogue only",), (), None)
    for text in (fragment(given), page(given), markdown(given)):
        assert "<script" not in text
    text = markdown(given)
    assert not any(mark in text for mark in ("[x]", "`c`", "$z$", "**b**", "\n# h"))


def test_the_terminal_prints_what_looks_like_markup() -> None:
    row = dataclasses.replace(paper("densediffusion"), title="[bold]x[/bold] [/]")
    console = Console(width=100, record=True, file=io.StringIO())
    show(Card(row, ("catalogue only",), (), None), console)
    assert "[bold]x[/bold] [/]" in console.export_text()


def test_a_paper_of_the_user_s_shows_what_its_file_said() -> None:
    row = dataclasses.replace(
        paper("densediffusion"),
        does="",
        claim="",
        check="",
        abstract="It evicts.",
        authors=("A. Ant", "B. Bee"),
        comments=7,
        date="2026-03-01",
        url='https://example.org/"><b>',
    )
    given = Card(row, ("catalogue only",), (), None)
    console = Console(width=100, record=True, file=io.StringIO())
    show(given, console)
    for text in (fragment(given), markdown(given), console.export_text()):
        for part in ("It evicts.", "A. Ant, B. Bee", "7 comments", "2026-03-01", "example.org/%22"):
            assert part in text
        assert "<b>" not in text and "What it computes" not in text


def test_a_notebook_shows_the_card() -> None:
    assert paper("zerotuning")._repr_html_() == fragment(card("zerotuning"))
    assert card("zerotuning")._repr_html_() == fragment(card("zerotuning"))


def test_the_command_prints_and_writes_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert papers_command("zerotuning") == 0
    assert "claim tested: observed" in capsys.readouterr().out
    assert papers_command("zerotuning", html=tmp_path / "z.html") == 0
    assert (tmp_path / "z.html").read_text("utf-8") == page(card("zerotuning"))
    with pytest.raises(FoveateError, match="no slug"):
        papers_command("zero tuning first token", html=tmp_path / "y.html")
    with pytest.raises(FoveateError, match="cannot be written"):
        papers_command("zerotuning", html=tmp_path / "no" / "z.html")


# --- the plot


@pytest.mark.parametrize("path", sorted(EVIDENCE.glob("*.json")), ids=lambda path: path.stem)
def test_the_plot_holds_the_figures(path: Path) -> None:
    found = read_evidence(path.stem)
    assert found is not None and found.interval is not None
    drawn = svg(found)
    assert drawn is not None
    root = ET.fromstring(drawn)
    width = float(root.attrib["viewBox"].split()[2])
    circles = [float(one.attrib["cx"]) for one in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert found.baseline is not None and found.method is not None
    values = found.baseline["value"], found.method["value"]
    assert (circles[0] < circles[1]) == (values[0] < values[1])
    xs = [
        float(one.attrib[key])
        for one in root.iter("{http://www.w3.org/2000/svg}line")
        for key in ("x1", "x2")
    ]
    assert all(0 <= x <= width for x in (*circles, *xs))
    zero, low, high = _interval(root)
    assert (low > zero) == (found.interval[0] > 0) and (high < zero) == (found.interval[1] < 0)


def test_equal_values_and_a_point_interval_are_drawn() -> None:
    found = read_evidence("zerotuning")
    assert found is not None and found.baseline is not None
    same = dataclasses.replace(found, method=found.baseline, interval=(0.0, 0.0))
    assert ET.fromstring(svg(same) or "") is not None
    bare = dataclasses.replace(found, verdict="oracle only", baseline=None, interval=None)
    assert svg(bare) is None


def _interval(root: ET.Element) -> tuple[float, float, float]:
    lines = list(root.iter("{http://www.w3.org/2000/svg}line"))
    zero = next(float(one.attrib["x1"]) for one in lines if "stroke-dasharray" in one.attrib)
    bar = next(one.attrib for one in lines if one.attrib.get("stroke-width") == "7")
    return zero, float(bar["x1"]), float(bar["x2"])


# --- snippets


def test_every_snippet_ends_by_printing() -> None:
    for name, snippet in SNIPPETS.items():
        last = ast.parse(snippet or "").body[-1]
        assert (ast.get_source_segment(snippet or "", last) or "").startswith("print("), name


def test_code_in_a_summary_keeps_its_spaces() -> None:
    assert "Add `alpha` times a direction" in markdown(card("focus-directions"))


def test_every_object_has_a_snippet() -> None:
    assert SNIPPETS and not [name for name, code in SNIPPETS.items() if not code]


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_names_what_there_is(name: str) -> None:
    code = SNIPPETS[name]
    assert code is not None
    assert list(faults(code)) == []
    shown = name.rpartition(".")[2].removesuffix("_scores")  # find_heads(…, "sink") calls these
    assert shown.lower() in code.replace("_", "").lower() or shown in code, "the object is used"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import foveate as fv\nfv.Nothing()", "Nothing"),
        ("import foveate as fv\nfv.ZeroTuning(2.0, heats=[1])", "heats"),
        ("from foveate.find import nothing", "nothing"),
        ("import foveate as fv\nfv.load('smollm2', y)", "y is not defined"),
        ("import foveate as fv\nfv.load(", "was never closed"),
    ],
)
def test_a_stale_snippet_is_found(code: str, fault: str) -> None:
    assert any(fault in one for one in faults(code))


@pytest.mark.slow
@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    embedded: Any,
) -> None:
    code = SNIPPETS[name]
    assert code is not None
    monkeypatch.chdir(tmp_path)
    load = foveate.load  # the embedded model is loaded once, the small ones as they are
    monkeypatch.setattr(
        foveate, "load", lambda name="smollm2", **how: embedded if name == "smollm2" else load(name)
    )
    exec(compile(code, name, "exec"), values := {"__name__": "snippet"})
    shown = capsys.readouterr().out
    assert shown.strip()
    if name.startswith("focus-directions"):
        model, prompt = embedded[0], values["prompt"]
        ids = model.generate(**prompt.inputs, max_new_tokens=16)
        unedited = embedded[1].decode(ids[0, prompt.inputs["input_ids"].shape[1] :])
        assert "1828" in shown and "1796" in unedited
    if name.startswith("generic-attention"):
        assert repr(values["found"]).startswith("Attribution(relevance for ' the'")


@pytest.fixture(scope="module")
def embedded() -> Any:
    return foveate.load("smollm2")


# --- what is shipped


def test_evidence_files_belong_to_cards() -> None:
    for path in EVIDENCE.glob("*.json"):
        assert CARDS[path.stem].evidence is not None, f"{path.name} stands on no card"
        assert json.loads(evidence_path(path.stem).read_text("utf-8"))["slug"] == path.stem
