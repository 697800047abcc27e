"""The documentation: its links lead somewhere, its code names what there is, its site is whole."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import foveate
from snippets import faults

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)>\s]+)>?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)


def python(page: Path) -> list[str]:
    """A page's Python blocks."""
    return [code for kind, code in _CODE.findall(page.read_text("utf-8")) if kind == "python"]


def anchors(page: Path) -> set[str]:
    """What GitHub and mkdocs call the headings of a page."""
    text = _CODE.sub("", page.read_text("utf-8"))
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in _HEADING.findall(text))
    return {re.sub(r"[\s]", "-", heading) for heading in plain}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere within the repository."""
    found = []
    for link in _LINK.findall(_CODE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            found.append(link)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# One two\n[x](b.md) [y](#one-two) [z](#three) ![p](p.svg)\n```\n[c](d.md)\n```\n"
    )
    assert broken(page) == ["b.md", "#three", "p.svg"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_code_names_what_there_is(page: Path) -> None:
    assert list(faults("\n".join(python(page)), open_names=True)) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", ["concepts", *(f"guides/{p.stem}" for p in DOCS.glob("guides/*"))])
def test_a_guide_runs(
    page: str, smollm2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foveate, "load", lambda *args, **kwargs: smollm2)
    code = "\n".join(python(DOCS / f"{page}.md"))
    exec(compile(code, page, "exec"), {"__name__": "guide"})


# --- the site


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def listed(nav: Any) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in listed(entry)]


def test_every_page_stands_in_the_navigation_once() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    wanted = {page for page in there if not page.startswith("papers/")} | {"papers/index.md"}
    assert sorted(listed(config["nav"])) == sorted([*wanted, "CONTRIBUTING.md"])


def test_the_api_shows_every_public_name(hooks: ModuleType) -> None:
    shown = {where for page in hooks.names().values() for where in page.values()}
    for name in foveate.__all__:
        obj = getattr(foveate, name)
        if inspect.isclass(obj) or inspect.isfunction(obj):
            assert f"{obj.__module__}.{obj.__qualname__}" in shown, name
    for room in ("methods", "decoding", "find", "layers", "tasks", "patterns"):
        for name in getattr(foveate, room).__all__:
            obj = getattr(getattr(foveate, room), name)
            if inspect.isclass(obj) or inspect.isfunction(obj):
                assert f"{obj.__module__}.{obj.__qualname__}" in shown, f"{room}.{name}"


def test_a_name_without_a_page_is_told(hooks: ModuleType) -> None:
    with pytest.raises(LookupError, match="add its room"):
        hooks._home(type("X", (), {"__module__": "foveate.attic"}))
