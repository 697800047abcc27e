"""What mkdocs asks while it builds the site: pages that are made from the code.

- One page of the API a room, from what the room exports: nobody keeps a list by hand.
- ``CONTRIBUTING.md`` and ``CHANGELOG.md`` of the repository, which lie outside of ``docs``.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

# Page: title, and the rooms whose names it shows. What `foveate` itself exports goes to the page
# of the room where it is defined.
PAGES = {
    "operator": ("The operator", ("foveate.engine",)),
    "models": (
        "Models, prompts, attaching",
        (
            "foveate.load",
            "foveate.prompt",
            "foveate.grid",
            "foveate.pictures",
            "foveate.attach",
            "foveate.inspection",
            "foveate.check",
        ),
    ),
    "results": ("Results and reports", ("foveate.results", "foveate.report")),
    "methods": ("Methods", ("foveate.methods",)),
    "patterns": ("Patterns", ("foveate.patterns",)),
    "decoding": ("Decoding", ("foveate.decoding",)),
    "find": ("Finding", ("foveate.find",)),
    "layers": ("Layers", ("foveate.layers",)),
    "tasks": ("Tasks", ("foveate.tasks",)),
    "evaluate": ("Evaluating", ("foveate.evaluate", "foveate.statistics")),
    "advise": ("Advice and policies", ("foveate.advise", "foveate.policy")),
    "literature": ("The literature", ("foveate.catalog", "foveate.catalog.cards")),
    "errors": ("Errors", ("foveate.errors",)),
}
_ROLE = re.compile(r":(?:class|func|meth|mod|attr):<code>(~?)((?:[\w.]*\.)?(\w+))</code>")
_INNER = re.compile(r"(^```.*?^```)|^  (?=[-*] )", re.M | re.S)
_SPAN = re.compile(r"`[^`\n]+`")
_OUTSIDE = re.compile(r"\]\((?:\.\./)+(CONTRIBUTING|CHANGELOG)\.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API where the navigation leaves room for them."""
    for section in config.nav or ():
        if "API" in section:
            section["API"] = [{title: f"api/{page}.md"} for page, (title, _) in PAGES.items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {f"api/{page}.md": text for page, text in pages().items()}
    made["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to the repository's root to their copies; read Markdown as GitHub does."""
    up = "../" * page.file.src_uri.count("/")
    # GitHub wants a bar within code within a table shielded, Python-Markdown shows the shield.
    markdown = _SPAN.sub(lambda found: found[0].replace("\\|", "|"), markdown)
    # A list within a list: two blanks are enough for GitHub, Python-Markdown counts four.
    markdown = _INNER.sub(lambda found: found[1] or "    ", markdown)
    return _OUTSIDE.sub(rf"]({up}\1.md", markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Sphinx's roles in docstrings, ``:class:`~foveate.Prompt```, as the code they stand for."""
    return _ROLE.sub(lambda found: f"<code>{found[2] if found[1] == '' else found[3]}</code>", html)


def pages() -> dict[str, str]:
    """The API's pages, by name: a heading, and what mkdocstrings is to fill in."""
    found = {}
    for page, (title, _) in PAGES.items():
        entries = [f"# {title}"]
        for name, where in names()[page].items():
            entries.append(
                f"::: {where}\n    options:\n      heading: {name}\n      toc_label: {name}"
            )
        found[page] = "\n\n".join(entries) + "\n"
    return found


def names() -> dict[str, dict[str, str]]:
    """What each page shows: the name to write, and where the object is defined."""
    found: dict[str, dict[str, str]] = {page: {} for page in PAGES}
    seen: set[str] = set()

    def put(page: str, name: str, obj: object) -> None:
        if not (inspect.isclass(obj) or inspect.isfunction(obj)):
            return
        where = f"{obj.__module__}.{obj.__qualname__}"
        if where not in seen and inspect.getmodule(obj) is not None:
            seen.add(where)
            found[page][name] = where

    root = importlib.import_module("foveate")
    for name in root.__all__:
        obj = getattr(root, name)
        if not inspect.ismodule(obj):
            put(_home(obj), f"fv.{name}", obj)
    for page, (_, rooms) in PAGES.items():
        for room in rooms:
            module = importlib.import_module(room)
            for name in getattr(module, "__all__", ()):
                short = (
                    room.replace("foveate.", "fv.") if hasattr(root, room.split(".")[1]) else room
                )
                put(page, f"{short}.{name}", getattr(module, name))
    return found


def _home(obj: object) -> str:
    module = getattr(obj, "__module__", "")
    for page, (_, rooms) in PAGES.items():
        if any(module == room or module.startswith(room + ".") for room in rooms):
            return page
    raise LookupError(f"no page of the API shows {obj!r}: add its room to PAGES in {__file__}")
