"""Every stable method on every family: its definition, the cache, batches, half precision."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import foveate as fv
from families import BY_NAME, build, inputs, logits
from foveate._implements import implementations
from foveate.methods.stable import STABLE, Target
from matrix import NAMES, PLACES, Place, away, place

TEXT = [one for one in PLACES if BY_NAME[one[0]].inputs in ("ids", "both")]
CACHED = [one for one in PLACES if one[1] in ("decoder", "cross") and BY_NAME[one[0]].generates] + [
    ("whisper", "decoder"),
    ("whisper", "cross"),
]
QUICK = ("llama", "gpt_oss", "bert")
# what a method refuses by itself, wherever it is
REFUSED = {
    "Tuned": "holds patterns of a decoder's self-attention",
    "AttendTo": "adds a dense bias to its scores|is padded on the right",
    "Select": "keys padded on the left",
    "DeltaCorrection": "keys padded on the left",  # it comes with a pattern
}


def some(places: list[tuple[str, str]]) -> list[Any]:
    """Places; those of few families in the default run, the others under ``-m slow``."""
    return [
        pytest.param(*one, marks=[] if one[0] in QUICK else [pytest.mark.slow]) for one in places
    ]


def there(here: Place) -> list[tuple[str, list[Any]]]:
    """The methods that are not refused at a place; refusals are those that are known."""
    found = []
    for name in NAMES:
        if why := here.refusal(name):
            assert name in REFUSED and re.search(REFUSED[name], why), f"{name} on {here}: {why}"
        else:
            found.append((name, here.made(name)[0]))
    assert len(found) >= len(NAMES) - 3
    return found


# -- the list --------------------------------------------------------------------------------------
def test_the_list_is_short_public_and_says_where_it_ends() -> None:
    assert 10 <= len(STABLE) <= 15
    assert fv.methods.STABLE is STABLE
    for name, one in STABLE.items():
        assert one.name == name and hasattr(fv, name)
        assert one.stages and one.limits.endswith(".")


def test_rows_of_stable_methods_are_stable_and_no_others_are() -> None:
    for slug, records in implementations().items():
        for record in records:
            mine = record.module.startswith("foveate.methods.") and record.qualname in STABLE
            assert (record.maturity == "stable") == mine, slug


def test_a_stack_that_is_not_there_is_refused() -> None:
    with pytest.raises(fv.FoveateError, match="names a stack 'cross'"):
        Target.of(build("llama"), inputs("llama"), "a", "b", "cross")


# -- one at a time ---------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "stack"), some(PLACES))
@pytest.mark.parametrize("padded", [None, "left", "right"])
def test_it_is_its_definition(name: str, stack: str, padded: str | None) -> None:
    if padded is not None and BY_NAME[name].inputs not in ("ids", "both"):
        return  # nothing is padded there
    here = place(name, stack, padded)
    plain = here.book([])[0]
    for method, made in there(here):
        want = here.book(made)
        assert not here.apart(here.ours(made), want), f"{method} on {here}"
        acts = bool(want[1]) if STABLE[method].looks else away(want[0], plain) > 1e-3
        assert acts, f"{method} on {here} changes nothing, so that this test could not fail"


@pytest.mark.parametrize(("name", "stack"), some(TEXT))
@pytest.mark.parametrize("padded", ["left", "right"])
def test_a_batch_is_its_rows(name: str, stack: str, padded: str) -> None:
    if padded == "left" and BY_NAME[name].inputs == "both":
        return  # the model itself counts positions from the padding
    here = place(name, stack, padded)
    for method, made in there(here):
        whole = here.ours(made)[0]
        for n in (0, 1):
            single = here.row(here.made(method)[0], n)
            assert away(single, here.row_of(whole, n)) < 1e-4, f"{method} on {here}, row {n}"


@pytest.mark.parametrize(("name", "stack"), some(CACHED))
@pytest.mark.parametrize("padded", [None, "left"])
def test_prefill_equals_cached_decoding(name: str, stack: str, padded: str | None) -> None:
    """One forward, and one that is told what was decoded.

    What differs by definition (``Stable.decoding``) is compared with the definition of it.
    """
    if padded is not None and BY_NAME[name].inputs == "audio":
        return
    here = place(name, stack, padded)
    for method, made in there(here):
        got = here.stepped(made)
        want = here.book(made, here.prompt, here.prompt)
        assert not here.apart(got, want), f"{method} on {here}"
        apart = BY_NAME[name].inputs != "ids"  # regions are then as long as the first forward
        if apart and method == "PASTA":  # knows by them what was generated
            continue
        whole = here.ours(here.made(method)[0], cut=not apart)[0]
        if STABLE[method].decoding == "alike":
            assert away(got[0], whole) < 1e-4, f"{method} on {here}"
        elif stack == "decoder":
            assert away(got[0], whole) > 1e-3, f"{method} is alike on {here}"


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@torch.no_grad()
def test_static_caches(name: str) -> None:
    here = place(name, "decoder", "left")
    given = {key: here.given[key][:, : here.prompt] for key in ("input_ids", "attention_mask")}
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    static = {"cache_implementation": "static", "disable_compile": True}
    for method, _ in there(here):
        got = []
        for how in ({}, static):
            with fv.attach(here.model, *here.made(method)[0], regions=here.prompts):
                got.append(torch.stack(here.model.generate(**given, **options, **how).logits))
        assert away(got[1], got[0]) < 1e-4, f"{method} on {here}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "stack"), some([one for one in TEXT if one[0] != "t5"]))
@torch.no_grad()
def test_half_precision_is_finite_and_near(name: str, stack: str, dtype: torch.dtype) -> None:
    here = place(name, stack, "left")
    half = build(name).to(dtype)
    plain = here.compared(logits(half(**here.given)))
    exact = here.book([])[0]
    for method, made in there(here):
        with fv.attach(half, *made, regions=here.masks) as run:
            out = here.compared(logits(half(**here.given)))
        assert out.dtype == dtype and bool(out.isfinite().all()), f"{method} on {here}"
        for one in getattr(made[0], "reads", ()):
            assert bool(run.results[one.key].prefill.isfinite().all())
        # which keys are sinks may flip, and to which expert a token goes
        flips = method == "ACT" or name in ("gpt_oss", "deepseek_v3")
        if not STABLE[method].looks and not flips:
            want = here.book(made)[0]
            near = away(out, want) < 5 * away(plain, exact) + 0.02
            assert near, f"{method} on {here}: {away(out, want):.2g}"


# -- what the matrix found -------------------------------------------------------------------------
def test_what_is_hidden_is_no_padding() -> None:
    """A window's sinks and a correction's rows count from the first token, seen or not."""
    here = place("llama", "decoder", "left")
    for beside in (
        [fv.Select(fv.SlidingWindow(4, sinks=2))],
        [fv.Select(fv.SlidingWindow(4, sinks=2)), fv.DeltaCorrection(3, last=2)],
        [fv.ACT(1.1, 0.3, layers=[0, 1])],
    ):
        for hide in (fv.Hide("first"), fv.Hide("first", heads=[0]), fv.Hide("other", heads=[0])):
            for methods in ([hide, *beside], [*beside, hide]):
                why = here.apart(here.ours(methods), here.book(methods))
                assert not why, f"{methods}: {why}"


def test_rows_in_full_see_what_is_hidden_from_some_no_more_than_others() -> None:
    """Hide from some queries is a pattern, too: a correction lifts the window and not that."""
    here = place("llama", "decoder")
    hide, window = fv.Hide("other", queries="near"), fv.Select(fv.SlidingWindow(4))
    want = here.ours([hide])[0]
    for methods in ([hide, window], [window, hide]):
        got = here.ours([*methods, fv.DeltaCorrection(1)])[0]
        assert away(got, want) < 1e-5
        got = here.ours([methods[0], fv.DeltaCorrection(1), methods[1]])[0]
        assert away(got, want) < 1e-5


@pytest.mark.parametrize(
    "beside",
    [fv.Select(fv.SlidingWindow(3)), fv.Hide("near"), fv.Hide("near", queries="all")],
)
def test_rows_that_see_nothing_of_a_region_cannot_be_turned_to_it(beside: Any) -> None:
    here = place("llama", "decoder")
    regions = here.masks | {"all": torch.ones(here.length, dtype=torch.bool)}
    method = fv.AttendTo("near", heads=[1])
    for methods in ([method, beside], [beside, method]):
        with pytest.raises(fv.FoveateError, match=r"position 13 .* sees nothing of it there"):
            with fv.attach(here.model, *methods, regions=regions):
                here.model(**here.given)


def test_a_models_own_window_takes_a_region_away() -> None:
    here = place("mistral", "decoder")
    with pytest.raises(fv.FoveateError, match="region 'first', and it sees nothing of it"):
        here.ours([fv.AttendTo("first", heads=[1])])


def test_two_that_write_the_same_rows_are_refused() -> None:
    here = place("llama", "decoder")
    first, second = fv.AttendTo("near", heads=[0, 1]), fv.AttendTo("other", heads=[1])
    with pytest.raises(fv.FoveateError, match=r"AttendTo\('near'.*AttendTo\('other'.*same rows"):
        here.ours([first, second])
    here.ours([first, fv.AttendTo("other", heads=[2])])
    here.ours([first, fv.AttendTo("other", queries="near", heads=[1])])


def test_a_measure_is_refused_under_its_own_name() -> None:
    here = place("llama", "decoder")
    with pytest.raises(fv.FoveateError, match=r"^'entropy' cannot be measured beside DeltaCorrect"):
        here.ours([*here.made("DeltaCorrection")[0], fv.Measure(fv.entropy())])
