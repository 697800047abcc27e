"""The small pictures: escaped, self-contained, readable on light and dark pages, small for many
heads; and what prompts, results and scores make of them."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from families import build, inputs
from foveate import display
from foveate.attach import attach
from foveate.engine import measures
from foveate.find._model import ModelId
from foveate.find.scores import HeadScores
from foveate.methods import Measure
from foveate.methods._scope import Scope
from foveate.prompt import Prompt
from foveate.prompt.page import stretches
from foveate.results import Results

EVIL = "<script>alert(1)</script>\"'&<b>"
B, H = 2, 3


def self_contained(piece: str) -> str:
    """No script, nothing fetched, no colour that a theme could hide; well formed."""
    assert not re.search(r"<script|<link|<iframe|<img|\bon\w+=|url\(|@import", piece, re.IGNORECASE)
    assert set(re.findall(r"https?://[^\"' ]*", piece)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"(?<![-\w])color:", piece)
    stack: list[str] = []
    for closing, tag, rest in re.findall(r"<(/?)([a-z]+)([^>]*)>", piece):
        if closing:
            assert stack.pop() == tag
        elif not rest.endswith("/"):
            stack.append(tag)
    assert stack == []
    return piece


def filled(reads: tuple[Any, ...] = (), layers: int = 2, steps: int = 3) -> Results:
    results = Results({"decoder": layers}, reads)
    g = torch.Generator().manual_seed(0)
    for layer in range(layers):
        results.record(
            "decoder", layer, "prefill", 0, "entropy", torch.rand(B, H, 5, generator=g),
            q_start=0, kv_start=0,
        )  # fmt: skip
    for step in range(1, steps + 1):
        for layer in range(layers):
            value = torch.rand(B, H, 1, generator=g)
            results.record(
                "decoder", layer, "decode", step, "entropy", value, q_start=4 + step, kv_start=0
            )
    return results


def test_a_heat_map_says_each_number_and_leaves_holes_empty() -> None:
    grid = torch.tensor([[0.0, 0.5], [1.0, math.nan]])
    piece = self_contained(display.heat(grid, [3, 7], EVIL))
    assert "layer 7, head 0: 1" in piece and "layer 3, head 1: 0.5" in piece
    fills = re.findall(r'fill="([^"]+)"><title>', piece)
    assert fills[3] == "none" and fills[2].endswith(",1.00)") and fills[0].endswith(",0.06)")
    assert "0 … 1" in piece


@pytest.mark.parametrize("grid", [torch.full((2, 2), math.nan), torch.ones(2, 2), torch.ones(1, 1)])
def test_a_flat_or_empty_grid_is_drawn(grid: torch.Tensor) -> None:
    piece = self_contained(display.heat(grid, range(len(grid)), "x"))
    assert piece.count("<rect") == grid.numel()


def test_many_heads_stay_small() -> None:
    """126 layers of 128 heads: no tip a cell, but every cell drawn once."""
    grid = torch.rand(126, 128, generator=torch.Generator().manual_seed(0))
    piece = self_contained(display.heat(grid, range(126), "x"))
    assert len(piece) < 400_000
    assert sum(path.count("M") for path in re.findall(r' d="([^"]+)"', piece)) == grid.numel()


def test_a_line_is_cut_at_gaps_and_pooled_when_long() -> None:
    values = torch.tensor([1.0, math.nan, 3, 2])
    piece = self_contained(display.line(values, [1, 2, 3, 4], "x", along="step"))
    path = re.findall(r'd="([^"]+)" fill="none" stroke="rgb\(', piece)[0]
    assert path.count("M") == 2 and path.count("L") == 1
    long = display.line(torch.arange(100_000.0), range(100_000), "x", along="position")
    assert len(long) < 10_000 and "means of 334" in long and ">99999<" in long
    for values in (torch.zeros(0), torch.ones(1), torch.full((3,), math.nan)):
        self_contained(display.line(values, range(len(values)), "x", along="step"))


def test_tables_and_folds_escape() -> None:
    piece = self_contained(
        display.lines(
            display.table([EVIL], [[EVIL], [display.bar(0.5)]]),
            display.folded(EVIL, display.note(EVIL)),
            display.chip(EVIL, "rgba(1,2,3,.4)"),
        )
    )
    assert "&lt;script&gt;" in piece and "width:50%" in piece
    assert "width:0%" in display.bar(math.nan) and "width:100%" in display.bar(7.0)


def test_results_are_a_table_and_pictures() -> None:
    results = filled()
    grid = results["entropy"].mean("prefill")
    layer, head = divmod(int(grid.argmax()), H)
    piece = self_contained(results._repr_html_())
    assert f"{layer}.{head} ({grid.max():.3g})" in piece
    assert piece.count("<rect") == 2 * H and "by decode step" in piece and "nats" in piece
    for value in re.findall(r"layer 1, head 2: ([\d.e-]+)", piece):
        assert float(value) == pytest.approx(float(grid[1, 2]), rel=1e-3)
    key, value = f"mass:{EVIL}", torch.rand(B, H, 5)
    results.record("decoder", 0, "prefill", 0, key, value, q_start=0, kv_start=0)
    self_contained(results._repr_html_())
    self_contained(Results()._repr_html_())


def test_every_kind_of_measure_is_drawn() -> None:
    reads = (measures.received(), measures.block_map(4), measures.rows([0]), measures.top(2))
    results = filled(reads)
    for key, value in {
        "received": torch.rand(B, H, 5),
        "block_map": torch.rand(B, H, 4, 4),
        "rows": torch.rand(B, H, 1, 5),
        "top.values": torch.rand(B, H, 5, 2),
        "top.indices": torch.zeros(B, H, 5, 2, dtype=torch.long),
        "max": torch.full((B, H, 5), math.nan),
    }.items():
        results.record("decoder", 0, "prefill", 0, key, value, q_start=0, kv_start=0)
    piece = self_contained(results._repr_html_())
    assert "by key" in piece and "query block 3, key block 3" in piece
    for key in results:
        self_contained(results[key]._repr_html_())
    assert "<svg" not in results["top.indices"]._repr_html_()


def test_the_sink_does_not_hide_the_other_keys() -> None:
    results = filled()
    value = torch.tensor([90.0, 1.0, 3.0, 2.0]).expand(B, H, 4)
    results.record("decoder", 0, "prefill", 0, "received", value, q_start=0, kv_start=0)
    piece = self_contained(results["received"]._repr_html_())
    assert "most at position 0 (90), 2 (3)" in piece and "position 0 is left out" in piece
    assert ">position 1<" in piece and ">90<" not in piece and ">3<" in piece


def test_decode_alone_and_two_stacks() -> None:
    results = Results({"decoder": 1, "cross": 1})
    for step in (1, 2):
        for stack in ("decoder", "cross"):
            value = torch.rand(B, H, 1)
            results.record(stack, 0, "decode", step, "entropy", value, q_start=step, kv_start=0)
    piece = self_contained(results._repr_html_())
    assert "mean over the decode" in piece and piece.count("<rect") == 2 * H
    assert "entropy, nats · cross" in piece


# -- what others make of them ----------------------------------------------------------------------
def test_a_prompt_shows_overlaps_and_folds_what_is_far_from_marks(smollm2: Any) -> None:
    text = "Bob saw <b>1877</b> & left. " + "Nothing happened. " * 2600 + "Ann sings."
    prompt = Prompt(smollm2[1], text).mark("all <i>", "Bob saw <b>1877").mark("year", "1877")
    prompt.mark("ann", "Ann sings")
    piece = self_contained(prompt._repr_html_())
    words = re.sub("<[^>]+>", "", piece)
    assert "all &lt;i&gt; (" in piece and "Bob saw &lt;b&gt;1877" in words
    assert piece.count("linear-gradient") == int(prompt.regions["year"].sum())
    assert piece.count("⋯") == 2 and "more, not shown" in piece and len(piece) < 500_000
    before, _, behind = piece.partition("<details")
    assert "1877" in re.sub("<[^>]+>", "", before) and "Ann" in behind.rpartition("</details>")[2]


@pytest.mark.parametrize("length", [1, 159, 162, 170, 400, 5000])
@pytest.mark.parametrize("marks", [[], [0], [-1], [3, 200], [80, 300]])
def test_every_token_is_in_one_stretch(length: int, marks: list[int]) -> None:
    marked = [False] * length
    for mark in marks:
        if mark < length:
            marked[mark] = True
    parts = list(stretches(marked, 0, length))
    assert [i for a, b, _ in parts for i in range(a, b)] == list(range(length))
    assert not any(marked[i] for a, b, hidden in parts if hidden for i in range(a, b))
    assert all(b - a > 80 for a, b, hidden in parts if hidden)
    assert length < 400 or any(hidden for *_, hidden in parts)


def test_a_batch_is_shown_item_by_item(smollm2: Any) -> None:
    prompt = Prompt(smollm2[1], [f"Item <b>{i}" for i in range(6)])
    piece = self_contained(prompt._repr_html_())
    assert piece.count("<details") == 6 and piece.count(" open>") == 4
    assert "<b>" not in piece


def test_head_scores_name_their_best() -> None:
    values = torch.tensor([[0.1, 0.9], [math.nan, 0.4]])
    model = ModelId("tiny <b>", "Tiny", "abc")
    scores = HeadScores("sink", values, model, {"text <i>": "<b>" * 900})
    piece = self_contained(scores._repr_html_())
    assert [piece.index(f">{one}<") for one in ("0.1", "1.1", "0.0")] == sorted(
        piece.index(f">{one}<") for one in ("0.1", "1.1", "0.0")
    )
    assert "width:100%" in piece and "1 heads have no score" in piece and len(piece) < 9000
    empty = HeadScores("sink", torch.full((1, 2), math.nan), model)
    assert "2 heads have no score" in self_contained(empty._repr_html_())


class _Evil:
    """A method whose name is markup."""

    def __init__(self) -> None:
        self.scope = Scope.of(layers=0)

    def rewrite(self, program: Any, site: Any, call: Any) -> Any:
        return program

    def __repr__(self) -> str:
        return EVIL


@torch.no_grad()
def test_a_run_says_what_it_did() -> None:
    model, given = build("bart"), inputs("bart")
    with attach(model, Measure(measures.entropy(), layers=[0]), _Evil()) as run:
        empty = self_contained(run._repr_html_())
        model(**given)
    assert "no forward yet" in empty and "&lt;script&gt;" in empty
    piece = self_contained(run._repr_html_())
    words = " ".join(re.sub("<[^>]+>", " ", piece).split())
    assert "1 forward: 7 tokens of prefill, batch of 2, 1 attention call edited or" in words
    assert "decoder touched 0 1" in words and "decoder passed over 1 1 in no method" in words
    assert "cross passed over 0–1 2" in words and "nats" in words
    assert run.coverage._repr_html_() in piece


def test_a_run_with_generation_counts_its_steps() -> None:
    model = build("llama")
    with attach(model) as run:
        model.generate(**inputs("llama"), max_new_tokens=3, do_sample=False, eos_token_id=None)
    words = re.sub("<[^>]+>", " ", self_contained(run._repr_html_()))
    assert "passthrough" in words and "3 forwards: 11 tokens of prefill, 2 decode steps" in words
