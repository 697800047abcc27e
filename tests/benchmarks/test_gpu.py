"""The GPU benchmark: at toy size on the CPU, and its refusal where there is no GPU."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from benchmarks.harness import Timing

from benchmarks import gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_refuses_in_a_sentence_without_a_gpu() -> None:
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu.main()


@pytest.mark.parametrize("backend", ["auto", "flex"])
def test_our_candidates_agree_with_float64_at_toy_size(backend: str) -> None:
    rows = list(gpu.checked(64, (4, 2, 16), "cpu", backend))
    assert len(rows) == 9
    for row in rows:
        assert row.note.startswith("output "), row.note
        parts = row.note.split(", ")
        output = float(parts[0].split()[-1])
        others = [float(part.split()[-1]) for part in parts[1:]]
        assert output < 0.03  # bfloat16
        assert all(error < 1e-2 for error in others), row.note


def test_each_figure_is_written_as_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpu.json"
    seen: list[int] = []
    real = gpu.save

    def save(*args: object) -> object:
        done = real(*args)  # type: ignore[arg-type]
        seen.append(len(json.loads(path.read_text())["rows"]))
        return done

    monkeypatch.setattr(gpu, "save", save)
    monkeypatch.setattr(gpu, "checked", lambda *args: iter([Timing("checked", 0.0, 0.0)]))
    options = {"heads": (4, 2, 16), "device": "cpu", "rounds": 1, "check_at": 32}
    rows = gpu.measure(path, lengths=(64,), **options)  # type: ignore[arg-type]
    assert seen == list(range(1, len(rows) + 1))
    assert len(rows) == 1 + len(gpu.PEERS) + 9
    found = json.loads(path.read_text())
    assert found["device"]["torch"] == version("torch")
    for row in found["rows"][1:]:
        assert row["ratio"] and row["note"] == "memory not taken", row


def test_the_peers_compute_the_same_attention() -> None:
    case = gpu.Case(64, (4, 2, 16), "cpu")
    outs = {name: case.peer(name)() for name in gpu.PEERS}
    plain = case.ours("nothing asked")().out
    gained = case.ours("eight gains on eight regions")().out
    for name, out in outs.items():
        want = gained if "gains" in name else plain
        torch.testing.assert_close(out, want, atol=3e-2, rtol=3e-2, msg=lambda m: f"{name}: {m}")
    assert (gained - plain).abs().max() > 0.1


def test_what_fails_is_a_row_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: gpu.Case, name: str) -> object:
        if name == "FlexAttention":
            raise torch.OutOfMemoryError("too much")
        return lambda: torch.zeros(())

    monkeypatch.setattr(gpu.Case, "peer", refuse)
    monkeypatch.setattr(gpu.Case, "ours", lambda *args: lambda: torch.zeros(()))
    rows = list(gpu.timed(64, (4, 2, 16), "cpu", "auto", 1))
    assert rows[1].note == "out of memory" and rows[1].ratio is None
    assert all(row.ratio for row in rows if row is not rows[1])
