"""The benchmarks of sparse attention: their documents, densities, tables and the plot."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from benchmarks.sparse_methods import METHODS, SIZED, density, sized
from benchmarks.sparse_plot import svg
from benchmarks.sparse_world import ask, document

import foveate as fv
from benchmarks import harness, sparse_methods, sparse_prefill, sparse_quality
from foveate.find.tuning import share


def test_a_document_holds_its_facts_and_asks_for_them(smollm2: tuple[Any, Any]) -> None:
    tokenizer = smollm2[1]
    text = document(tokenizer, 700, seed=1, each=4)
    assert len(text.ids) == len(text.plain) == 700
    words = tokenizer.decode(text.ids)
    kinds = [one.kind for one in text.questions]
    assert kinds == ["needle"] * 4 + ["multi-key"] * 4
    for one in text.questions:
        value = tokenizer.decode(one.value)
        assert words.count(f" {value}") == 1 and len(one.value) == 4
        assert one.rivals[0] == one.value[0] and len(set(one.rivals)) == len(one.rivals)
        assert len(one.rivals) == (9 if one.kind == "needle" else 4)
        lead = tokenizer.decode(one.ids).rpartition("assistant\n")[2]
        assert f"{lead.strip()} {value}" in words  # the answer begins as the fact does
    assert 0 < sum(text.plain) < 700 - 4 * 8
    assert document(tokenizer, 700, 1, 4) == text != document(tokenizer, 700, 2, 4)


def test_asked_behind_the_cache_as_in_one_piece(smollm2: tuple[Any, Any]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    text = document(smollm2[1], 400, seed=0, each=2)
    found = ask(model, text, None)
    assert found["tokens"] == 400 and set(found["right"]) == {"needle", "multi-key"}
    one = text.questions[-1]
    whole = torch.tensor([text.ids + one.ids + one.value])
    with torch.no_grad():
        logits = model(whole).logits[0]
    logp = logits[-len(one.value) - 1 : -1].log_softmax(-1)
    wanted = float(logp.gather(1, torch.tensor(one.value)[:, None]).sum())
    assert found["logp"]["multi-key"][-1] == pytest.approx(wanted, abs=2e-3)
    plain = torch.tensor(text.plain)[1:]
    each = torch.nn.functional.cross_entropy(logits[:399], whole[0, 1:400], reduction="none")
    assert found["loss"] == pytest.approx(float(each[plain].mean()), abs=1e-3)
    window = ask(model, text, [fv.SlidingWindow(8, sinks=1)])
    assert abs(window["loss"] - found["loss"]) > 1e-3
    inside = ask(model, text, [fv.SlidingWindow(8, sinks=1)], everything=True)
    with torch.no_grad(), fv.attach(model, fv.SlidingWindow(8, sinks=1)):
        logp = model(whole).logits[0, -len(one.value) - 1 : -1].log_softmax(-1)
    wanted = float(logp.gather(1, torch.tensor(one.value)[:, None]).sum())
    assert inside["logp"]["multi-key"][-1] == pytest.approx(wanted, abs=2e-3)
    assert abs(inside["logp"]["multi-key"][-1] - window["logp"]["multi-key"][-1]) > 1e-3


@pytest.mark.parametrize("name", SIZED)
def test_patterns_keep_to_their_density(name: str) -> None:
    for wanted in (1 / 2, 1 / 8):
        try:
            pattern = sized(name, wanted, 1024)
        except fv.FoveateError as error:
            assert wanted < 1 / 4 and "more than the" in str(error)
            continue
        assert 0.6 * wanted < density(pattern, 1024) <= wanted


def test_routed_patterns_are_counted_by_what_they_choose() -> None:
    moba = fv.patterns.MoBA(32, 3)
    q, k = torch.randn(2, 1, 1, 300, 16, generator=torch.Generator().manual_seed(0))
    seen = moba.route(q, k, causal=True, q_offset=0, scale=0.25).matrix()
    assert density(moba, 300) == pytest.approx(float(seen.sum()) / (300 * 301 / 2))
    assert density(fv.SlidingWindow(40), 300) == share(fv.SlidingWindow(40), 300)


def test_estimates_and_corrections_have_a_place() -> None:
    for name in ("HyperAttention", "window + delta"):
        for wanted in (1 / 2, 1 / 4):
            assert METHODS[name](wanted, 2048)
    with pytest.raises(fv.FoveateError, match="full rows alone"):
        sparse_methods.delta(1 / 8, 1024)


def cell(right: int, loss: float, seconds: float, threads: int = 2) -> dict[str, Any]:
    answers = [n < right for n in range(4)]
    return {"right": {"needle": answers, "multi-key": answers}, "loss": loss, "seconds": seconds,
            "threads": threads}  # fmt: skip


def test_the_page_says_what_the_cells_say() -> None:
    kept = {
        "1024/0/dense/1": cell(3, 2.0, 4.0),
        "1024/1/dense/1": cell(1, 2.5, 4.0, threads=1),
        "1024/0/HiP/0.25": cell(2, 2.25, 2.0),
        "1024/1/HiP/0.25": cell(1, 2.5, 9.0, threads=1),
        "1024/2/HiP/0.25": cell(4, 2.5, 9.0),  # dense was not asked: no row
        "1024/0/DHSA/0.25": {"passed over": "too small"},
    }
    times = {"1024": {"ratio": {"HiP/0.25": 0.5, "MoBA/0.5": 0.25}}}
    text = sparse_quality.page(kept, harness.machine(), times)
    assert "| dense | 1 | 50 % (22–78) | 50 % (22–78) | +0.000 | 1.00 |" in text
    assert "| HiP | 1/4 | 38 % (14–69) | 38 % (14–69) | +0.125 | 0.50 |" in text
    assert "| DHSA" not in text and "2,048" not in text
    assert "+0.125 |  |" in sparse_quality.page(kept, harness.machine(), {})  # no times taken
    more = {**kept, "1024/0/MoBA/0.5": cell(2, 2.0, 1.0)}
    tokens, points = sparse_quality.points(more, times)
    assert tokens == 1024 and ("HiP", 0.25, 0.5, 0.375) in points
    picture = ElementTree.fromstring(svg(points, "a & b"))
    assert sum(1 for one in picture.iter() if one.tag.endswith("circle")) == 6


def test_the_page_is_that_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: getattr(sparse_quality, name) for name in ("PAGE", "PLOT")}
    for name, path in written.items():
        monkeypatch.setattr(sparse_quality, name, tmp_path / path.name)
    sparse_quality.publish()
    assert sparse_quality.PAGE.read_text() == written["PAGE"].read_text()
    if sparse_quality.PLOT.exists():
        assert sparse_quality.PLOT.read_text() == written["PLOT"].read_text()


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(model: Any, text: Any, methods: Any) -> dict[str, Any]:
        asked.append(methods)
        return cell(2, 2.0, 1.0)

    monkeypatch.setattr(sparse_quality, "FILE", tmp_path / "kept.json")
    monkeypatch.setattr(sparse_quality, "SIZES", {1024: (1, 4)})
    monkeypatch.setattr(sparse_quality, "METHODS", {"window": METHODS["window + 4 sinks"]})
    monkeypatch.setattr(sparse_quality.fv, "load", lambda name: (None, None))
    monkeypatch.setattr(sparse_quality, "document", lambda *given: None)
    monkeypatch.setattr(sparse_quality, "ask", answer)
    assert len(sparse_quality.run(None)) == 4 and asked[0] is None
    assert len(sparse_quality.run(None)) == 4 and len(asked) == 4
    assert sparse_quality.run(0) and len(asked) == 4


def test_the_prefill_is_timed_and_its_accuracy_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []

    def answers(model: Any, text: Any, methods: Any, everything: bool) -> dict[str, Any]:
        assert everything
        right = 6 if not methods else 2 if len(methods) == 1 else 5
        return {"right": {"needle": [True], "multi-key": [n < right for n in range(8)]}}

    class Model:
        def __call__(self, **given: Any) -> None:
            assert given["input_ids"].shape == (1, 5)

    monkeypatch.setattr(sparse_prefill.fv, "load", lambda name: (Model(), None))
    monkeypatch.setattr(sparse_prefill.fv, "attach", lambda model, *methods: nullcontext())
    monkeypatch.setattr(
        sparse_prefill, "document", lambda *given: SimpleNamespace(ids=[1, 2, 3, 4, 5])
    )
    monkeypatch.setattr(sparse_prefill, "ask", answers)
    monkeypatch.setattr(sparse_prefill, "write", lambda name, title, found: rows.extend(found))
    sparse_prefill.main(documents=2, rounds=1)
    assert len(rows) == 5
    window, delta = rows[3:]
    assert window.ratio == pytest.approx(3 / 7) and window.met
    assert delta.ratio == pytest.approx(6 / 7) and delta.met
    assert "12 right, dense attention 14, of 18" in delta.note
