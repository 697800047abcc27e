"""Tiny models gain nothing from threads, and lose much where the cores are shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from families import llama_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def chats(smollm2: tuple[Any, Any]) -> tuple[Any, Any]:
    """A tiny random model with the embedded tokenizer, which knows chats."""
    return llama_of(len(smollm2[1])), smollm2[1]
