"""What ``advise`` is given, checked before anything is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import FoveateError
from ..tasks import Questions, Task
from .goals import GOALS

__all__ = ["checked", "read", "source", "whole"]


def read(data: Any, check: str | None = None) -> Task:
    """The task that data stand for."""
    if isinstance(data, Task):
        return data
    if isinstance(data, str | Path):
        return Questions.load(data, check=check)
    if isinstance(data, Iterable) and not isinstance(data, Mapping):
        return Questions.of(data, check=check)
    raise FoveateError(
        f"data={data!r:.80} was given; the name of a .jsonl or .csv file, a list of dicts with "
        "prompt and answer, or a task such as fv.tasks.Distractors() was wanted."
    )


def source(data: Any, task: Task) -> str:
    """The data as a command takes them; records have to be written to a file first."""
    if isinstance(data, str | Path):
        return str(data)
    return "mine.jsonl" if isinstance(task, Questions) else task.name


def whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number from ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise FoveateError(f"{name}={value!r} was given; a whole number from {least} was wanted.")


def checked(model: Any, goal: Any, minutes: Any, margin: Any) -> None:
    """Refuse a goal, minutes, a margin and a model that are none."""
    if goal not in GOALS:
        raise FoveateError(f"goal={goal!r} was given; it is one of {', '.join(GOALS)}.")
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < 1e5:
        raise FoveateError(f"minutes={minutes!r} was given; a number above 0 was wanted.")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < 1:
        raise FoveateError(f"margin={margin!r} was given; a share between 0 and 1 was wanted.")
    if not isinstance(model, nn.Module) or not hasattr(model, "generate"):
        raise FoveateError(
            f"advise takes a model that generates; {type(model).__name__} was given: "
            "model, tokenizer = fv.load(…)."
        )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise FoveateError(
            f"{type(model).__name__} reads its prompt in an encoder; advise takes a language model "
            "that generates from left to right, such as smollm2."
        )
