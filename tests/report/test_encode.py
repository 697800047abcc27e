"""Quantised numbers come back within the error that is promised."""

from __future__ import annotations

import json
import math

import pytest
import torch

from foveate.report.encode import codes, decode, number, numbers


@pytest.mark.parametrize(("bits", "error"), [(8, 0.028), (16, 0.0003)])
def test_codes_are_relatively_exact(bits: int, error: float) -> None:
    values = torch.rand(4, 5, 300).double() ** 8
    back = decode(json.loads(json.dumps(codes(values, bits))))
    kept = values >= 1e-6 * values.amax(-1, keepdim=True)
    assert ((back - values).abs() / values)[kept].max() < error
    assert (back[~kept] == 0).all() and back.shape == values.shape


def test_codes_of_zeros_and_of_what_is_not_a_number() -> None:
    coded = codes(torch.tensor([[0.0, 0.0], [float("nan"), 2.0]]), 8)
    assert decode(coded).tolist() == [[0.0, 0.0], [0.0, 2.0]]
    json.dumps(coded, allow_nan=False)


def test_numbers_are_json() -> None:
    assert number(0.123456) == 0.1235 and number(math.inf) is None
    assert numbers(torch.tensor([[1.0, float("nan")]])) == [[1.0, None]]
