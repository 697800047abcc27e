"""The tests of the literature have a store of their own, never the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from foveate.catalog import command, search
from foveate.catalog.database import Database


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store seeded with the shipped catalogue, for tests that only read."""
    path = tmp_path_factory.mktemp("store") / "papers.sqlite"
    before = os.environ.get("FOVEATE_PAPERS")
    os.environ["FOVEATE_PAPERS"] = str(path)
    yield path
    os.environ.pop("FOVEATE_PAPERS")
    if before is not None:
        os.environ["FOVEATE_PAPERS"] = before


@pytest.fixture
def store(tmp_path: Path) -> Database:
    """A store of this test alone, seeded."""
    return Database(tmp_path / "papers.sqlite", wait=0.2)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``foveate.papers`` reads a store of this test alone; its path."""
    path = tmp_path / "own" / "papers.sqlite"
    monkeypatch.setenv("FOVEATE_PAPERS", str(path))
    return path


@pytest.fixture
def words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sentence encoder, whether or not it is installed: searches are quick and all alike."""
    monkeypatch.setattr(search, "encoder", lambda: None)
    monkeypatch.setattr(command, "encoder", lambda: None)
