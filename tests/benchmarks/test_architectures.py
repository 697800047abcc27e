"""The sweep: how files are classified, tiny models of them, verdicts and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.tiny import classes
from benchmarks.tiny.build import build, inputs_of
from benchmarks.tiny.config import tiny
from benchmarks.tiny.page import page

from benchmarks import architectures
from foveate.check.report import Outcome, Report, Stack


@pytest.fixture(scope="module")
def there() -> dict[str, Path]:
    return architectures.files()


def test_every_modelling_file_is_taken(there: dict[str, Path]) -> None:
    assert len(there) > 300
    assert {"llama", "blip", "blip/blip_text"} <= set(there)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", "interface"), ("vit", "interface"), ("bloom", "own"), ("wavlm", "own"),
        ("deberta_v2", "own"), ("llava", "wrapper"), ("encoder_decoder", "wrapper"),
        ("mamba", "none"), ("resnet", "none"),
    ],
)  # fmt: skip
def test_kinds(there: dict[str, Path], family: str, kind: str) -> None:
    assert classes.kind(there[family]) == kind


def test_two_families_from_file_to_row(there: dict[str, Path]) -> None:
    torch.set_num_threads(1)
    llama = architectures.examine("llama", there["llama"])
    assert (llama["class"], llama["verdict"], llama["why"]) == ("LlamaForCausalLM", "works", "")
    assert llama["report"]["stacks"][0]["layers"] == 2 and llama["parameters"] < 100_000
    mamba = architectures.examine("mamba", there["mamba"])
    assert (mamba["kind"], mamba["verdict"]) == ("none", "no attention")
    absent = architectures.examine("auto", there["auto"])
    assert absent["verdict"] == "cannot be built" and "maps configurations" in absent["why"]
    payload = {
        "machine": dict.fromkeys(("transformers", "torch", "cpu", "cores", "date", "commit"), "x"),
        "seconds": 1,
        "rows": [llama, mamba, absent],
        "totals": classes.totals([llama, mamba, absent]),
    }
    assert json.loads(json.dumps(payload)) == payload
    text = page(payload)
    assert "`llama`" in text and "1 (100 %)" in text and "maps configurations" in text


def test_a_crash_and_a_hang_are_rows(
    there: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import time

    def examine(family: str, path: Path) -> dict[str, Any]:
        if family == "vit":
            os._exit(7)
        if family == "bert":
            time.sleep(60)
        raise RuntimeError("an error of its own")

    monkeypatch.setattr(architectures, "examine", examine)
    monkeypatch.setattr(architectures, "SECONDS", 1)
    wanted = [(name, there[name]) for name in ("vit", "bert", "llama")]
    rows = {row["family"]: row["why"] for row in architectures.sweep(wanted)}
    assert "ended with status 7" in rows["vit"]
    assert "did not end within 1 s" in rows["bert"]
    assert "an error of its own" in rows["llama"]


def test_nested_and_derived_fields_shrink() -> None:
    from transformers import Gemma3Config, Qwen2VLConfig

    gemma = tiny(Gemma3Config)
    assert gemma.text_config.hidden_size == gemma.vision_config.hidden_size == 32
    assert set(gemma.text_config.layer_types) == {"sliding_attention", "full_attention"}
    assert 2 < gemma.image_token_index < 64
    rope = tiny(Qwen2VLConfig).text_config.rope_parameters
    assert sum(rope["mrope_section"]) == 4  # half a head of 8


def test_a_picture_reaches_the_tower() -> None:
    from transformers import Qwen2VLForConditionalGeneration

    given = inputs_of(build(Qwen2VLForConditionalGeneration))
    assert {"pixel_values", "image_grid_thw"} <= set(given)


def report(*outcomes: Outcome, unreached: tuple[tuple[str, str], ...] = ()) -> Report:
    stack = Stack("decoder", "decoder", 2, 4, "interface", "a", "b")
    return Report("M", (stack,), unreached, outcomes)


GOOD = Outcome("gain 1", "decoder", "passed")


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        (report(GOOD), "works", ""),
        (report(GOOD, Outcome("cache", None, "failed", "off")), "fails", "cache: off"),
        (report(Outcome("gain 1", "decoder", "refused", "no")), "refused", "no"),
        (report(GOOD, Outcome("gain", "x", "refused", "no")), "works in part", "gain (x): no"),
        (report(GOOD, unreached=(("a", "OddAttention"),)), "works in part", "1 × OddAttention"),
        (report(GOOD, unreached=(("a", "DeltaAttention"),)), "works", "no softmax"),
        (report(Outcome("cache", None, "not applicable", "no text")), "not shown", "no text"),
        (Report("M", (), (), ()), "fails", "no site of it"),
    ],
)
def test_verdicts(given: Report, verdict: str, words: str) -> None:
    found, why = classes.verdict("interface", given)
    assert found == verdict and words in why


def test_a_file_without_attention_may_have_no_sites() -> None:
    assert classes.verdict("none", Report("M", (), (), ()))[0] == "no attention"
