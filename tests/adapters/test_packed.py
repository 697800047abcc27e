"""Packed sequences: several documents in one row, each as if it were alone."""

from __future__ import annotations

from inspect import signature
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveate as fv
from families import build
from foveate.adapters.masks import MaskInfo, MaskPattern
from foveate.adapters.packed import Documents
from foveate.adapters.rules import rule_of

LENGTHS = (7, 1, 12, 5)
TOTAL = sum(LENGTHS)
EDGES = [(sum(LENGTHS[:n]), sum(LENGTHS[: n + 1])) for n in range(len(LENGTHS))]
BORDERS = torch.tensor([0, *(stop for _, stop in EDGES)], dtype=torch.int32)


def packed(rows: int = 1) -> dict[str, Any]:
    """Documents end to end in a row (in another order in each further row)."""
    g = torch.Generator().manual_seed(5)
    orders = [list(LENGTHS), list(reversed(LENGTHS))][:rows]
    positions = [torch.cat([torch.arange(n) for n in order]) for order in orders]
    return {
        "input_ids": torch.randint(3, 64, (rows, TOTAL), generator=g),
        "position_ids": torch.stack(positions),
        "use_cache": False,  # with a cache transformers does not look for documents
    }


def region() -> Tensor:
    """Tokens of every document."""
    inside = torch.zeros(1, TOTAL, dtype=torch.bool)
    inside[0, [2, 3, 7, 9, 10, 15, 21, 22]] = True
    return inside


METHODS = (
    fv.Emphasize("r", 6.0),
    fv.Measure(fv.mass("r"), fv.entropy(), fv.distance(), fv.received(), fv.top(2)),
)


def alone_agrees(model: Any, run: Any, whole: Tensor, ids: Tensor) -> None:
    """What was computed and measured of a packed row against each document by itself."""
    for start, stop in EDGES:
        alone = {"input_ids": ids[:, start:stop], "use_cache": False}
        with fv.attach(model, *METHODS, regions={"r": region()[:, start:stop]}) as one:
            logits = model(**alone).logits
        close = {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(whole[:, start:stop], logits, **close)
        for key in ("mass:r", "entropy", "distance", "received"):
            found = run.results[key].prefill[..., start:stop]
            torch.testing.assert_close(found, one.results[key].prefill, **close)
        first = run.results["top.indices"].prefill[..., start:stop, 0]
        assert ((first >= start) & (first < stop)).all()


# mistral and gemma3 slide a window; gpt_oss is not here: transformers gives its masks no positions
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "deepseek_v3"])
@torch.no_grad()
def test_each_document_is_as_if_alone(name: str, implementation: str) -> None:
    model, given = build(name, implementation), packed()
    plain = model(**given).logits
    with fv.attach(model):
        assert torch.equal(model(**given).logits, plain)
    with fv.attach(model, *METHODS, regions={"r": region()}) as run:
        whole = model(**given).logits
    assert not torch.allclose(whole, plain, atol=1e-3)
    alone_agrees(model, run, whole, given["input_ids"])


@torch.no_grad()
def test_rows_may_be_packed_differently() -> None:
    model, given = build("llama"), packed(rows=2)
    methods, regions = METHODS[:1], {"r": region().expand(2, -1)}
    with fv.attach(model, *methods, regions=regions):
        both = model(**given).logits
    for row in range(2):
        one = {k: v[row : row + 1] for k, v in given.items() if k != "use_cache"}
        with fv.attach(model, *methods, regions={"r": region()}):
            torch.testing.assert_close(
                both[row : row + 1], model(**one, use_cache=False).logits, atol=1e-5, rtol=1e-4
            )


@torch.no_grad()
def test_gradients_of_packed_rows_stay_within_documents() -> None:
    model, given = build("llama"), packed()
    embedded = model.get_input_embeddings()(given.pop("input_ids"))
    with torch.enable_grad(), fv.attach(model, *METHODS[:1], regions={"r": region()}):
        embedded.requires_grad_()
        logits = model(inputs_embeds=embedded, **given).logits
        start, stop = EDGES[2]
        logits[:, start:stop].sum().backward()
    assert embedded.grad[:, start:stop].abs().amax() > 1e-3
    outside = torch.ones(TOTAL, dtype=torch.bool)
    outside[start:stop] = False
    assert (embedded.grad[:, outside] == 0).all()


# -- borders beside the mask -----------------------------------------------------------------------
def collated(**options: Any) -> dict[str, Any]:
    """The same documents as transformers' collator lays them out for flash kernels."""
    from transformers import DataCollatorWithFlattening

    ids = packed()["input_ids"][0]
    features = [{"input_ids": ids[start:stop].tolist()} for start, stop in EDGES]
    found = DataCollatorWithFlattening(return_flash_attn_kwargs=True, **options)(features)
    del found["labels"]
    assert torch.equal(found["input_ids"][0], ids) and torch.equal(found["cu_seq_lens_q"], BORDERS)
    return found


def varlen(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """What a flash kernel computes: borders if all are given, else those that positions show."""
    assert mask is None
    positions, S = options.get("position_ids"), query.shape[2]
    edges = [0, S]
    names = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
    if all(options.get(name) is not None for name in names):
        edges = options["cu_seq_lens_q"].flatten().tolist()
    elif positions is not None and bool((positions.diff() != 1).any()):
        edges = [*(positions[0] == 0).nonzero().flatten().tolist(), S]
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            *(t[:, :, a:b] for t in (query, key, value)),
            is_causal=True, scale=options.get("scaling"), enable_gqa=True,
        )
        for a, b in pairwise(edges)
    ]  # fmt: skip
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny Llama on a flash implementation that runs on a CPU."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as masks
    from transformers.masking_utils import flash_attention_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions

    name = "toy_flash"
    monkeypatch.setitem(functions._global_mapping, name, varlen)
    monkeypatch.setitem(masks._global_mapping, name, flash_attention_mask)
    model = build("llama")
    for module in model.modules():
        if hasattr(module, "config"):  # not through the setter, which would look for a package
            module.config._attn_implementation_internal = name
    return model


@pytest.mark.parametrize("use_cache", [False, True], ids=["", "cache"])
@pytest.mark.parametrize("positions", [True, False], ids=["positions", "borders alone"])
@torch.no_grad()
def test_borders_of_a_flash_model(flash: Any, positions: bool, use_cache: bool) -> None:
    model, given = flash, collated(return_position_ids=positions)
    given["use_cache"] = use_cache
    plain = model(**given).logits
    with fv.attach(model):
        assert torch.equal(model(**given).logits, plain)
    with fv.attach(model, *METHODS, regions={"r": region()}) as run:
        whole = model(**given).logits
    alone_agrees(build("llama"), run, whole, given["input_ids"])


@pytest.mark.parametrize("use_cache", [False, True], ids=["", "cache"])
@torch.no_grad()
def test_positions_of_a_flash_model(flash: Any, use_cache: bool) -> None:
    """It reads them itself, cache or no cache."""
    model, given = flash, packed() | {"use_cache": use_cache}
    with fv.attach(model, *METHODS, regions={"r": region()}) as run:
        whole = model(**given).logits
    alone_agrees(build("llama"), run, whole, given["input_ids"])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_borders_that_the_mask_knows_too(implementation: str) -> None:
    model, given = build("llama", implementation), collated() | {"use_cache": False}
    with fv.attach(model, *METHODS, regions={"r": region()}) as run:
        whole = model(**given).logits
    alone_agrees(model, run, whole, given["input_ids"])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_borders_that_the_model_itself_does_not_heed(implementation: str) -> None:
    """sdpa and eager attention go by the mask, and that sees past borders here."""
    model, given = build("llama", implementation), collated() | {"use_cache": True}
    with fv.attach(model):
        assert torch.equal(model(**given).logits, model(**given).logits)
    with fv.attach(model, *METHODS, regions={"r": region()}):
        with pytest.raises(
            fv.FoveateError, match=rf"runs on {implementation} attention.*use_cache"
        ):
            model(**given)


REFUSED = {
    "two cuts": ({"cu_seq_lens_k": torch.tensor([0, TOTAL], dtype=torch.int32)}, "other places"),
    "keys cut elsewhere": ({"cu_seq_lens_k": BORDERS + (BORDERS == 7).int()}, "other places"),
    "short": (dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), BORDERS[:-1]), "do not cover"),
    "late": (dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), BORDERS[1:]), "do not cover"),
    "not all": ({"max_length_k": None}, "only together with max_length_k"),
    "padded": ({"attention_mask": torch.arange(TOTAL)[None] > 2}, "a padding mask besides"),
    "a list": (dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), BORDERS.tolist()), "is a list"),
}


@pytest.mark.parametrize(("changes", "why"), REFUSED.values(), ids=REFUSED)
@torch.no_grad()
def test_borders_that_are_not_read_are_refused(flash: Any, changes: dict, why: str) -> None:
    model, given = flash, collated() | changes | {"use_cache": False}
    with fv.attach(model, *METHODS, regions={"r": region()}):
        with pytest.raises(fv.FoveateError, match=f"cu_seq_lens_q.*{why}"):
            model(**given)


def test_documents_from_borders() -> None:
    assert Documents.between(torch.tensor([0, 2, 3]), 1).ids.tolist() == [[0, 0, 1]]
    assert Documents.between(torch.tensor([0, 2, 2, 4]), 2).ids.tolist() == [[0, 0], [2, 2]]
    for borders, rows in (([0, 3, 4], 2), ([1, 3], 1), ([0, 3, 2], 1), ([0, 0], 1), ([0, 3], 2)):
        assert Documents.between(torch.tensor(borders), rows) is None
    found = Documents.beginning(torch.tensor([[2, 3, 2, 3, 4]]))  # RoBERTa counts from 2
    assert found.reach == ([0, 0, 2, 2, 2], [2, 2, 5, 5, 5])
    assert found.key_range(1, 3) == (0, 5) and found.key_range(3, 4) == (2, 5)
    assert found.key_range(9, 12) == (0, 0)


# -- rules -----------------------------------------------------------------------------------------
def joined(function: Any, positions: Tensor, ids: Tensor) -> Any:
    """A mask function of one document, made one of packed rows as transformers does."""
    from transformers import masking_utils as own

    if hasattr(own, "packed_sequence_compatibility_function"):
        return own.packed_sequence_compatibility_function(function, positions, ids)
    return own.and_masks(function, own.packed_sequence_mask_function(ids))  # older: plain indices


def info_of(rows: int, kind: str, ids: Tensor) -> MaskInfo:
    """What transformers asks of the mask interface for packed positions."""
    from transformers import masking_utils as own

    S = ids.shape[1]
    function = {
        "causal": own.causal_mask_function,
        "window": own.sliding_window_causal_mask_function(4),
        "chunks": own.chunked_causal_mask_function(3, torch.zeros(rows, dtype=torch.long)),
        "both ways": own.bidirectional_mask_function,
        "unknown": lambda b, h, i, j: (i + j) % 3 != 0,
    }[kind]
    positions = torch.arange(S).expand(rows, S) - Documents(ids).starts
    joint = joined(function, positions, ids)
    arguments = {"batch_size": rows, "kv_length": S, "mask_function": joint}
    older = "cache_position" in signature(own.sdpa_mask).parameters
    arguments |= {"cache_position": torch.arange(S)} if older else {"q_length": S}
    return MaskInfo.of(own.sdpa_mask, arguments, floating=False)


@st.composite
def cuts(draw: st.DrawFn) -> Tensor:
    """Document numbers ``[B, S]``."""
    rows, S = draw(st.integers(1, 2)), draw(st.integers(1, 20))
    new = draw(st.lists(st.booleans(), min_size=rows * S, max_size=rows * S))
    ids = torch.tensor(new).reshape(rows, S).long()
    ids[:, 0] = 0
    return ids.cumsum(-1)


@settings(max_examples=60, deadline=None)
@given(cuts(), st.sampled_from(["causal", "window", "chunks", "both ways", "unknown"]))
def test_a_packed_mask_is_read_exactly_and_within_reach(ids: Tensor, kind: str) -> None:
    rows, S = ids.shape
    info = info_of(rows, kind, ids)
    rule = rule_of(info.function)
    assert rule.documents is not None and rule.causal == (kind in ("causal", "window", "chunks"))
    pattern = MaskPattern(rule, 0, torch.arange(rows))
    at = torch.arange(S)
    seen = pattern.tile(at, at)
    if rule.causal:
        seen = seen & (at <= at[:, None])
    assert torch.equal(seen.expand(rows, 1, S, S), info.visible())
    for start in range(S):
        for stop in range(start + 1, S + 1):
            low, high = pattern.key_range(start, stop, S)
            keys = pattern.tile(at[start:stop], at).any(0).any(0).any(0).nonzero()
            if len(keys):
                assert low <= int(keys.min()) and high > int(keys.max())
            same = (ids[:, start:stop, None] == ids[:, None]).any(1).any(0).nonzero()
            assert low >= int(same.min()) and high <= int(same.max()) + 1


def test_causality_and_windows_are_taken_out_of_the_positions() -> None:
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    causal, window = (rule_of(info_of(1, kind, ids).function) for kind in ("causal", "window"))
    assert causal.causal and len(causal.parts) == 1
    assert window.causal and window.back == 3 and len(window.parts) == 2


def test_positions_that_do_not_follow_their_documents_are_left_as_they_are() -> None:
    from transformers import masking_utils as own

    ids = torch.tensor([[0, 0, 0, 1, 1]])
    odd = torch.tensor([[0, 2, 1, 0, 1]])
    if not hasattr(own, "packed_sequence_compatibility_function"):
        pytest.skip("this transformers masks by indices, not by positions")
    joint = joined(own.causal_mask_function, odd, ids)
    rule = rule_of(joint)
    assert rule.documents is not None and not rule.causal and len(rule.parts) == 2
    arguments = {"batch_size": 1, "q_length": 5, "kv_length": 5, "mask_function": joint}
    info = MaskInfo.of(own.sdpa_mask, arguments, floating=False)
    at = torch.arange(5)
    assert torch.equal(MaskPattern(rule, 0, torch.arange(1)).tile(at, at), info.visible())


def test_tiles_reach_no_further_than_the_documents() -> None:
    """The work is that of the documents, not of the row."""
    from foveate.engine.backends.tiles import row_blocks
    from foveate.engine.planner import plan

    S, each = 2048, 256
    ids = (torch.arange(S) // each)[None]
    rule = rule_of(info_of(1, "causal", ids).function)
    pattern = MaskPattern(rule, 0, torch.arange(1))
    shapes = fv.Shapes(1, 4, 4, S, S, 8, 8, torch.float32, torch.device("cpu"))
    made = plan(fv.Program(causal=True, q_offset=0, pattern=pattern), shapes)
    pairs = sum((b - a) * (hi - lo) for a, b, lo, hi in row_blocks(made.terms, shapes))
    assert pairs <= S * each
