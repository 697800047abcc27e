"""The model of time: what it counts, and that it follows its constants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate as fv
from foveate.patterns import (
    Documents,
    HiP,
    Machine,
    MoBA,
    MultiWindow,
    Neighborhood,
    Pattern,
    SlidingWindow,
    Windows,
    calibrate,
)
from foveate.patterns import machine as machines
from foveate.patterns.machine import machine

# one second a pair and nothing else: seconds are pairs
PAIRS = Machine(
    **dict.fromkeys(("dense_product", "block_product", "row", "mask", "copy", "pick", "step"), 0.0),
    dense_softmax=1.0,
    block_softmax=1.0,
    tile_softmax=1.0,
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: Any) -> Iterator[Path]:
    monkeypatch.setenv("FOVEATE_HOME", str(tmp_path))
    yield tmp_path


def test_pairs_are_those_that_the_executor_computes() -> None:
    window = SlidingWindow(100, sinks=4)
    cost = window.cost(1024, heads=3, machine=PAIRS)
    plan = fv.plan(
        fv.Program(pattern=window, causal=True),
        fv.Shapes(1, 3, 3, 1024, 1024, 64, 64, torch.float32, torch.device("cpu")),
    )
    assert plan.cut is not None and cost.by == "blocks"
    assert cost.pairs == plan.cut.pairs
    assert cost.dense_pairs == 1024 * 1025 // 2
    assert cost.seconds == 3 * cost.pairs  # every head
    assert cost.share == cost.pairs / cost.dense_pairs
    seen = (window & fv.patterns.Causal()).density(1024) * 1024**2
    assert seen <= cost.pairs <= 4 * seen


def test_dense_attention_is_the_triangle_by_blocks_of_256() -> None:
    cost = SlidingWindow(8).cost(1024, heads=2, machine=PAIRS)
    assert cost.dense_seconds == 2 * 256 * (256 + 512 + 768 + 1024)
    full = SlidingWindow(8, causal=False).cost(1024, heads=2, causal=False, machine=PAIRS)
    assert full.dense_pairs == 1024**2 and full.dense_seconds == 2 * 1024**2
    later = SlidingWindow(8).cost(1, 1000, heads=1, machine=PAIRS)  # a step of decoding sees all
    assert later.dense_pairs == 1000


def test_every_constant_is_felt_where_it_should_be() -> None:
    grid = Neighborhood((32, 32), 5)
    whole = SlidingWindow(200)
    content = MoBA(64, 3)
    felt = {
        "block_softmax": (grid, whole, content),
        "block_product": (grid, whole, content),
        "row": (grid, whole, content),
        "mask": (grid, whole, content),
        "copy": (grid, whole, content),
        "pick": (content,),
        "step": (grid, whole, content),
    }
    for name, patterns in felt.items():
        machine = replace(PAIRS, **{"dense_softmax": 0.0, "block_softmax": 0.0, name: 1.0})
        for pattern in patterns:
            cost = pattern.cost(1024, heads=2, machine=machine)
            own = cost.seconds - cost.parts.get("selection", 0.0)
            assert own > 1, (name, pattern)


def test_tiles_of_scores_have_a_price_of_their_own() -> None:
    free = replace(PAIRS, block_softmax=0.0, dense_softmax=0.0)
    tiled = Documents([512, 512])  # tiles skip as much of it as blocks do
    cost = tiled.cost(1024, heads=2, machine=free)
    assert cost.by == "tiles" and cost.seconds == 2 * cost.pairs


def test_heads_that_differ_cost_by_themselves() -> None:
    cost = MultiWindow([16, 256]).cost(512, causal=False, machine=PAIRS)
    assert cost.heads == 2 and cost.by == "blocks"
    assert cost.seconds == 2 * cost.pairs
    with pytest.raises(fv.FoveateError, match="tells 2 heads apart"):
        MultiWindow([16, 256]).cost(512, heads=4)


def test_what_content_chooses_costs_its_pieces_and_the_choosing() -> None:
    cost = MoBA(64, 3).cost(1024, heads=4, machine=PAIRS)
    assert cost.by == "pieces" and cost.parts["selection"] > 0
    # each of 1024 queries sees its own block of 64 and at most two more; lots are filled up
    assert 1024 * 64 * 2 < cost.pairs < 1024 * 64 * 6
    assert cost.parts["pairs"] == 4 * cost.pairs
    assert HiP(k=128, window=64).cost(1024, machine=PAIRS).by == "pieces"


def test_more_threads_share_the_work() -> None:
    one, four = (SlidingWindow(64).cost(1024, threads=n) for n in (1, 4))
    assert one.machine.threads == 1 and four.machine.threads == 4
    assert four.parts["pairs"] == pytest.approx(one.parts["pairs"] / 4)
    assert four.parts["calls"] == pytest.approx(one.parts["calls"])
    assert not one.machine.measured


@pytest.mark.parametrize(
    "pattern", [SlidingWindow(256, sinks=4), Windows((32, 32), 8), MoBA(64, 2)], ids=repr
)
def test_it_reads_as_a_sentence(pattern: Pattern) -> None:
    text = str(pattern.cost(1024, heads=9, threads=2))
    causal = "" if isinstance(pattern, Windows) else "causal, "  # a grid's calls are not
    assert text.startswith(f"{pattern!r}: 1,024 tokens, 9 heads of 64, {causal}float32, 2 threads")
    assert "dense, attention alone" in text and "default constants: ± 50 %" in text
    assert "foveate.patterns.calibrate() first where it is near 1" in text
    assert ("million pairs a head" in text and "faster" in text) or "as fast" in text


def test_calls_are_causal_where_the_pattern_is() -> None:
    grid = Neighborhood((8, 8), 3)
    assert not grid.cost(64).causal and not (grid & SlidingWindow(9)).cost(64).causal
    assert not SlidingWindow(8, causal=False).cost(64).causal
    assert SlidingWindow(8).cost(64).causal and MoBA(16, 2).cost(64).causal
    assert grid.cost(64, causal=True).causal


def test_what_was_chosen_knows_its_sizes() -> None:
    q = torch.randn(1, 3, 64, 8)
    for causal in (True, False):
        chosen = MoBA(16, 2).route(q[:, :, 16:], q, causal=causal)
        cost = chosen.cost()
        assert (cost.Sq, cost.Sk, cost.heads, cost.causal) == (48, 64, 3, causal)


def test_a_calibration_is_kept_for_its_machine(_folder: Path, monkeypatch: Any) -> None:
    made = Machine(threads=torch.get_num_threads(), row=1.0, measured=True)
    monkeypatch.setattr(machines, "_measured", lambda dtype: made)
    assert calibrate(keep=False) == made and not (_folder / "machine.json").exists()
    assert machine() == Machine().on(made.threads)
    assert calibrate() == made
    (key,) = json.loads((_folder / "machine.json").read_text())
    assert torch.__version__ in key and "float32" in key
    assert machine() == made
    assert SlidingWindow(8).cost(512).machine == made
    assert "measured on this machine" in str(SlidingWindow(8).cost(512))
    assert machine(made.threads + 1).row == pytest.approx(made.threads / (made.threads + 1))
    assert machine(dtype=torch.bfloat16).row == Machine().on(made.threads).row
    (_folder / "machine.json").write_text("not json")
    assert machine() == Machine().on(made.threads)


@pytest.mark.slow
def test_calibrating_measures_something_plausible() -> None:
    made = calibrate(keep=False)
    assert made.measured and made.threads == torch.get_num_threads()
    for name in ("dense_product", "block_product", "copy", "pick", "step"):
        assert 0 < getattr(made, name) < 1e-3, name


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p.cost(0), "Sq=0"),
        (lambda p: p.cost(8, 2.5), "Sk=2.5"),
        (lambda p: p.cost(8, heads=0), "cost.heads=0.*at least 1"),
        (lambda p: p.cost(8, head_dim=64.0), "head_dim=64.0"),
        (lambda p: p.cost(8, heads=9, kv_heads=2), "multiple of kv_heads"),
        (lambda p: p.cost(8, dtype="float32"), "torch.dtype"),
        (lambda p: p.cost(8, dtype=torch.int64), "floating-point"),
        (lambda p: p.cost(8, causal=1), "causal=1.*True or False"),
        (lambda p: p.cost(8, threads=0), "threads=0"),
        (lambda p: p.cost(8, machine="mine"), "machine='mine'.*calibrate"),
        (lambda p: calibrate("float32"), "calibrate.dtype='float32'"),
        (lambda p: calibrate(torch.int8), "floating-point"),
    ],
)
def test_bad_input(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make(SlidingWindow(4))


@pytest.mark.bench
def test_predictions_are_near() -> None:
    import time

    q, k, v = (torch.randn(1, 4, 4096, 64) for _ in range(3))
    made = calibrate(keep=False)
    for pattern in (SlidingWindow(256, sinks=4), Neighborhood((64, 64), 13)):
        plan = fv.plan(fv.Program(pattern=pattern), fv.Shapes.of(q, k, v))
        taken = []
        for _ in range(6):
            start = time.perf_counter()
            plan.run(q, k, v)
            taken.append(time.perf_counter() - start)
        cost = pattern.cost(4096, heads=4, causal=False, machine=made)
        assert 0.5 < cost.seconds / min(taken) < 2, (pattern, cost.seconds, min(taken))
