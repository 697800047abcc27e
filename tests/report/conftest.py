"""Runs with made-up attention, small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.engine import measures
from foveate.results import Results

TOKENS = ["<s>", "The", " cat", " sat", "\n", " </script><b>", " end"]


def attention(layers: int, batch: int, heads: int, size: int, seed: int) -> Tensor:
    """Causal probabilities ``[L, B, H, S, S]``."""
    logits = torch.randn(
        layers, batch, heads, size, size, generator=torch.Generator().manual_seed(seed)
    )
    hidden = torch.ones(size, size).triu(1).bool()
    return logits.masked_fill(hidden, float("-inf")).softmax(-1)


@pytest.fixture
def make_run() -> Callable[..., Any]:
    def make(
        layers: int = 3,
        heads: int = 2,
        batch: int = 1,
        tokens: list[str] = TOKENS,
        pad: int = 0,
        steps: int = 0,
        seed: int = 0,
        stack: str = "decoder",
    ) -> Any:
        """``pad`` tokens stand before the last item of the batch."""
        size = len(tokens)
        p = attention(layers, batch, heads, size, seed)
        mask = torch.ones(batch, size, dtype=torch.long)
        mask[-1, :pad] = 0
        cat = torch.zeros(batch, size, dtype=torch.bool)
        cat[:, 2:4] = True
        regions = {"<cat>": cat, "first": torch.zeros_like(cat), "system": torch.zeros_like(cat)}
        regions["first"][:, 0] = True
        regions["generated"] = torch.zeros_like(cat)
        reads = [measures.mass(name) for name in regions] + [
            measures.entropy(), measures.received(), measures.rows([-1]), measures.block_map(3)
        ]  # fmt: skip
        results = Results({stack: layers}, reads)
        for layer in range(layers):
            one = p[layer]
            values = {f"mass:{n}": (one * m[:, None, None]).sum(-1) for n, m in regions.items()}
            values["entropy"] = -(one * one.clamp(min=1e-30).log()).sum(-1)
            values["received"], values["rows"] = one.sum(-2), one[:, :, -1:]
            values["block_map"] = one[..., :3, :3]
            for key, value in values.items():
                results.record(
                    stack, layer, "prefill", 0, key, value,
                    q_start=0, kv_start=0, queries=mask.bool(),
                )  # fmt: skip
            half = torch.full((batch, heads, 1), 0.5)
            for step in range(1, steps + 1):
                for name in regions:
                    results.record(
                        stack, layer, "decode", step, f"mass:{name}", half,
                        q_start=size + step - 1, kv_start=0,
                    )  # fmt: skip
        prompt = SimpleNamespace(
            batch_size=batch,
            inputs={"attention_mask": mask},
            regions=regions,
            token_rows=[tokens] * batch,
        )
        return SimpleNamespace(
            results=results, prompt=prompt, calls=[1], coverage=None, attention=p
        )

    return make
