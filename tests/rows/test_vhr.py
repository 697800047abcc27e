"""VHR: heads above the median of the distance between outputs with and without the picture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import GROUPED, IMAGE
from foveate.methods.vision.vhr import VHR, vision_aware

Make = Callable[..., Any]
PATCHES, TOKEN, HEADS, SIZE = 4, 5, 4, 8


def baseline(without: dict[int, Tensor], **options: Any) -> Any:
    """Plain attention."""
    return fv.Measure(fv.entropy())


@cache
def _built() -> Any:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    torch.manual_seed(0)
    text = LlamaConfig(**GROUPED | {"num_hidden_layers": 3})
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**IMAGE), text_config=text, image_token_index=TOKEN
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
    return model


def llava() -> Any:
    return copy.deepcopy(_built())


def items(padded: str | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two prompts with a picture, and the same without; ``padded`` fills up the second."""
    g = torch.Generator().manual_seed(3)
    words = torch.randint(6, 64, (2, 7), generator=g)
    pixels = torch.randn(2, 3, 8, 8, generator=g)
    with_picture, bare = [], []
    for row, n in zip(words.tolist(), (7, 7 if padded is None else 4), strict=True):
        with_picture.append([1, *[TOKEN] * PATCHES, *row[:n]])
        bare.append([1, *row[:n]])
    found = [_batch(rows, padded or "left") for rows in (with_picture, bare)]
    return found[0] | {"pixel_values": pixels}, found[1]


def _batch(rows: list[list[int]], side: str) -> dict[str, Tensor]:
    length = max(map(len, rows))
    ids, mask = torch.zeros(2, length, dtype=torch.int64), torch.zeros(2, length, dtype=torch.int64)
    for n, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(0, len(row))
        ids[n, place], mask[n, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


@contextmanager
def projecting(model: Any, act: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """``act(layer, outputs [B, S, H, D])`` on what enters each output projection."""

    def hook(layer: int) -> Callable[..., Any]:
        def run(module: Any, args: tuple[Tensor]) -> Any:
            new = act(layer, args[0].unflatten(-1, (HEADS, SIZE)))
            return None if new is None else (new.flatten(-2),)

        return run

    layers = model.model.language_model.layers
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(hook(n)) for n, layer in enumerate(layers)
    ]
    yield
    for one in hooks:
        one.remove()


def last(mask: Tensor) -> list[int]:
    return [int(row.nonzero().max()) for row in mask]


def heads_of(with_picture: Tensor, without: Tensor, outliers: bool) -> list[int]:
    """Equations 4, 6 and 7 for one item and layer, ``[H, D]`` both."""
    vhd = [float((a - b).norm()) for a, b in zip(with_picture, without, strict=True)]
    active = [float((b**2).sum()) for b in without]
    if outliers:
        limits = [float(torch.tensor(x).mean() + torch.tensor(x).std()) for x in (vhd, active)]
        vhd = [
            0.0 if v > limits[0] and a > limits[1] else v for v, a in zip(vhd, active, strict=True)
        ]
    order = sorted(vhd)
    return [h for h, v in enumerate(vhd) if v > (order[1] + order[2]) / 2]


def outputs_without(bare: dict[str, Tensor]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    model = llava()

    def keep(layer: int, out: Tensor) -> None:
        found[layer] = torch.stack([out[b, i] for b, i in enumerate(last(bare["attention_mask"]))])

    with torch.no_grad(), projecting(model, keep):
        model(**bare)
    return found


def check(make: Make) -> None:
    """Against hooks on the output projections: layer after layer, item by item."""
    for factor, outliers, padded in (
        (2.0, True, None), (2.0, False, None), (0.5, True, "left"), (3.0, True, "right")
    ):  # fmt: skip
        given, bare = items(padded)
        without, model, plain = outputs_without(bare), llava(), llava()
        places = last(given["attention_mask"])

        def scale(layer: int, out: Tensor) -> Tensor | None:
            if layer == 0:
                return None
            out = out.clone()
            for b, i in enumerate(places):
                chosen = heads_of(out[b, i].clone(), without[layer][b], outliers)
                out[b, :, chosen] *= factor
            return out

        with torch.no_grad(), projecting(plain, scale):
            want = plain(**given).logits
        method = make(without, factor=factor, outliers=outliers)
        with torch.no_grad(), fv.attach(model, method):
            got = model(**given).logits
        real = given["attention_mask"].bool()
        assert torch.allclose(got[real], want[real], atol=1e-4), (factor, outliers, padded)


def test_it_is_algorithm_1() -> None:
    check(VHR)


@torch.no_grad()
def test_what_it_compares_with_is_found() -> None:
    for padded in (None, "left", "right"):
        given, bare = items(padded)
        found, want = fv.find.head_outputs(llava(), bare), outputs_without(bare)
        assert all(torch.allclose(found[n], want[n], atol=1e-5) for n in range(3)), padded
        seen = fv.find.vhd(llava(), given, bare)
        assert seen.values.shape == (3, 2, HEADS) and seen.scores.kind == "vhd"
        assert torch.allclose(seen.token(HEADS), seen.values.sum((0, 2)))
        assert bool((seen.token(1) < seen.token(2)).all())
        same = fv.find.vhd(llava(), bare, bare)  # nothing changes: exactly 0, and no head chosen
        assert not same.values.any()
        method = VHR(found)
        with fv.attach(llava_ := llava(), method):
            llava_(**bare)
        assert not method.selected["model.language_model.layers.1.self_attn"].any()


@torch.no_grad()
def test_it_scales_slices_of_the_output_projection() -> None:
    given, bare = items()
    given = {name: value[:1] for name, value in given.items()}
    without = {n: t[:1] for n, t in outputs_without(bare).items()}
    model, method = llava(), VHR(without, factor=2.0, layers=2)
    with fv.attach(model, method):
        got = model(**given).logits
    ((_, chosen),) = method.selected.items()
    assert int(chosen.sum()) == HEADS // 2
    weight = model.model.language_model.layers[2].self_attn.o_proj.weight
    for h in chosen[0].nonzero().flatten().tolist():
        weight[:, h * SIZE : (h + 1) * SIZE] *= 2
    assert torch.allclose(model(**given).logits, got, atol=1e-4)


@torch.no_grad()
def test_the_heads_are_chosen_at_the_end_of_the_prompt_and_kept() -> None:
    given, bare = items("left")
    model, method = llava(), VHR(outputs_without(bare))
    with fv.attach(model, method):
        ids = model.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    chosen = {name: found.clone() for name, found in method.selected.items()}
    # as one forward over prompt and reply, with the heads known
    whole, scaled = llava(), {int(name.split(".")[3]): t for name, t in chosen.items()}

    def scale(layer: int, out: Tensor) -> Tensor | None:
        if layer not in scaled:
            return None
        return torch.where(scaled[layer][:, None, :, None], out * 2.0, out)

    mask = torch.nn.functional.pad(given["attention_mask"], (0, 4), value=1)
    with projecting(whole, scale):
        out = whole(input_ids=ids, attention_mask=mask, pixel_values=given["pixel_values"])
    assert torch.equal(out.logits[:, -5:-1].argmax(-1), ids[:, -4:])
    with fv.attach(model, method):
        static = model.generate(
            **given, max_new_tokens=4, min_new_tokens=4, do_sample=False,
            cache_implementation="static",
        )  # fmt: skip
    assert torch.equal(static, ids)
    for item, drop in ((0, 0), (1, 3)):  # each alone, without its padding
        one = {name: value[item : item + 1] for name, value in given.items()}
        for name in ("input_ids", "attention_mask"):
            one[name] = one[name][:, drop:]
        alone = VHR({n: t[item : item + 1] for n, t in outputs_without(bare).items()})
        with fv.attach(model, alone):
            model(**one)
        assert all(torch.equal(t[0], chosen[n][item]) for n, t in alone.selected.items())
    same = VHR(outputs_without(bare), factor=1.0)
    with fv.attach(model, same):
        logits = model(**given).logits
    assert torch.equal(logits, model(**given).logits)


def test_beams_have_the_heads_of_their_item() -> None:
    given, bare = items()
    model, method = llava(), VHR(outputs_without(bare))
    with fv.attach(model, method):
        model.generate(**given, max_new_tokens=3, num_beams=2, do_sample=False)
    for found in method.selected.values():
        assert found.shape == (4, HEADS) and torch.equal(found[::2], found[1::2])


def test_a_head_that_surges_without_the_picture_is_left_out() -> None:
    out, bare = torch.zeros(1, 6, 2), torch.zeros(1, 6, 2)
    out[0, 1:4, 0] = torch.tensor([1.0, 1.1, 1.2])
    bare[0, 5, 0] = 9.0
    assert vision_aware(out, bare, outliers=False)[0].nonzero().flatten().tolist() == [2, 3, 5]
    assert vision_aware(out, bare)[0].nonzero().flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("without", "options", "sentence"),
    [
        ({}, {}, "head_outputs"),
        ({0: torch.ones(3)}, {}, "head_outputs"),
        (None, {"factor": -1.0}, "factor from 0"),
        (None, {"factor": "2"}, "factor from 0"),
        (None, {"phase": "decode"}, "in the prefill"),
    ],
)
def test_what_is_refused(without: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        VHR({0: torch.ones(1, 4, 8)} if without is None else without, **options)


@torch.no_grad()
def test_what_does_not_fit() -> None:
    given, bare = items()
    without, model = outputs_without(bare), llava()
    with pytest.raises(fv.FoveateError, match="has the layers"):
        with fv.attach(model, VHR({0: without[0]})):
            pass
    with pytest.raises(fv.FoveateError, match="of 3 heads"):
        with fv.attach(model, VHR({n: t[:, :3] for n, t in without.items()})):
            pass
    with pytest.raises(fv.FoveateError, match="same items"):
        with fv.attach(model, VHR({n: t.repeat(2, 1, 1) for n, t in without.items()})):
            model(**given)
    first = {n: t[:1] for n, t in without.items()}  # not to be taken for the second item's too
    with pytest.raises(fv.FoveateError, match=r"1 item\(s\) .* has 2"):
        fv.attach(model, VHR(first), prompt=SimpleNamespace(batch_size=2, regions={}))
    with pytest.raises(fv.FoveateError, match="same prompts"):
        fv.find.vhd(model, given, {k: v[:1] for k, v in bare.items()})
    with pytest.raises(fv.FoveateError, match="1 to 4 heads"):
        fv.find.vhd(model, given, bare).token(9)
