"""Advice as Python to copy: it is Python, whatever the model's path is called."""

from __future__ import annotations

import ast

import pytest

import foveate as fv
from foveate.advise.apply import python
from foveate.decoding import DeCoRe


@pytest.mark.parametrize(
    "methods", [[fv.Emphasize("question", 2.0)], [DeCoRe([(0, 1)], alpha=1.0)]]
)
def test_a_path_with_quotes_and_backslashes(methods: list[object]) -> None:
    path = 'C:\\new "models"\\tiny'
    found = [
        one.value
        for one in ast.walk(ast.parse(python(path, fv.Policy(methods), 8)))
        if isinstance(one, ast.Constant)
    ]
    assert path in found
