"""The plain data of a report against the attention it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foveate.errors import FoveateError
from foveate.report import data as data_module
from foveate.report.data import build
from foveate.report.encode import decode
from foveate.results import Results

Make = Callable[..., Any]


def close(found: Any, wanted: torch.Tensor, rtol: float = 1e-3) -> None:
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float32), wanted.float(), rtol=rtol, atol=1e-5
    )


def test_masses(make_run: Make) -> None:
    run = make_run(steps=2)
    p = run.attention[:, 0]  # (L, H, S, S)
    item = build(run).items[0]
    cat = next(m for m in item.masses if m.region == "<cat>")
    assert (cat.tokens, cat.share) == (2, pytest.approx(2 / 7))
    mass = p[..., 2:4].sum(-1)
    close(cat.last, mass[..., -1].mean())
    close(cat.mean, mass.mean())
    close(cat.layers, mass[..., -1].mean(1))
    layer, head, value = cat.top[0]
    assert mass[..., -1].max() == mass[layer, head, -1] and value == pytest.approx(
        mass[..., -1].max().item(), rel=1e-3
    )
    assert cat.steps == [0.5, 0.5]
    # marks come first; a region without tokens is not there, what was generated only by its steps
    assert [m.region for m in item.masses] == ["<cat>", "first", "generated"]


def test_grids_and_token_maps(make_run: Make) -> None:
    run = make_run()
    p = run.attention[:, 0]
    data = build(run)
    grid = next(g for g in data.items[0].grids if g.key == "mass:<cat>")
    close(grid.last, p[..., -1, 2:4].sum(-1), 6e-3)
    close(grid.mean, p[..., 2:4].sum(-1).mean(-1), 6e-3)
    last, received = data.items[0].token_maps
    close(last.mean, p[..., -1, :].mean((0, 1)))
    close(received.mean, p.sum(-2).mean((0, 1)))
    assert received.heads is not None and received.layers is not None
    close(decode(received.heads).tolist(), p.sum(-2), 0.03)
    close(decode(received.layers).tolist(), p.sum(-2).mean(1), 1e-3)
    assert data.items[0].block_map is not None
    close(decode(data.items[0].block_map)[1:].tolist(), p[..., :3, :3].mean(1), 0.03)


def test_padding_is_left_out(make_run: Make) -> None:
    run = make_run(batch=2, pad=2)
    items = build(run).items
    assert len(items[0].tokens) == 7 and items[1].tokens == run.prompt.token_rows[1][2:]
    assert items[1].regions["<cat>"] == [0, 1]
    p = run.attention[:, 1]
    cat = next(m for m in items[1].masses if m.region == "<cat>")
    close(cat.mean, p[..., 2:, 2:4].sum(-1).mean())
    close(items[1].token_maps[0].mean, p[..., -1, 2:].mean((0, 1)))


def test_one_item(make_run: Make) -> None:
    assert len(build(make_run(batch=3), item=1).items) == 1
    for item in (3, -1, True, "1"):
        with pytest.raises(FoveateError, match="items 0 to 2"):
            build(make_run(batch=3), item=item)


def test_before_and_answers(make_run: Make) -> None:
    run, baseline = make_run(), make_run(seed=1)
    item = build(run, baseline=baseline, answers={"a": "x", "b": ["y"]}).items[0]
    assert item.answers == [("a", "x"), ("b", "y")]
    cat = next(m for m in item.before if m.region == "<cat>")
    close(cat.last, baseline.attention[:, 0, :, -1, 2:4].sum(-1).mean())
    assert len(item.grids_before) == len(item.grids)
    with pytest.raises(FoveateError, match="has 2 answers; the batch has 1"):
        build(run, answers={"a": ["x", "y"]})


def test_it_is_json(make_run: Make) -> None:
    text = json.dumps(build(make_run(steps=1), baseline=make_run()).to_dict(), allow_nan=False)
    assert json.loads(text)["layers"] == [0, 1, 2]


def test_other_stacks(make_run: Make) -> None:
    run = make_run(stack="vision")
    assert build(run).stack == "vision" and not build(run).causal
    with pytest.raises(FoveateError, match="measured were: 'vision'"):
        build(run, stack="text")


def test_cross_attention_is_what_looks_at_the_prompt(make_run: Make) -> None:
    run = make_run(stack="cross")
    run.results.record(
        "decoder", 0, "prefill", 0, "entropy", torch.rand(1, 2, 3), q_start=0, kv_start=0
    )
    assert build(run).stack == "cross" and build(run, stack="decoder").stack == "decoder"


def test_a_run_without_prompt(make_run: Make) -> None:
    run = make_run()
    bare = SimpleNamespace(results=run.results)
    item = build(bare).items[0]
    assert item.tokens[:2] == ["[0]", "[1]"] and item.masses[0].tokens is None


def test_only_some_layers(make_run: Make) -> None:
    run = make_run()
    some = Results({"decoder": 3})
    for layer, key in ((2, "entropy"), (1, "max")):
        some.record("decoder", layer, "prefill", 0, key, torch.rand(1, 2, 7), q_start=0, kv_start=0)
    run.results = some
    data = build(run)
    assert data.layers == [1, 2] and ("Layers measured", "2") in data.facts
    assert data.items[0].grids[0].last[0] == [None, None]  # entropy of layer 1


def test_only_decode_steps(make_run: Make) -> None:
    run = make_run()
    some = Results({"decoder": 1})
    for step in (1, 2):
        some.record(
            "decoder", 0, "decode", step, "mass:<cat>", torch.full((1, 2, 1), 0.1 * step),
            q_start=6 + step, kv_start=0,
        )  # fmt: skip
    run.results = some
    mass = build(run).items[0].masses[0]
    assert (mass.last, mass.mean, mass.steps) == (
        pytest.approx(0.2), pytest.approx(0.15), [pytest.approx(0.1), pytest.approx(0.2)]
    )  # fmt: skip


def test_long_prompts_keep_what_fits(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "MAX_CODES", 2 * 25)
    one = build(make_run()).items[0].token_maps[0]  # 21 values by layer, 42 by head, two maps
    assert one.layers is not None and one.heads is None and len(one.mean) == 7


def test_nothing_measured() -> None:
    with pytest.raises(FoveateError, match="measured nothing"):
        build(SimpleNamespace(results=Results({"decoder": 2})))
