"""DenseDiffusion against scores moved by the paper's formula, written out as a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveate as fv
from denoisers import IMAGE, TEXT, denoiser
from denoisers import given as inputs
from foveate.methods._method import Method
from foveate.methods.diffusion._moved import terms_of

Make = Callable[..., Any]
# 8 × 8 pixels, in quarters that are whole patches of every grid here
LEFT, CORNER = torch.zeros(8, 8), torch.zeros(8, 8)
LEFT[:, :4] = 1
CORNER[4:, 4:] = 1
WORDS = {
    "one": torch.arange(TEXT) == 2,
    "two": (torch.arange(TEXT) == 4) | (torch.arange(TEXT) == 5),
}


def baseline(segments: Any, **_: Any) -> Any:
    """Plain attention."""
    return fv.Measure(fv.entropy(), stack="all")


class Probe(Method):
    """Keeps the tensors of every call, and what came out."""

    def __init__(self) -> None:
        super().__init__(stack="all")
        self.seen: list[tuple[str, tuple[Tensor, ...], Tensor]] = []

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Any, call: Any) -> Any:
        self._kept = q, k, v
        return q, k, v

    def outputs(self, out: Tensor, site: Any, call: Any) -> Tensor:
        self.seen.append((site.kind, self._kept, out))
        return out


def moved(s: Tensor, pairs: Tensor, a: Tensor) -> Tensor:
    """``s + a m (max - s) - a (1 - m) (s - min)`` on a block of scores."""
    high, low = s.amax(-1, keepdim=True), s.amin(-1, keepdim=True)
    return s + a * pairs * (high - s) - a * (1 - pairs) * (s - low)


def written_out(
    kind: str, tensors: tuple[Tensor, ...], on_text: float, on_image: float, time: float, rest: bool
) -> Tensor:
    """The head outputs of one call; in joint attention the image comes first (SD3)."""
    q, k, v = (tensor.double() for tensor in tensors)
    s = q @ k.mT / q.shape[-1] ** 0.5
    n = q.shape[2] - (TEXT if kind == "joint" else 0)
    side = int(n**0.5)
    each = 8 // side
    masks = [m[::each, ::each].flatten().double() for m in (LEFT, CORNER)]
    words = [WORDS[name].double() for name in ("one", "two")]
    of_words = sum(w * (1 - m.mean()) for m, w in zip(masks, words, strict=True))
    if rest:
        masks.append(1 - sum(masks))
        words.append(1 - sum(words))
    among = sum(torch.outer(m, m) for m in masks)
    between = sum(torch.outer(m, w) for m, w in zip(masks, words, strict=True))
    area = sum(m * m.mean() for m in masks)
    inside = sum(masks)
    much = (time**5 * (1 - area) * inside)[:, None]
    if kind == "self":
        s = moved(s, among, on_image * much)
    elif kind == "cross":
        s = moved(s, between, on_text * much)
    else:
        s = torch.cat([
            torch.cat([
                moved(s[:, :, :n, :n], among, on_image * much),
                moved(s[:, :, :n, n:], between, on_text * much),
            ], -1),
            torch.cat([
                moved(s[:, :, n:, :n], between.T, on_text * time**5 * of_words[:, None]),
                s[:, :, n:, n:],
            ], -1),
        ], 2)  # fmt: skip
    return s.softmax(-1) @ v


@torch.no_grad()
def check(make: Make) -> None:
    """Every head output of a UNet (self and cross) and of SD3 (joint, and an image's own)."""
    for name, on_text, on_image, time, rest in (
        ("unet", 1.0, 0.3, 0.9, True),
        ("unet", 2.0, 0.0, 0.5, False),
        ("sd3", 1.0, 0.3, 0.95, True),
        ("sd3", 1.0, 0.6, 0.95, False),
    ):
        model, probe = denoiser(name), Probe()
        method = make(
            {"one": LEFT, "two": CORNER},
            on_text=on_text,
            on_image=on_image,
            background=rest,
            steps=range(9),
        )
        with fv.attach(model, method, probe, regions=WORDS):
            model(**inputs(name, time=1000 * time))
        kinds = {kind for kind, _, _ in probe.seen}
        assert kinds == ({"self", "cross"} if name == "unet" else {"joint", "self"})
        for kind, tensors, got in probe.seen:
            want = written_out(kind, tensors, on_text, on_image, time, rest)
            assert torch.allclose(got.double(), want, atol=2e-5), (name, kind)
    assert IMAGE["sd3"] == 16


def test_it_is_the_papers_formula() -> None:
    check(fv.DenseDiffusion)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_all_the_way_pairs_have_the_rows_maximum_and_others_its_minimum(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 2, 5, 4, generator=generator, dtype=torch.float64)
    k = torch.randn(1, 2, 6, 4, generator=generator, dtype=torch.float64)
    rows = torch.nn.functional.one_hot(torch.randint(2, (1, 5), generator=generator), 2).double()
    keys = torch.nn.functional.one_hot(torch.randint(2, (1, 6), generator=generator), 2).double()
    every = torch.ones(6, dtype=torch.bool)
    much = torch.ones(1, 1, 5, dtype=torch.float64)
    s = 0.5 * q @ k.mT
    terms = terms_of(q, k, much, rows, every, keys, 0.5, None, True)
    new = s + sum(phi @ psi.mT for phi, psi in terms)
    pairs = (rows @ keys.mT).bool()[:, None].expand_as(s)
    high, low = s.amax(-1, keepdim=True), s.amin(-1, keepdim=True)
    assert torch.allclose(new, torch.where(pairs, high, low))
    assert not list(terms_of(q, k, 0 * much, rows, every, keys, 0.5, None, True))


@torch.no_grad()
def test_no_weight_is_the_model_itself() -> None:
    model, given_ = denoiser("unet"), inputs("unet")
    method = fv.DenseDiffusion({"one": LEFT}, on_text=0.0, on_image=0.0, steps=0)
    with fv.attach(model, method, regions=WORDS):
        got = model(**given_).sample
    assert torch.allclose(got, model(**given_).sample, atol=1e-6)
    assert pytest.approx(0.25) == float(CORNER.mean())
