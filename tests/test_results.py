"""Results: chunks, decode, batches that change, several stacks, and what is refused."""

from __future__ import annotations

import builtins
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.engine import measures
from foveate.errors import FoveateError
from foveate.results import Results

B, H = 2, 3


def put(
    results: Results,
    value: torch.Tensor,
    *,
    key: str = "entropy",
    stack: str = "decoder",
    layer: int = 0,
    step: int = 0,
    q: int = 0,
    kv: int = 0,
    **more: Any,
) -> None:
    phase = "decode" if step else "prefill"
    results.record(stack, layer, phase, step, key, value, q_start=q, kv_start=kv, **more)


def filled(layers: int = 2, size: int = 5, steps: int = 3) -> tuple[Results, torch.Tensor]:
    results = Results({"decoder": layers})
    whole = torch.rand(layers, B, H, size + steps)
    for layer in range(layers):
        put(results, whole[layer, ..., :size], layer=layer)
    for step in range(steps):
        for layer in range(layers):
            q = size + step
            put(results, whole[layer, ..., q : q + 1], layer=layer, step=step + 1, q=q)
    return results, whole


def test_prefill_and_decode() -> None:
    results, whole = filled()
    series = results["entropy"]
    assert torch.equal(series.prefill, whole[..., :5])
    assert torch.equal(series.decode, whole[..., 5:])
    assert series.layers == [0, 1] and series.steps == [1, 2, 3]
    assert series.positions.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(series.last, whole[..., 4])
    torch.testing.assert_close(series.mean(), whole.mean((1, 3)))
    torch.testing.assert_close(series.mean("decode"), whole[..., 5:].mean((1, 3)))


def test_prefill_alone_has_an_empty_decode() -> None:
    results = Results({"decoder": 1})
    put(results, torch.rand(B, H, 4))
    assert results["entropy"].decode.shape == (1, B, H, 0)
    assert results["entropy"].steps == []
    put(results, torch.rand(B, H, 1), step=1, q=4, key="max")
    assert results["max"].prefill.shape == (1, B, H, 0)


def test_chunks_are_put_together_by_position() -> None:
    results = Results({"decoder": 1})
    whole = torch.rand(B, H, 9)
    for a, b in ((0, 4), (4, 7), (7, 9)):
        put(results, whole[..., a:b], q=a)
    assert torch.equal(results["entropy"].prefill[0], whole)


def test_positions_computed_anew_take_their_last_value() -> None:
    results = Results({"decoder": 1})
    put(results, torch.zeros(B, H, 4))
    put(results, torch.ones(B, H, 4), q=2)
    assert results["entropy"].prefill[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1]


def test_received_adds_up_over_chunks_and_is_placed_by_its_offset() -> None:
    results = Results({"decoder": 1})
    put(results, torch.ones(B, H, 4), key="received")
    put(results, torch.ones(B, H, 6), key="received", q=4)
    put(results, torch.ones(B, H, 3), key="received", q=6, kv=4)
    assert results["received"].prefill[0, 0, 0].tolist() == [2, 2, 2, 2, 2, 2, 1]
    assert results["received"].mean()[0, 0] == pytest.approx(13 / 7)


def test_received_leaves_padded_keys_out_of_its_mean() -> None:
    results = Results({"decoder": 1})
    put(results, torch.tensor([0.0, 0.0, 2.0, 1.0]).expand(1, 1, 4), key="received")
    assert results["received"].mean().item() == 1.5


def test_rows_and_top() -> None:
    results = Results({"decoder": 1})
    put(results, torch.rand(B, H, 1, 4), key="rows")
    put(results, torch.rand(B, H, 1, 6), key="rows", q=4)
    assert results["rows"].prefill.shape == (1, B, H, 2, 6)
    assert results["rows"].prefill[0, 0, 0, 0, 4:].tolist() == [0, 0]
    put(results, torch.tensor([0, -1]).expand(B, H, 1, 2), key="top.indices", q=9, kv=8)
    assert results["top.indices"].prefill[0, 0, 0].tolist() == [[8, -1]]
    with pytest.raises(FoveateError, match="positions of keys"):
        results["top.indices"].mean()


def test_block_map_is_of_one_prefill() -> None:
    results = Results({"decoder": 1})
    put(results, torch.rand(B, H, 4, 4), key="block_map")
    assert results["block_map"].prefill.shape == (1, B, H, 4, 4)
    assert results["block_map"].mean().shape == (1, H)
    with pytest.raises(FoveateError, match="none of a decode step"):
        _ = results["block_map"].decode
    put(results, torch.rand(B, H, 4, 4), key="block_map", q=9)
    with pytest.raises(FoveateError, match="in one call"):
        _ = results["block_map"].prefill


def test_renamed_measures_keep_their_shape() -> None:
    results = Results({"decoder": 1}, [measures.received(as_="got"), measures.top(2, as_="best")])
    put(results, torch.ones(B, H, 4), key="got")
    put(results, torch.ones(B, H, 5), key="got", q=4)
    assert results["got"].prefill[0, 0, 0].tolist() == [2, 2, 2, 2, 1]
    put(results, torch.ones(B, H, 4, 2), key="best.values")
    assert results["best.values"].last.shape == (1, B, H, 2)


def test_padded_queries_do_not_count() -> None:
    results = Results({"decoder": 1})
    value = torch.tensor([[0.0, 0.0, 4.0], [1.0, 2.0, 0.0]])[:, None]
    real = torch.tensor([[False, False, True], [True, True, False]])
    put(results, value, queries=real)
    assert results["entropy"].mean().item() == pytest.approx(7 / 3)
    assert results["entropy"].last.flatten().tolist() == [4.0, 2.0]
    put(
        results, torch.full((2, 1, 1), 5.0), step=1, q=3, queries=torch.ones(2, 1, dtype=torch.bool)
    )
    assert results["entropy"].mean().item() == pytest.approx(17 / 5)


def test_a_batch_that_changes_is_padded_with_nan() -> None:
    results = Results({"decoder": 1})
    put(results, torch.ones(1, H, 4))
    put(results, torch.ones(4, H, 1), step=1, q=4)
    put(results, torch.ones(2, H, 1), step=2, q=5)
    series = results["entropy"]
    assert series.prefill.shape == (1, 1, H, 4) and series.decode.shape == (1, 4, H, 2)
    assert series.decode[0, 3, 0].isnan().tolist() == [False, True]
    assert series.mean().tolist() == [[1.0] * H]


def test_layers_measured_at_different_steps_are_aligned() -> None:
    results = Results({"decoder": 3})
    for layer, steps in ((0, (1, 2, 3)), (2, (2,))):
        for step in steps:
            put(results, torch.full((1, 1, 1), float(step)), layer=layer, step=step, q=step)
    series = results["entropy"]
    assert series.layers == [0, 2] and series.steps == [1, 2, 3]
    assert series.decode[1, 0, 0].nan_to_num(-1).tolist() == [-1, 2, -1]


def test_a_new_sequence_replaces_the_last_one() -> None:
    results, _ = filled()
    again = torch.rand(B, H, 4)
    for layer in range(2):
        put(results, again, layer=layer)
    assert torch.equal(results["entropy"].prefill[1], again)
    assert results["entropy"].decode.shape[-1] == 0
    for step in (1, 2, 1):  # two generations of which only the decode steps are measured
        put(results, torch.rand(B, H, 1), key="max", step=step, q=4 + step)
    assert results["max"].steps == [1]


def test_several_stacks_must_be_chosen_from() -> None:
    results = Results({"decoder": 1, "cross": 1})
    put(results, torch.ones(B, H, 4))
    put(results, torch.zeros(B, H, 4), stack="cross")
    with pytest.raises(FoveateError, match=r"'decoder', 'cross'"):
        _ = results["entropy"].prefill
    assert results["entropy"].stack("cross").prefill.sum() == 0
    with pytest.raises(FoveateError, match="not measured"):
        results["entropy"].stack("vision")
    assert "cross" in repr(results["entropy"])
    assert results["entropy"]._repr_html_().count("<svg") == 2


def test_gradients_are_kept() -> None:
    results = Results({"decoder": 1})
    x = torch.rand(B, H, 4, requires_grad=True)
    put(results, x[..., :2] * 2)
    put(results, x[..., 2:] * 2, q=2)
    results["entropy"].prefill.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full_like(x, 2.0))


def test_a_view_does_not_keep_its_base_alive() -> None:
    results = Results({"decoder": 1})
    base = torch.rand(B, H, 4, 65)
    put(results, base[..., 64])
    assert results["entropy"].prefill[0].untyped_storage().nbytes() == B * H * 4 * 4


def test_pandas() -> None:
    results, whole = filled()
    frame = results["entropy"].to_pandas()
    assert list(frame) == ["stack", "layer", "batch", "head", "phase", "position", "value", "step"]
    assert len(frame) == whole.numel()
    row = frame[
        (frame.layer == 1) & (frame["batch"] == 1) & (frame["head"] == 2) & (frame.step == 2)
    ]
    assert row.value.item() == pytest.approx(whole[1, 1, 2, 6].item())


def test_pandas_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    results, _ = filled()
    real_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FoveateError, match="pip install"):
        results["entropy"].to_pandas()


def test_it_shows_itself() -> None:
    results, _ = filled()
    assert "'entropy'" in repr(results) and "2 layers" in repr(results)
    assert repr(Results()) == "Results(nothing recorded)"


def test_what_is_refused() -> None:
    results = Results({"decoder": 2}, [measures.entropy()])
    with pytest.raises(FoveateError, match="run the model"):
        results["entropy"]
    put(results, torch.ones(B, H, 4))
    with pytest.raises(FoveateError, match="'entropy'"):
        results["mass:x"]
    with pytest.raises(FoveateError, match="phase"):
        results["entropy"].mean("training")
    put(results, torch.ones(B, H, 4), key="received")
    with pytest.raises(FoveateError, match="per query"):
        _ = results["received"].last
    put(results, torch.ones(B, H, 1), key="max", step=1, q=4)
    with pytest.raises(FoveateError, match="no prefill"):
        _ = results["max"].last
    results.clear()
    assert len(results) == 0


@pytest.mark.bench  # a clock has no place in the default run: the machine may be busy
def test_recording_costs_microseconds() -> None:
    results = Results({"decoder": 1})
    value = torch.rand(1, 9, 1)
    start = time.perf_counter()
    for step in range(1, 2001):
        put(results, value, step=step, q=step)
    assert (time.perf_counter() - start) / 2000 < 50e-6  # about 2 µs; wide, machines are shared


# -- kept ------------------------------------------------------------------------------------------
def same(one: Results, other: Results) -> None:
    """Everything that can be asked of the two has one answer."""
    assert list(one) == list(other) and one.stacks == other.stacks and repr(one) == repr(other)
    for key in one:
        assert one[key].stacks == other[key].stacks
        for stack in one[key].stacks:
            a, b = one[key].stack(stack), other[key].stack(stack)
            assert (a.axis, a.layers, a.steps) == (b.axis, b.layers, b.steps)
            assert torch.equal(a.positions, b.positions)
            for phase in ("prefill", "decode"):
                if a.axis == "block" and phase == "decode":
                    continue
                x, y = getattr(a, phase), getattr(b, phase)
                assert x.dtype == y.dtype and x.shape == y.shape
                assert torch.equal(x.nan_to_num(-7), y.nan_to_num(-7))
                p, q = a.real(phase), b.real(phase)
                assert (p is None and q is None) or torch.equal(p, q)
            if not key.endswith(".indices"):
                assert torch.equal(a.mean().nan_to_num(-7), b.mean().nan_to_num(-7))
            assert a.to_pandas().equals(b.to_pandas())


def everything() -> Results:
    """All kinds of measures, two stacks, chunks, decode, padding, a batch that changes, holes."""
    reads = [measures.received(as_="got"), measures.block_map(4), measures.rows([0])]
    results = Results({"decoder": 3, "cross": [0, 2]}, [*reads, measures.top(2)])
    g = torch.Generator().manual_seed(0)
    real = torch.tensor([[False, True, True, True], [True] * 4])
    for layer in (0, 2):
        for start in (0, 4):
            put(results, torch.rand(B, H, 4, generator=g), layer=layer, q=start, queries=real)
            put(results, torch.rand(B, H, start + 4, generator=g), key="got", layer=layer, q=start)
        put(results, torch.rand(B, H, 4, 4, generator=g), key="block_map", layer=layer)
        put(results, torch.rand(B, H, 1, 8, generator=g), key="rows", layer=layer)
        put(results, torch.rand(B, H, 4, 2, generator=g).half(), key="top.values", layer=layer)
        tops = torch.randint(-1, 4, (B, H, 4, 2), generator=g)
        put(results, tops, key="top.indices", layer=layer, kv=3)
        put(results, torch.rand(B, H, 4, generator=g).double(), key="mass:é | ü", stack="cross",
            layer=layer)  # fmt: skip
    for step in (1, 2):
        put(results, torch.rand(4, H, 1, generator=g), layer=2, step=step, q=7 + step)
        put(results, torch.full((B, H, 1), float("nan")).bfloat16(), key="max", step=step, q=7)
    return results


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    results = everything()
    path = results.save(tmp_path / "results.safetensors")
    again = Results.load(path)
    same(results, again)
    same(again, Results.load(again.save(tmp_path / "again")))
    with pytest.raises(FoveateError, match="positions of keys"):
        again["top.indices"].mean()
    put(again, torch.rand(B, H, 4), layer=0)  # it is alive: a new sequence begins
    assert again["entropy"].stack("decoder").positions.tolist()[:4] == [0, 1, 2, 3]


@given(
    layers=st.integers(1, 3),
    chunks=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    steps=st.integers(0, 3),
    batch=st.integers(1, 2),
    padded=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
@settings(max_examples=25, deadline=None)
def test_any_sequence_comes_back(
    tmp_path_factory: Any, layers: int, chunks: list[int], steps: int, batch: int, padded: bool,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    if not chunks and not steps:
        return
    results, start = Results({"decoder": layers}), 0
    for size in chunks:
        real = torch.rand(batch, size) > 0.3 if padded else None
        for layer in range(layers):
            value = torch.rand(batch, H, size).to(dtype)
            put(results, value, layer=layer, q=start, queries=real)
        start += size
    for step in range(1, steps + 1):
        for layer in range(layers):
            put(results, torch.rand(batch, H, 1).to(dtype), layer=layer, step=step, q=start + step)
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    same(results, Results.load(results.save(path)))


def test_a_graph_is_not_saved(tmp_path: Path) -> None:
    results = Results({"decoder": 1})
    put(results, torch.rand(B, H, 4, requires_grad=True) * 2)
    again = Results.load(results.save(tmp_path / "r"))
    assert not again["entropy"].prefill.requires_grad and results["entropy"].prefill.requires_grad


def test_layers_share_their_padding_in_the_file(tmp_path: Path) -> None:
    results, real = Results({"decoder": 9}), torch.ones(B, 400, dtype=torch.bool)
    for layer in range(9):
        put(results, torch.zeros(B, H, 400), layer=layer, queries=real)
    values = 9 * B * H * 400 * 4
    assert results.save(tmp_path / "r").stat().st_size < values + B * 400 + 2000
    from safetensors import safe_open

    with safe_open(tmp_path / "r", "pt") as file:
        assert sorted(file.keys()) == ["entropy | decoder | float32", "padding 0"]


def test_what_cannot_be_saved_or_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FoveateError, match="nothing was recorded"):
        Results({"decoder": 2}).save(tmp_path / "r")
    results, _ = filled()
    with pytest.raises(FoveateError, match=r"cannot be written to .*no/r'"):
        results.save(tmp_path / "no" / "r")
    with pytest.raises(FoveateError, match="cannot be written"):
        results.save(tmp_path)

    path = tmp_path / "r"
    with pytest.raises(FoveateError, match=r"cannot be read from .*r': .*run\.results\.save"):
        Results.load(path)
    for text in (b"", b"{}", b"not a file of ours at all, but long enough"):
        path.write_bytes(text)
        with pytest.raises(FoveateError, match="cannot be read"):
            Results.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(FoveateError, match="without them"):
        Results.load(path)
    head = {"format": "foveate results, version 9"}
    save_file({"x": torch.zeros(1)}, path, metadata={"foveate": json.dumps(head)})
    with pytest.raises(FoveateError, match=r"version 9.*reads 'foveate results, version 1'"):
        Results.load(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"foveate": "no JSON"})
    with pytest.raises(FoveateError, match="cannot be read"):
        Results.load(path)
    head = {"format": "foveate results, version 1", "stacks": {}, "shapes": {}, "log": {}}
    row = ["prefill", 0, 0, 0, "float32", 0, [1], None]
    head["log"] = {"entropy": {"decoder": {"0": [row]}}}
    save_file({"x": torch.zeros(1)}, path, metadata={"foveate": json.dumps(head)})
    with pytest.raises(FoveateError, match=r"it has no 'entropy \| decoder \| float32'"):
        Results.load(path)


def test_a_second_turn_counts_its_steps_anew() -> None:
    """Three steps, a further piece of the prompt, two steps: nothing of the first three is left."""
    results = Results({"decoder": 1})
    put(results, torch.zeros(B, H, 4))
    for step in (1, 2, 3):
        put(results, torch.full((B, H, 1), 1.0), step=step, q=3 + step)
    put(results, torch.zeros(B, H, 2), q=7)
    for step in (1, 2):
        put(results, torch.full((B, H, 1), 2.0), step=step, q=8 + step)
    series = results["entropy"]
    assert series.steps == [1, 2] and bool((series.decode == 2.0).all())
    assert series.positions.tolist() == [0, 1, 2, 3, 7, 8]
