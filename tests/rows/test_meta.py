"""A paper counts as working only if its oracle can tell it from doing nothing.

What a row's test module ``tests/rows/test_SLUG.py`` (hyphens as underscores) exposes:

``check(make)``
    Builds the thing with ``make`` and asserts that it is what the paper says: against an
    independent formula, or where the method must equal something known.
``baseline``
    A ``make`` for plain attention, or for doing nothing. ``check(baseline)`` must fail.
``test_...``
    At least one test, which calls ``check`` with the real thing.
"""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import pytest

from foveate._implements import implementations
from foveate.catalog import Paper, papers, read_evidence
from foveate.catalog.store import off_topic
from foveate.catalog.verdicts import EVIDENCE

ROWS = Path(__file__).parent
MODULES = sorted(path for path in ROWS.glob("test_*.py") if path != Path(__file__))
CATALOGUE = papers()


def row_path(slug: str, rows: Path = ROWS) -> Path:
    return rows / f"test_{slug.replace('-', '_')}.py"


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"rows_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fault(path: Path) -> str | None:
    """Say why a row's test module proves nothing, or None if it does."""
    if not path.is_file():
        return f"{path.name} does not exist: nothing checks this row"
    module = load(path)
    for name in ("check", "baseline"):
        if not callable(getattr(module, name, None)):
            return f"{path.name} must expose {name}, a callable"
    if not any(name.startswith("test") and callable(obj) for name, obj in vars(module).items()):
        return f"{path.name} has no test that calls check with the real thing"
    try:
        module.check(module.baseline)
    except AssertionError:
        return None
    except Exception as error:  # whatever a broken check raises, it has compared nothing
        return f"{path.name}: check crashed on the baseline instead of failing: {error!r}"
    return f"{path.name}: check passes with the baseline, so it cannot tell the method from it"


def missing(catalogue: list[Paper], rows: Path = ROWS) -> list[str]:
    """Working rows without a test module of their own."""
    working = [p.slug for p in catalogue if p.status == "works"]
    return [slug for slug in working if not row_path(slug, rows).is_file()]


# --- the rows there are


def test_every_working_row_has_its_oracle() -> None:
    assert missing(CATALOGUE) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_oracle_discriminates(path: Path) -> None:
    assert path in {row_path(p.slug) for p in CATALOGUE}, f"{path.name} belongs to no paper"
    assert fault(path) is None


def test_evidence_is_valid_and_of_papers_that_are_implemented() -> None:
    known = {p.slug: p for p in CATALOGUE}
    for path in EVIDENCE.glob("*"):
        assert path.suffix == ".json" and path.stem in known, f"{path.name} belongs to no paper"
        evidence, row = read_evidence(path.stem), known[path.stem]
        assert row.implements, f"{path.name}: nothing implements {path.stem}"
        assert evidence is not None
        if evidence.verdict == "oracle only":
            assert row.tier == 3, f"{path.name}: only tier 3 may have an oracle alone"


def test_what_is_implemented_is_in_the_catalogue_and_on_topic() -> None:
    on_topic = {p.slug for p in CATALOGUE} - set(off_topic())
    for slug, records in implementations().items():
        ours = [record.dotted for record in records if record.module.startswith("foveate.")]
        assert not ours or slug in on_topic, f"{ours} implement {slug!r}: unknown or off topic"


# --- the machinery itself: it must find a row that proves nothing

SCALE = """
import torch

def check(make):
    x = torch.arange(3.0)
    {line}

def baseline():
    return lambda x: x

def test_it():
    check(lambda: lambda x: 2 * x)
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "test_made_up.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_that_discriminates_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, SCALE.format(line="assert torch.equal(make()(x), 2 * x)"))
    assert fault(path) is None
    load(path).test_it()


def test_a_row_that_only_looks_at_shapes_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, SCALE.format(line="assert make()(x).shape == x.shape"))
    load(path).test_it()
    assert "cannot tell the method from it" in (fault(path) or "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (SCALE.format(line="make().there_is_no_such_thing"), "crashed on the baseline"),
        ("def check(make): assert False\ndef test_it(): ...", "must expose baseline"),
        ("def baseline(): ...\ndef test_it(): ...", "must expose check"),
        ("def check(make): assert False\ndef baseline(): ...", "has no test"),
    ],
)
def test_a_row_that_breaks_the_contract_is_found(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in (fault(write(tmp_path, text)) or "")


def test_a_working_row_without_its_module_is_found(tmp_path: Path) -> None:
    fields = {**CATALOGUE[0].to_dict(), "slug": "made-up", "status": "works"}
    row = Paper(**fields)
    assert missing([row], tmp_path) == ["made-up"]
    assert "does not exist" in (fault(row_path("made-up", tmp_path)) or "")
    write(tmp_path, SCALE.format(line="assert False"))
    assert missing([row], tmp_path) == []
