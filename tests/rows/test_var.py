"""VAR: weights of visual sinks times p; what is taken goes to the other patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from edited_eager import edited
from families import build, inputs
from foveate.methods.vision.var import VAR, default_tau, sink_values

Make = Callable[..., Any]
DIMS, TAU = (0, 19), 1.4
PICTURE = slice(3, 8)


def baseline(**options: Any) -> Any:
    """Plain attention."""
    return fv.Measure(fv.entropy())


def picture(given: dict[str, Tensor]) -> Tensor:
    """Where a picture would stand, behind the padding: bool ``[B, S]``."""
    mask = given.get("attention_mask", torch.ones_like(given["input_ids"]))
    found = torch.zeros_like(mask, dtype=torch.bool)
    for row, first in enumerate(mask.argmax(1).tolist()):
        found[row, first + PICTURE.start : first + PICTURE.stop] = True
    return found & mask.bool()


@contextmanager
def seen_by(model: Any, into: list[Tensor]) -> Iterator[None]:
    """Keep what enters each layer."""
    taken = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: into.append((args or [kwargs["hidden_states"]])[0]),
            with_kwargs=True,
        )
        for layer in model.model.layers
    ]
    yield
    for hook in taken:
        hook.remove()


def redistributed(
    p: Tensor, x: Tensor, image: Tensor, heads: list[int], keep: float, rho: float, summ: float
) -> Tensor:
    """One row after the other: ``p [B, H, S, S]`` float64, ``x [B, S, dim]``, ``image [B, S]``."""
    p, x = p.clone(), x.double()
    for b in range(p.shape[0]):
        phi = [max(abs(float(t[d])) for d in DIMS) / float((t**2).mean().sqrt()) for t in x[b]]
        sinks = [j for j, value in enumerate(phi) if value > TAU]
        patches = image[b].nonzero().flatten().tolist()
        visual = [j for j in sinks if j in patches]
        others = [j for j in patches if j not in sinks]
        if not visual:
            continue
        for h in heads:
            for i in range(max(patches) + 1, p.shape[2]):
                row = p[b, h, i]
                on_image, on_others = row[patches].sum(), row[others].sum()
                if on_image < summ or on_others < rho * on_image or on_others == 0:
                    continue
                taken = (1 - keep) * row[sinks].sum()
                new = row.clone()
                new[sinks] *= keep
                new[others] += taken * row[others] / on_others
                p[b, h, i] = new
    return p


def check(make: Make) -> None:
    """Against attention written out in float64, row by row; padded batches, chosen heads."""
    for keep, rho, summ, heads, padded in (
        (0.6, 0.5, 0.2, None, None),
        (0.0, 0.0, 0.0, None, "left"),
        (0.3, 0.6, 0.3, {0: [1], 1: [0, 3]}, "left"),
        (0.0, 0.4, 0.1, None, "right"),
    ):
        given = inputs("llama", padded=padded)
        image, model, eager = picture(given), build("llama"), build("llama", "eager")
        chosen = {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]} if heads is None else heads
        entered: list[Tensor] = []

        def edit(layer: int, p: Tensor) -> Tensor:
            return redistributed(p, entered[layer], image, chosen[layer], keep, rho, summ)

        with torch.no_grad(), edited(eager, edit), seen_by(eager, entered):
            want = eager(**given).logits
        method = make(p=keep, rho=rho, summ=summ, heads=heads, tau=TAU)
        with torch.no_grad(), fv.attach(model, method, regions={"image": image}):
            got = model(**given).logits
        real = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()
        assert torch.allclose(got[real], want[real], atol=1e-4), (keep, heads, padded)


def real(**options: Any) -> VAR:
    heads = options["heads"]
    return VAR(DIMS, layers=None if heads else range(2), **options)


def test_it_is_the_papers_formula() -> None:
    check(real)


def test_the_oracle_has_rows_to_edit() -> None:
    given = inputs("llama")
    image, entered = picture(given), []
    with torch.no_grad(), seen_by(model := build("llama"), entered):
        model(**given)
    for x in entered:
        sinks = sink_values(x, DIMS) > TAU
        assert bool((sinks & image).any()) and bool((~sinks & image).any())


@torch.no_grad()
def test_it_goes_on_in_decode_with_the_sinks_of_the_prompt() -> None:
    given = inputs("llama")
    ids, image = given["input_ids"], picture(given)[:, :9]  # of a prompt of nine tokens
    method = VAR((8, 27), p=0.2, tau=TAU, layers=range(2))  # the last two tokens are no sinks
    with fv.attach(model := build("llama"), method, regions={"image": image}):
        whole = model(input_ids=ids).logits
    assert not any(found[:, 9:].any() for found in method.sinks.values())
    for chunks in ((9, 1, 1), (5, 4, 1, 1)):
        with fv.attach(model, method, regions={"image": image}):
            cache, pieces = None, []
            for part in ids.split(chunks, 1):
                out = model(input_ids=part, past_key_values=cache, use_cache=True)
                cache, _ = out.past_key_values, pieces.append(out.logits)
        assert torch.allclose(torch.cat(pieces, 1), whole, atol=1e-4), chunks
        assert all(found.shape[1] == 9 for found in method.sinks.values())


@torch.no_grad()
def test_batches_beams_and_static_caches() -> None:
    given = inputs("llama", padded="left")
    image, model = picture(given), build("llama")
    method = VAR(DIMS, p=0.0, rho=0.0, summ=0.0, tau=TAU, layers=range(2))

    def said(rows: slice, drop: int = 0, **options: Any) -> Tensor:
        some = {name: value[rows, drop:] for name, value in given.items()}
        with fv.attach(model, method, regions={"image": image[rows, drop:]}):
            out = model.generate(
                **some, max_new_tokens=3, min_new_tokens=3, do_sample=False, **options
            )
        return out[:, -3:]

    both = said(slice(None))
    assert torch.equal(both[:1], said(slice(0, 1), drop=4))  # without its padding
    assert torch.equal(both[1:], said(slice(1, 2)))
    assert torch.equal(both, said(slice(None), cache_implementation="static"))
    said(slice(None), num_beams=2)
    for found in method.sinks.values():
        assert found.shape[0] == 4 and torch.equal(found[::2], found[1::2])
    half, plain = build("llama").half(), logits_of(model, method, given, image)
    real = given["attention_mask"].bool()
    got = logits_of(half, method, given, image).float()
    assert torch.allclose(got[real], plain[real], atol=0.1)


def logits_of(model: Any, method: Any, given: dict[str, Tensor], image: Tensor) -> Tensor:
    with fv.attach(model, method, regions={"image": image}):
        return model(**given).logits


@torch.no_grad()
def test_a_row_sums_to_one_and_other_weights_stay() -> None:
    given = inputs("llama")
    image, model = picture(given), build("llama")
    look = fv.Measure(fv.rows([-1]), layers=0)

    def last(*methods: Any) -> Tensor:
        with fv.attach(model, *methods, look, regions={"image": image}) as run:
            model(**given)
        return run.results["rows"].prefill[0, ..., 0, :]

    plain, method = last(), VAR(DIMS, p=0.0, rho=0.0, summ=0.0, tau=TAU, heads={0: [0, 2]})
    moved = last(method)
    (sinks,) = method.sinks.values()
    text = ~image & ~sinks
    assert torch.allclose(moved.sum(-1), torch.ones(2, 4))
    assert torch.allclose(moved[:, [1, 3]], plain[:, [1, 3]], atol=1e-6)
    for b in range(2):
        assert torch.allclose(moved[b][:, text[b]], plain[b][:, text[b]], atol=1e-6)
        assert moved[b, 0, sinks[b]].abs().max() < 1e-9 < plain[b, 0, sinks[b]].min()
    assert torch.equal(last(VAR(DIMS, p=1.0, layers=0)), plain)


def test_the_threshold_is_the_papers_at_its_size() -> None:
    assert default_tau(4096) == 20.0
    assert default_tau(64) ** 2 / 64 == pytest.approx(20.0**2 / 4096)
    x = torch.zeros(1, 2, 16)
    x[0, 0, 3], x[0, 1] = -2.0, 1.0
    assert sink_values(x, [3, 4]).tolist()[0] == pytest.approx([4.0, 1.0], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dims": ()}, "sink dimensions"),
        ({"dims": "3"}, "sink dimensions"),
        ({"dims": (-1,)}, "sink dimensions"),
        ({"p": 1.2}, "p from 0 to 1"),
        ({"rho": "half"}, "rho from 0 to 1"),
        ({"summ": -0.1}, "summ from 0 to 1"),
        ({"tau": 0}, "tau greater than 0"),
        ({"image": ""}, "name of a region"),
        ({"phase": "decode"}, "in the prefill"),
        ({"steps": 3}, "in the prefill"),
    ],
)
def test_what_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        VAR(**({"dims": DIMS} | options))


def test_what_does_not_fit_the_model() -> None:
    model, given = build("llama"), inputs("llama")
    with pytest.raises(fv.FoveateError, match="dimensions 0–31"):
        with fv.attach(model, VAR((99,), layers=0), regions={"image": picture(given)}):
            model(**given)
    with pytest.raises(fv.FoveateError, match="image"), fv.attach(model, VAR(DIMS, layers=0)):
        pass
    with pytest.raises(fv.FoveateError, match="first two layers"):
        with fv.attach(model, VAR(DIMS), regions={"image": picture(given)}):
            pass
