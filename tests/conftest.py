"""Fixtures that several rooms need."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
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


# Rooms whose tests run tiny models, which gain nothing from threads, and lose much where the cores
# are shared.
TINY = {"adapters", "advise", "attach", "check", "decoding", "find", "methods", "policy"}


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread in these rooms, but for what is timed."""
    room = request.path.relative_to(Path(__file__).parent).parts[0]
    if room not in TINY or request.node.get_closest_marker("bench"):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def smollm2() -> tuple[Any, Any]:
    """The embedded model and its tokenizer, loaded once; leave both as you found them."""
    from foveate.load import load

    return load("smollm2")


@pytest.fixture(scope="session")
def chats(smollm2: tuple[Any, Any]) -> tuple[Any, Any]:
    """A tiny random model with the embedded tokenizer, which knows chats."""
    from families import llama_of

    return llama_of(len(smollm2[1])), smollm2[1]


@pytest.fixture(scope="module")
def tiny(smollm2: tuple[Any, Any]) -> tuple[Any, Any]:
    """A tiny random model, sure of what it says, with the embedded tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=2, eos_token_id=2,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), smollm2[1]
