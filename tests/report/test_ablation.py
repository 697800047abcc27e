"""Hiding a region equals taking its tokens out of every query's sight."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate.errors import FoveateError
from foveate.prompt import Prompt
from foveate.report import ablate
from foveate.report.ablation import NOTHING


def test_the_change_is_that_of_a_mask(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    text = "Ann lives in Oslo. Bob lives in Rome. Where does Bob live? Bob lives in"
    prompt = Prompt(tokenizer, text).mark("bob", "Bob lives in Rome.")
    steps: list[int] = []
    nothing, bob = ablate(model, prompt, ["bob"], max_new_tokens=3, progress=steps.append)
    assert (nothing.region, nothing.change, steps) == (NOTHING, 0.0, [1])

    # by hand: the same tokens at the same positions, those of the region hidden by a padding mask
    with torch.no_grad():
        own = model.generate(**prompt.inputs, max_new_tokens=3, do_sample=False)
        positions = torch.arange(own.shape[1])[None]
        likely = []
        for hidden in ([], prompt.positions("bob")):
            mask = torch.ones_like(own)
            mask[0, hidden] = 0
            logits = model(own, attention_mask=mask, position_ids=positions).logits
            chosen = logits[:, prompt.length - 1 : -1].log_softmax(-1)
            likely.append(chosen.gather(-1, own[:, prompt.length :, None]).sum().item())
    assert bob.change == pytest.approx(likely[1] - likely[0], abs=2e-3)
    assert bob.change is not None and bob.change < -0.5  # it mattered
    assert bob.answer != nothing.answer


def test_bad_input(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    with pytest.raises(FoveateError, match="one item"):
        ablate(model, Prompt(tokenizer, ["a", "b"]), [])
    with pytest.raises(FoveateError, match="no region 'x'"):
        ablate(model, Prompt(tokenizer, "a"), ["x"])
