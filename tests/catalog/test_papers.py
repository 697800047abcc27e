"""The catalogue: its data, the search, the computed status, the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from foveate import _implements
from foveate._implements import implements
from foveate.catalog import (
    Paper,
    Papers,
    command,
    paper,
    papers,
    read_evidence,
    status,
    verdicts,
)
from foveate.catalog.command import papers_command, register
from foveate.catalog.store import off_topic
from foveate.errors import FoveateError

pytestmark = pytest.mark.usefixtures("words_only")

SLUG = "densediffusion"
GOOD = {
    "slug": SLUG,
    "command": f"foveate reproduce {SLUG}",
    "commit": "0123abc",
    "date": "2025-01-31",
    "seeds": [0, 1, 2],
    "baseline": {"name": "mass inside the mask", "value": 0.2},
    "method": {"name": "mass inside the mask", "value": 0.5},
    "interval": [0.1, 0.5],
    "verdict": "observed",
}
ORACLE_ONLY = {"verdict": "oracle only", "baseline": None, "method": None, "interval": None}


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the shipped evidence."""
    monkeypatch.setattr(verdicts, "EVIDENCE", tmp_path)
    return tmp_path


@pytest.fixture
def register_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No object implements anything, and no room is imported."""
    monkeypatch.setattr(_implements, "_REGISTRY", {})
    monkeypatch.setattr(status, "import_rooms", tuple)


def write(folder: Path, **changes: Any) -> None:
    (folder / f"{SLUG}.json").write_text(json.dumps({**GOOD, **changes}), encoding="utf-8")


def ship(name: str, module: str = "foveate.methods.made_up", **words: Any) -> None:
    """Define a class as if foveate shipped it."""
    made = type(name, (), {"__module__": module})
    implements(SLUG, **{"basis": "paper", **words})(made)


# --- the data


def test_there_are_308_papers_each_with_its_own_slug_and_title() -> None:
    rows = papers()
    assert len(rows) == 308
    assert len({row.slug for row in rows}) == len({row.title for row in rows}) == 308
    assert len({row.slug.replace("-", "_") for row in rows}) == 308  # names of test modules


def test_every_field_is_filled() -> None:
    for row in papers():
        texts = (row.slug, row.title, row.name, row.area, row.needs, row.does, row.claim, row.check)
        assert all(text and text == text.strip() for text in texts), row.slug
        assert row.tier in (1, 2, 3)
        assert row.year is None or 2010 < row.year < 2030
        assert row.stage and all(row.stage)
        assert row.status in status.STATUSES


def test_off_topic_papers_exist_and_say_why() -> None:
    assert set(off_topic()) <= {row.slug for row in papers()}
    for row in papers(status="off topic"):
        assert row.note == off_topic()[row.slug]


def test_every_room_can_be_imported_here() -> None:
    assert status.import_rooms() == ()


# --- search


def test_a_title_name_or_slug_finds_its_paper_first() -> None:
    for row in papers():
        for words in (row.title, row.name, row.slug):
            assert papers(words, limit=1)[0].slug == row.slug


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        ("attention sink survey", "attention-sink-survey"),
        ("retrieval head", "retrieval-heads"),  # stemmed
        ("HILO", "hilo-attention"),  # any case
        ("evict lazily", "lazyeviction"),  # the beginning of a word
        ("dense captions diffusion masks", "densediffusion"),
    ],
)
def test_words_find_what_they_name(words: str, slug: str) -> None:
    assert slug in [row.slug for row in papers(words, limit=3)]


def test_words_that_do_not_occur_find_nothing() -> None:
    found = papers("qqqzzz")
    assert found == [] and isinstance(found, Papers)


@pytest.mark.parametrize("words", ['"', "a NEAR b", "head OR", "title:x", "sink*", "(", "é", "的"])
def test_operators_of_the_query_language_are_only_words(words: str) -> None:
    try:
        papers(words)
    except FoveateError as error:
        assert "no letter and no digit" in str(error)


def test_stop_words_alone_are_still_searched() -> None:
    assert papers("what is this")


# --- filters


def test_filters_narrow_together() -> None:
    rows = papers(area="sparse", tier=1, needs="causal-lm", year=2025)
    assert rows
    assert {(r.area, r.tier, r.needs, r.year) for r in rows} == {("sparse", 1, "causal-lm", 2025)}
    found = papers("sparse", area="sparse", limit=3)
    assert len(found) == 3 and {row.area for row in found} == {"sparse"}


def test_no_paper_of_that_year() -> None:
    assert papers(year=1999) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"area": "sparce"}, "area='sparce' is unknown; it is one of application, benchmark"),
        ({"needs": "gpu"}, "needs='gpu' is unknown; it is one of causal-lm, cnn"),
        ({"status": "done"}, "it is one of works, partial, catalogue only, off topic"),
        ({"tier": 4}, "tier=4 is unknown; it is one of 1, 2, 3"),
        ({"year": "2024"}, "year='2024' must be a whole number"),
        ({"limit": 0}, "limit=0 must be a whole number of at least 1"),
        ({"limit": True}, "limit=True must be a whole number"),
        ({"words": ""}, "holds no letter and no digit"),
        ({"words": "?!"}, "holds no letter and no digit"),
        ({"words": 7}, "words=7 must be text"),
    ],
)
def test_bad_input_is_refused_with_the_possible_values(
    wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(FoveateError) as caught:
        papers(**wrong)
    assert sentence in str(caught.value)


def test_one_paper_and_a_slug_that_is_nearly_right() -> None:
    assert paper(SLUG).name == "DenseDiffusion"
    with pytest.raises(FoveateError, match=r"no paper 'densedifusion'; did you mean densediff"):
        paper("densedifusion")
    with pytest.raises(FoveateError, match="searches it"):
        paper("")


# --- status


@pytest.mark.usefixtures("register_empty")
def test_status_follows_from_code_and_evidence(evidence: Path) -> None:
    assert paper(SLUG).status == "catalogue only"
    write(evidence)
    assert paper(SLUG).status == "catalogue only"  # figures of nothing
    ship("Modulate")
    row = paper(SLUG)
    assert (row.status, row.basis, row.maturity) == ("works", "paper", "experimental")
    assert row.implements == ("foveate.methods.made_up.Modulate",)
    assert row.evidence == str(evidence / f"{SLUG}.json")
    assert [found.slug for found in papers(status="works")] == [SLUG]
    (evidence / f"{SLUG}.json").unlink()
    row = paper(SLUG)
    assert (row.status, row.evidence) == ("partial", None)


@pytest.mark.usefixtures("register_empty", "evidence")
@pytest.mark.parametrize(
    ("name", "module"),
    [("Mine", "my_package.methods"), ("Mine", "foveate.methods._draft"), ("_Mine", "foveate.find")],
)
def test_only_public_objects_of_foveate_count(name: str, module: str) -> None:
    ship(name, module)
    assert paper(SLUG).status == "catalogue only"


@pytest.mark.usefixtures("register_empty", "evidence")
def test_a_row_promises_no_more_than_its_weakest_object() -> None:
    ship("A", basis="paper", maturity="stable")
    assert (paper(SLUG).basis, paper(SLUG).maturity) == ("paper", "stable")
    ship("B", basis="abstract", maturity="stable")
    ship("C", basis="paper", maturity="experimental")
    row = paper(SLUG)
    assert (row.basis, row.maturity) == ("abstract", "experimental")
    assert [name[-1] for name in row.implements] == ["A", "B", "C"]


@pytest.mark.usefixtures("register_empty")
def test_evidence_that_is_not_valid_does_not_count_and_is_told(evidence: Path) -> None:
    ship("Modulate")
    write(evidence, verdict="splendid")
    row = paper(SLUG)
    assert row.status == "partial"
    assert row.note is not None and "'verdict' must be one of" in row.note


@pytest.mark.usefixtures("register_empty")
def test_an_implementation_overrules_off_topic(evidence: Path) -> None:
    assert status.status_of(SLUG, "about lenses") == status.Status("off topic", note="about lenses")
    ship("Modulate")
    assert status.status_of(SLUG, "about lenses").status == "partial"


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``foveate.made_up_room`` to be walked, and nothing else."""
    import foveate

    room = tmp_path / "made_up_room"
    (room / "inner").mkdir(parents=True)
    for package in (room, room / "inner"):
        (package / "__init__.py").touch()
    monkeypatch.setattr(foveate, "__path__", [*foveate.__path__, str(tmp_path)])
    monkeypatch.setattr(status, "ROOMS", ("made_up_room", "there_is_no_such_room"))
    monkeypatch.setattr(_implements, "_REGISTRY", {})
    status.import_rooms.cache_clear()
    yield room
    status.import_rooms.cache_clear()
    for name in [name for name in sys.modules if name.startswith("foveate.made_up_room")]:
        del sys.modules[name]
    vars(foveate).pop("made_up_room", None)


def test_rooms_are_walked_and_a_module_that_cannot_be_imported_is_told(
    rooms: Path, evidence: Path
) -> None:
    source = f"""
from foveate._implements import implements

@implements({SLUG!r}, basis="paper")
class Modulate: ...
"""
    (rooms / "inner" / "deep.py").write_text(source, encoding="utf-8")
    (rooms / "broken.py").write_text("import there_is_no_such_extra", encoding="utf-8")
    (rooms / "worse").mkdir()
    (rooms / "worse" / "__init__.py").write_text("raise OSError('no driver')", encoding="utf-8")

    row = paper(SLUG)
    assert row.implements == ("foveate.made_up_room.inner.deep.Modulate",)
    assert row.note is not None
    assert "foveate.made_up_room.broken could not be imported" in row.note
    assert "there_is_no_such_extra" in row.note
    assert row.note.count("no driver") == 1
    assert len(papers()) == 308


def test_a_room_that_cannot_be_imported_at_all(rooms: Path) -> None:
    (rooms / "__init__.py").write_text("import there_is_no_such_extra", encoding="utf-8")
    assert "foveate.made_up_room could not be imported" in (paper(SLUG).note or "")


# --- evidence


def test_evidence_is_read(evidence: Path) -> None:
    assert read_evidence(SLUG) is None
    write(evidence)
    found = read_evidence(SLUG)
    assert found is not None
    assert (found.seeds, found.interval, found.verdict) == ((0, 1, 2), (0.1, 0.5), "observed")


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "not observed", "interval": [-0.1, 0.2]},
        {"verdict": "not observed", "interval": [-0.3, -0.2]},
        {"verdict": "observed", "interval": [-3, -1]},  # less is better in some claims
        ORACLE_ONLY,
    ],
)
def test_other_verdicts(evidence: Path, changes: dict[str, Any]) -> None:
    write(evidence, **changes)
    found = read_evidence(SLUG)
    assert found is not None and found.verdict == changes["verdict"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"slug": "other"}, "'slug' must be 'densediffusion'"),
        ({"command": "  "}, "'command' must be what was typed"),
        ({"commit": "main"}, "'commit' must be"),
        ({"date": "31.1.2025"}, "'date' must be a day"),
        ({"date": "2025-02-30"}, "'date' must be a day"),
        ({"seeds": []}, "'seeds' must be a list of at least one"),
        ({"seeds": 0}, "'seeds' must be a list"),
        ({"seeds": [True]}, "'seeds' must be a list"),
        ({"verdict": True}, "'verdict' must be one of observed, not observed, oracle only"),
        ({"baseline": 0.2}, "'baseline' must be"),
        ({"method": {"name": "x", "value": float("nan")}}, "'method' must be"),
        ({"interval": None}, "'interval' must be two finite numbers"),
        ({"interval": [0.1]}, "'interval' must be two finite numbers"),
        ({"interval": [0.5, 0.1]}, "lower end first"),
        ({"interval": [-0.1, 0.5]}, "holds 0"),
        ({"verdict": "oracle only"}, "goes without figures"),
        ({"colour": "red"}, r"unknown fields ['colour']"),
    ],
)
def test_bad_evidence_is_refused_naming_the_field(
    evidence: Path, changes: dict[str, Any], sentence: str
) -> None:
    write(evidence, **changes)
    with pytest.raises(FoveateError) as caught:
        read_evidence(SLUG)
    assert sentence in str(caught.value)
    assert f"{SLUG}.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "is not JSON"), ("[]", "expected an object"), ("{}", "missing")]
)
def test_a_file_that_is_no_evidence(evidence: Path, text: str, sentence: str) -> None:
    (evidence / f"{SLUG}.json").write_text(text, encoding="utf-8")
    with pytest.raises(FoveateError, match=sentence):
        read_evidence(SLUG)


# --- how it prints


def test_a_paper_goes_into_json_and_back() -> None:
    row = paper(SLUG)
    data = json.loads(json.dumps(row.to_dict()))
    assert data["slug"] == SLUG and data["implements"] == list(row.implements)
    tuples = {field: tuple(data[field]) for field in ("stage", "implements", "authors")}
    assert Paper(**{**data, **tuples}) == row
    with pytest.raises(AttributeError):
        row.status = "works"  # type: ignore[misc]


def test_a_list_prints_as_a_short_table_and_stays_one_when_sliced() -> None:
    rows = papers()
    text = repr(rows)
    assert text.startswith("308 papers\n") and text.endswith("… and 288 more")
    assert isinstance(rows[:2], Papers) and isinstance(rows[0], Paper)
    assert repr(rows[:1]).startswith("1 paper\n")
    assert repr(rows[0]) == (
        f"Paper({SLUG!r}, 'Dense Text-to-Image Generation with Attention Modulation', 2023, "
        f"{rows[0].status!r})"
    )


def test_html_is_escaped() -> None:
    row = Paper(**{**paper(SLUG).to_dict(), "title": "<script>&"})
    html = Papers([row])._repr_html_()
    assert "&lt;script&gt;&amp;" in html and "<script>" not in html
    assert html.count("<tr>") == 2


# --- the command


@pytest.fixture
def run() -> Any:
    app = typer.Typer()
    register(app)

    @app.command()
    def other() -> None: ...  # with one command typer would drop its name

    runner = CliRunner()
    return lambda *args: runner.invoke(app, ["papers", *args], env={"COLUMNS": "120"})


def test_json_holds_every_row_with_its_status(run: Any) -> None:
    result = run("--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert len(rows) == 308
    wanted = {"slug", "status", "basis", "maturity", "implements", "evidence", "title", "year"}
    assert all(wanted <= set(row) for row in rows)
    assert rows == [row.to_dict() for row in papers()]


def test_json_of_a_search_is_complete_and_of_a_slug_one_row(run: Any) -> None:
    rows = json.loads(run("attention", "sinks", "--json").stdout)
    assert [row["slug"] for row in rows] == [row.slug for row in papers("attention sinks")]
    assert [row["slug"] for row in json.loads(run(SLUG, "--json").stdout)] == [SLUG]


def test_a_search_prints_the_best_twenty_unless_told(run: Any) -> None:
    result = run("attention", "sinks")
    assert result.exit_code == 0
    assert "attention-sink-survey" in result.stdout
    assert "the best 20 of" in result.stdout
    assert "3 papers" in run("attention", "sinks", "--limit", "3").stdout
    assert "308 papers" in run().stdout


def test_slugs_are_never_broken_and_brackets_are_text(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    papers_command()
    shown = capsys.readouterr().out
    assert all(row.slug in shown for row in papers())
    row = Paper(**{**paper(SLUG).to_dict(), "name": "A [red]map[/red]", "does": "[/] it"})
    monkeypatch.setattr(command, "papers", lambda *_, **__: Papers([row]))
    papers_command("maps")
    papers_command(SLUG)
    shown = " ".join(capsys.readouterr().out.split())
    assert "A [red]map[/red]: [/] it" in shown and "computes [/] it" in shown


def test_the_table_tells_what_could_not_be_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "import_rooms", lambda: ("foveate.x could not be imported.",))
    papers_command("attention", limit=1)
    assert "foveate.x could not be imported." in capsys.readouterr().out


def test_one_paper_in_full(run: Any) -> None:
    result = run(SLUG)
    assert result.exit_code == 0
    assert "Dense Text-to-Image Generation with Attention Modulation" in result.stdout
    shown = " ".join(result.stdout.split())
    assert "lambda_t=0 logits are untouched" in shown
    assert "steer-diffusion" in shown


def test_filters_reach_the_list(run: Any) -> None:
    args = ("--area", "sparse", "--tier", "1", "--year", "2025", "--needs", "causal-lm")
    rows = json.loads(run(*args, "--status", "catalogue only", "--limit", "2", "--json").stdout)
    assert 0 < len(rows) <= 2
    assert all((r["area"], r["tier"], r["year"]) == ("sparse", 1, 2025) for r in rows)


def test_nothing_matches(run: Any) -> None:
    result = run("qqqzzz", "--area", "sparse")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "nothing matches 'qqqzzz', area='sparse'"
    assert json.loads(run("qqqzzz", "--json").stdout) == []
    assert run("qqqzzz", "--json").exit_code == 1


def test_an_unknown_value_is_one_sentence(run: Any) -> None:
    result = run("--status", "done")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: status='done' is unknown; it is one of works, partial, catalogue only, off topic\n"
    )
    with pytest.raises(FoveateError):
        papers_command(area="nowhere")
