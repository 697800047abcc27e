"""Masks as descriptions: what is recognised says the same as transformers' own matrix."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import masking_utils as own

from foveate.adapters.calls import _from_info
from foveate.adapters.masks import MaskInfo, MaskPattern
from foveate.adapters.rules import rule_of
from foveate.engine.backends import reference
from foveate.engine.program import Program

PAD = torch.tensor([2, 0])
IDS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]] * 2)
BLOCKS = torch.tensor([[-1, 0, 0, -1, 1, 1, 1, -1, -1, 2, 2, -1], [-1] * 12])
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "causal": own.causal_mask_function,
    "bidirectional": own.bidirectional_mask_function,
    "window": own.sliding_window_causal_mask_function(3),
    "wide window": own.sliding_window_causal_mask_function(50),
    "both ways": own.sliding_window_bidirectional_mask_function(2),
    "chunks": own.chunked_causal_mask_function(4, PAD),
    "packed": own.and_masks(own.causal_mask_function, own.packed_sequence_mask_function(IDS)),
    "blocks": own.or_masks(
        own.causal_mask_function,
        lambda b, h, q, k: (BLOCKS[b, q] == BLOCKS[b, k]) & (BLOCKS[b, q] >= 0),
    ),
    "and": own.and_masks(own.causal_mask_function, lambda b, h, q, k: (q - k) % 2 == 0),
    "or": own.or_masks(own.causal_mask_function, lambda b, h, q, k: k == 9),
    "strange": lambda b, h, q, k: (q * k) % 3 > 0,
    "nested": own.and_masks(
        own.sliding_window_causal_mask_function(5), own.sliding_window_causal_mask_function(3)
    ),
}
SHAPES = [(12, 12, 0, 0), (1, 12, 11, 0), (4, 12, 8, 0), (5, 12, 0, 0), (2, 6, 10, 6), (3, 8, 5, 4)]


def queries(length: int, offset: Any) -> dict[str, Any]:
    """The queries, as this transformers passes them to a mask function."""
    if "cache_position" in signature(own.sdpa_mask).parameters:  # before 5.4
        return {"cache_position": torch.arange(length) + offset}
    return {"q_length": length, "q_offset": offset}


def info(function: Any, shape: tuple[int, int, int, int], **more: Any) -> MaskInfo:
    q, kv, q_offset, kv_offset = shape
    arguments = queries(q, q_offset) | {
        "batch_size": 2, "kv_length": kv, "kv_offset": kv_offset, "mask_function": function,
        "attention_mask": None, "allow_is_causal_skip": True, "dtype": torch.float32,
        "device": torch.device("cpu"),
    }  # fmt: skip
    return MaskInfo.of(own.sdpa_mask, arguments | more, floating=False)


def visible(program: Program, shape: tuple[int, int, int, int]) -> Tensor:
    """Who sees whom, from the reference engine: ``[B, 1, Sq, Sk]``."""
    q = torch.zeros(2, 1, shape[0], 1)
    return reference.scores(program, q, torch.zeros(2, 1, shape[1], 1)) > -torch.inf


@pytest.mark.parametrize("padding", [None, "left", "right", "short"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_program_sees_what_the_matrix_shows(
    name: str, shape: tuple[int, int, int, int], padding: str | None
) -> None:
    mask = None
    if padding is not None:
        mask = torch.ones(2, 12, dtype=torch.bool)
        mask[0, slice(0, 3) if padding == "left" else slice(9, None)] = False
        mask = mask[:, :9] if padding == "short" else mask  # a static cache's unfilled part
    made = info(FUNCTIONS[name], shape, attention_mask=mask)
    program = _from_info(Program(), made, False, torch.device("cpu"))
    assert torch.equal(visible(program, shape), made.visible().expand(2, 1, -1, -1))
    if name in ("causal", "bidirectional", "wide window"):
        assert program.pattern is None and program.bias is None
    if padding is None:
        assert program.key_bias is None
    if program.queries is not None and mask is not None:
        start = shape[2]
        assert torch.equal(program.queries, mask[:, start : start + shape[0]])


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if rule_of(FUNCTIONS[n]).parts])
def test_key_ranges_hold_all_that_is_visible(name: str) -> None:
    rule = rule_of(FUNCTIONS[name])
    pattern = MaskPattern(rule, 0, torch.arange(2))
    keys = torch.arange(12)
    for start in range(12):
        for stop in range(start + 1, 13):
            low, high = pattern.key_range(start, stop, 12)
            assert 0 <= low <= high <= 12
            seen = pattern.tile(torch.arange(start, stop), keys).expand(2, 1, stop - start, 12)
            if rule.causal:
                seen = seen & (keys <= torch.arange(start, stop)[:, None])
            outside = torch.ones(12, dtype=torch.bool)
            outside[low:high] = False
            assert not bool(seen[..., outside].any())


def test_windows_are_narrow() -> None:
    rule = rule_of(FUNCTIONS["window"])
    assert (rule.causal, rule.back, rule.ahead, rule.windows) == (True, 2, None, True)
    assert MaskPattern(rule, 0, torch.arange(1)).key_range(8, 9, 12)[0] == 6
    assert rule_of(FUNCTIONS["both ways"]).ahead == 2
    assert rule_of(FUNCTIONS["strange"]).parts == (FUNCTIONS["strange"],)


def test_functions_that_are_not_of_indices_are_made_whole() -> None:
    def scalar(batch: Any, head: Any, q: Any, k: Any) -> Any:
        return torch.where(IDS[batch, q] == IDS[batch, k], k <= q, k > 100)

    made = info(scalar, SHAPES[0], use_vmap=True, allow_is_causal_skip=False)
    program = _from_info(Program(), made, False, torch.device("cpu"))
    assert program.pattern is None and program.bias is not None
    assert torch.equal(visible(program, SHAPES[0]), made.visible())


def test_it_passes_for_the_mask_it_stands_for() -> None:
    made = info(FUNCTIONS["window"], (3, 8, 5, 4))
    assert isinstance(made, torch.Tensor) and made.shape == (2, 1, 3, 8) and made.ndim == 4
    assert made.dtype == torch.bool and made.device.type == "cpu" and made.dim() == 4
    assert made.contiguous() is made and made.to("cpu") is made
    assert "MaskInfo" in repr(made)
    matrix = made.visible()
    assert type(matrix) is torch.Tensor
    assert torch.equal(made[:, :, :2], matrix[:, :, :2])
    assert torch.equal(made & True, matrix)
    assert torch.equal(torch.cat([made, made]), torch.cat([matrix, matrix]))
    assert torch.equal(made.to(torch.float64), matrix.to(torch.float64))
    scores = torch.randn(2, 1, 3, 8)
    assert torch.equal(scores.masked_fill(made, 0.0), scores.masked_fill(matrix, 0.0))


def test_it_is_the_models_own_mask_made_once_and_only_when_asked() -> None:
    calls = []

    def make(**arguments: Any) -> Tensor:
        calls.append(arguments)
        return own.eager_mask(**arguments)

    count = torch.tensor(4)
    arguments = queries(2, count) | {
        "batch_size": 1, "kv_length": 8, "kv_offset": 0,
        "mask_function": own.causal_mask_function, "attention_mask": None, "dtype": torch.float64,
        "device": "cpu",
    }  # fmt: skip
    made = MaskInfo.of(make, arguments, floating=True)
    assert made.dtype == torch.float64 and made.q_offset == 4 and calls == []
    assert made.size() == (1, 1, 2, 8) and made.stride() == (0, 0, 0, 0) and calls == []
    count += 2  # what a static cache does when it takes the new tokens
    assert made.original is made.original and len(calls) == 1
    assert made.original[0, 0, 0, 4] == 0 and made.original[0, 0, 0, 5] < -1e300


def test_it_goes_where_a_module_is_placed() -> None:
    made = info(FUNCTIONS["chunks"], (3, 8, 5, 4), attention_mask=torch.ones(2, 12) > 0)
    twin = made.to("meta", non_blocking=True)
    assert isinstance(twin, MaskInfo) and twin.device.type == "meta" and twin.shape == made.shape
    assert (twin.q_offset, twin.rule, twin.home.type) == (5, made.rule, "cpu")
    assert twin.original.device.type == "meta" and made.original.device.type == "cpu"
    assert twin.visible().device.type == "meta"
    pattern = MaskPattern(made.rule, 4, torch.arange(2))
    assert pattern.tile(torch.arange(2, device="cpu"), torch.arange(8)).shape == (2, 1, 2, 8)


def test_the_last_rows() -> None:
    made = info(FUNCTIONS["window"], (5, 12, 7, 0))
    assert torch.equal(made.rows(2), made.visible()[:, :, -2:])


def test_the_argument_of_older_transformers() -> None:
    arguments = {
        "batch_size": 1, "cache_position": torch.arange(4, 7), "kv_length": 7, "kv_offset": 0,
        "mask_function": own.causal_mask_function, "attention_mask": None,
    }  # fmt: skip
    made = MaskInfo.of(own.sdpa_mask, arguments, floating=False)
    assert (made.q_offset, made.q_length) == (4, 3)


def test_older_transformers_say_the_device_by_the_positions_alone() -> None:
    class Elsewhere:
        shape, device = (3,), torch.device("meta")

        def __getitem__(self, index: int) -> int:
            return 4 + index

    arguments = {
        "batch_size": 1, "cache_position": Elsewhere(), "kv_length": 7,
        "mask_function": own.causal_mask_function,
    }  # fmt: skip
    made = MaskInfo.of(own.sdpa_mask, arguments, floating=False)
    assert (made.home.type, made.device.type, made.q_offset) == ("meta", "meta", 4)
