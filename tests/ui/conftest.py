"""A tiny random model behind a page, and a browser in front of it where there is one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from foveate.ui.session import Desk, Session, Update

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's papers are the shipped ones, never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEATE_PAPERS", str(tmp_path_factory.mktemp("store") / "papers.sqlite"))
        yield


@pytest.fixture(scope="session")
def tiny(smollm2: tuple[Any, Any]) -> tuple[Any, Any]:
    """Four layers of four heads that understand the embedded model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=2, eos_token_id=2,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), smollm2[1]


@pytest.fixture
def desk(tiny: tuple[Any, Any]) -> Desk:
    return Desk(*tiny, "tiny")


@pytest.fixture
def done(desk: Desk) -> Callable[[Any], Any]:
    """Do a piece of work to its end; its result."""

    def run(work: Any, session: Session | None = None) -> Any:
        updates: list[Update] = list(desk.run(session or Session(), work))
        return updates[-1].value

    return run


@contextmanager
def slowed(model: Any, seconds: float) -> Iterator[list[int]]:
    """Every forward of the model takes longer; the list counts them."""
    forwards: list[int] = []

    def before(module: Any, args: Any) -> None:
        forwards.append(1)
        time.sleep(seconds)

    handle = model.register_forward_pre_hook(before)
    try:
        yield forwards
    finally:
        handle.remove()


@pytest.fixture(scope="session")
def address(tiny: tuple[Any, Any]) -> Iterator[str]:
    """A page on this machine."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'foveate[ui]'")
    from foveate.ui import serve

    page, where = serve(*tiny, "tiny <b>model</b>")
    yield where
    page.close(verbose=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("browser tests need the system's chromium: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
