"""Fixtures that several rooms need."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("foveate", deadline=None)  # no clocks in the default tests
hypothesis.settings.load_profile("foveate")


def pytest_configure(config: pytest.Config) -> None:
    papers = tempfile.TemporaryDirectory(prefix="foveate-")
    config.add_cleanup(papers.cleanup)
    os.environ["FOVEATE_PAPERS"] = str(Path(papers.name) / "papers.sqlite")  # never the user's own
    torch.set_num_threads(2)  # what the figures are measured with; more only disturbs neighbours


@pytest.fixture(scope="session")
def smollm2() -> tuple[Any, Any]:
    """The embedded model and its tokenizer, loaded once; leave both as you found them."""
    from foveate.load import load

    return load("smollm2")
