"""Bad input is refused in one sentence that says what was given."""

from __future__ import annotations

import pytest
import torch

import foveate as fv
from foveate.engine.planner import Shapes, plan


def qkv(**change) -> dict:
    t = {"q": torch.randn(2, 4, 5, 8), "k": torch.randn(2, 2, 7, 8), "v": torch.randn(2, 2, 7, 8)}
    return t | change


REGION = {"a": torch.zeros(7, dtype=torch.bool)}


class Everything:
    def tile(self, q_pos, k_pos):
        return torch.ones(len(q_pos), len(k_pos), dtype=torch.bool)

    def key_range(self, q_start, q_stop, keys):
        return 0, keys


class Numbers(Everything):
    def tile(self, q_pos, k_pos):
        return torch.ones(len(q_pos), len(k_pos))


CASES = {
    "q of three dimensions": (qkv(q=torch.randn(4, 5, 8)), "batch, heads, tokens"),
    "integers": (qkv(q=torch.ones(2, 4, 5, 8, dtype=torch.long)), "floating point"),
    "not a tensor": (qkv(k=[1.0]), "must be a tensor"),
    "two dtypes": (qkv(v=torch.randn(2, 2, 7, 8).half()), "one dtype"),
    "two devices": (qkv(v=torch.randn(2, 2, 7, 8, device="meta")), "one device"),
    "two batch sizes": (
        qkv(k=torch.randn(3, 2, 7, 8), v=torch.randn(3, 2, 7, 8)),
        "batch size; 2, 3",
    ),
    "two head sizes": (qkv(k=torch.randn(2, 2, 7, 4)), "head size; 8 and 4"),
    "k and v of other lengths": (qkv(v=torch.randn(2, 2, 6, 8)), "heads and tokens"),
    "heads not divisible": (
        qkv(k=torch.randn(2, 3, 7, 8), v=torch.randn(2, 3, 7, 8)),
        "4 query heads",
    ),
    "no keys": (qkv(k=torch.randn(2, 2, 0, 8), v=torch.randn(2, 2, 0, 8)), "empty"),
    "scale 0": (qkv(scale=0), "scale"),
    "scale NaN": (qkv(scale=float("nan")), "finite"),
    "softcap negative": (qkv(softcap=-1.0), "softcap"),
    "q_offset a fraction": (qkv(q_offset=1.5), "whole number"),
    "q_offset before everything": (qkv(causal=True, q_offset=-5), "no batch item sees"),
    "a mask as pattern": (qkv(pattern=torch.ones(5, 7)), "bias="),
    "key_bias of another length": (qkv(key_bias=torch.zeros(6)), r"\(6,\) was given"),
    "key_bias bool": (qkv(key_bias=torch.ones(7, dtype=torch.bool)), "torch.where"),
    "key_bias NaN": (qkv(key_bias=torch.full((7,), torch.nan)), "NaN"),
    "a batch item with nothing visible": (
        qkv(key_bias=torch.tensor([0.0, -torch.inf]).view(2, 1, 1).expand(2, 1, 7)),
        "batch item 1 has no visible key",
    ),
    "a dense bias that hides an item": (
        qkv(bias=torch.tensor([True, False]).view(2, 1, 1, 1).expand(2, 1, 5, 7)),
        "no visible key",
    ),
    "bias of key terms only": (qkv(bias=torch.zeros(1, 1, 1, 7)), "key_bias="),
    "bias of integers": (qkv(bias=torch.ones(1, 1, 5, 7, dtype=torch.int)), "float"),
    "sinks of another count": (qkv(sinks=torch.zeros(3)), r"\[Hq\]"),
    "score terms not pairs": (qkv(score_terms=[torch.zeros(1)]), "pairs"),
    "score terms of two ranks": (
        qkv(score_terms=[(torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 7, 1))]),
        "score term",
    ),
    "score terms infinite": (
        qkv(score_terms=[(torch.ones(1, 1, 5, 1), torch.full((1, 1, 7, 1), -torch.inf))]),
        "finite",
    ),
    "regions not a mapping": (qkv(regions=[torch.zeros(7)]), "mapping"),
    "region of numbers": (qkv(regions={"a": torch.zeros(7)}), "bool"),
    "region of another length": (
        qkv(regions={"a": torch.zeros(5, dtype=torch.bool)}),
        "one entry a key",
    ),
    "unknown region of a gain": (qkv(gains={"b": 2.0}, regions=REGION), "'b'.*'a'"),
    "unknown region of a measure": (qkv(measures=fv.mass("b"), regions=REGION), "'b'.*'a'"),
    "gain 0": (qkv(gains={"a": 0.0}, regions=REGION), "greater than 0"),
    "gain negative": (qkv(gains={"a": -1}, regions=REGION), "greater than 0"),
    "gain NaN": (qkv(gains={"a": float("nan")}, regions=REGION), "greater than 0"),
    "gain infinite": (qkv(gains={"a": torch.tensor(torch.inf)}, regions=REGION), "finite"),
    "gain a word": (qkv(gains={"a": "5"}, regions=REGION), "number or a tensor"),
    "gain of another shape": (qkv(gains={"a": torch.ones(3, 1)}, regions=REGION), "broadcastable"),
    "a measure by name": (qkv(measures=["entropy"]), "foveate.mass"),
    "two measures under one key": (qkv(measures=[fv.entropy(), fv.max(as_="entropy")]), "as_="),
    "row out of range": (qkv(measures=fv.rows([5])), "5 queries"),
    "more blocks than tokens": (qkv(measures=fv.block_map(6)), r"block_map\(6\)"),
    "more top keys than keys": (qkv(measures=fv.top(8)), "7 keys"),
    "an 8-bit float": (
        {n: t.to(torch.float8_e4m3fn) for n, t in qkv().items()},
        "float16, bfloat16",
    ),
    "causal by a word": (qkv(causal="no"), "True or False"),
    "scale out of all bounds": (qkv(scale=10**400), "at most 1e30"),
    "softcap out of all bounds": (qkv(softcap=1e300), "at most 1e30"),
    "gains no Gain": (qkv(gains=["a"], regions=REGION), "Gain objects"),
    "gains a number": (qkv(gains=3.0, regions=REGION), "Gain objects"),
    "adaptive gain on an unknown region": (
        qkv(gains=[fv.Gain("a", lambda m: m["z"], {"z": "z"})], regions=REGION),
        "row-adaptive gain names the region 'z'",
    ),
    "region of other heads": (
        qkv(regions={"a": torch.ones(1, 7, 5, dtype=torch.bool)}),
        "one entry a key",
    ),
    "gain out of all bounds": (qkv(gains={"a": 10**400}, regions=REGION), "greater than 0"),
    "a pattern's class": (qkv(pattern=Everything), "pattern must be a Pattern object"),
    "a pattern of numbers": (qkv(pattern=Numbers()), "bool tensor"),
    "bias +inf": (qkv(bias=torch.full((1, 1, 5, 7), torch.inf)), "NaN or .inf"),
    "bias NaN": (qkv(bias=torch.full((1, 1, 5, 7), torch.nan)), "NaN"),
    "bias of the dtype's minimum everywhere": (
        qkv(bias=torch.full((1, 1, 5, 7), torch.finfo(torch.float32).min)),
        "no visible key",
    ),
    "sinks NaN": (qkv(sinks=torch.full((4,), torch.nan)), "NaN"),
    "sinks of integers": (qkv(sinks=torch.ones(4, dtype=torch.int)), "floating point"),
    "score terms complex": (
        qkv(score_terms=[(torch.zeros(5, 1), torch.zeros(7, 1, dtype=torch.complex64))]),
        "floating point",
    ),
    "a measure's function": (qkv(measures=fv.entropy), "foveate.mass"),
    "a measure's name": (qkv(measures="entropy"), "'entropy' was given"),
    "hidden by causality and key_bias together": (
        qkv(causal=True, q_offset=0, key_bias=torch.tensor([-torch.inf] * 6 + [0.0])),
        "batch item 0 has nothing visible",
    ),
    "unknown backend": (qkv(backend="cuda"), "auto, sdpa, flex, reference"),
}


@pytest.mark.parametrize(("given", "says"), CASES.values(), ids=CASES.keys())
def test_refused(given: dict, says: str) -> None:
    with pytest.raises(fv.FoveateError, match=says):
        fv.attention(**given)


@pytest.mark.parametrize(
    ("make", "says"),
    {
        "mass": (lambda: fv.mass(""), "name of a region"),
        "block_map": (lambda: fv.block_map(0), "at least 1"),
        "top": (lambda: fv.top(True), "whole number"),
        "rows empty": (lambda: fv.rows([]), "one or more"),
        "rows of fractions": (lambda: fv.rows([0.5]), "whole numbers"),
        "rows of nothing": (lambda: fv.rows(None), "whole numbers"),
        "partial of nothing": (lambda: fv.Partial(None, None), "two tensors"),
        "partial with a rounded lse": (
            lambda: fv.Partial(torch.zeros(2, 3).half(), torch.zeros(2).half()),
            "float32 or wider",
        ),
        "merge of tensors": (lambda: fv.merge(torch.zeros(1), torch.zeros(1)), "Tensor"),
        "merge of a list": (lambda: fv.merge([]), "side by side"),
        "at": (lambda: fv.entropy(at="during"), "during"),
        "as_": (lambda: fv.entropy(as_=""), "non-empty"),
        "merge of nothing": (lambda: fv.merge(), "one or more"),
        "partial of two shapes": (lambda: fv.Partial(torch.zeros(2, 3), torch.zeros(3)), "lse"),
    }.values(),
)
def test_constructors_refuse(make, says: str) -> None:
    with pytest.raises(fv.FoveateError, match=says):
        make()


def test_merge_refuses() -> None:
    a = fv.Partial(torch.zeros(1, 2, 3), torch.zeros(1, 2))
    b = fv.Partial(torch.zeros(1, 3, 3), torch.zeros(1, 3))
    with pytest.raises(fv.FoveateError, match="one shape"):
        fv.merge(a, b)
    with pytest.raises(fv.FoveateError, match="2 Partials and 1 gains"):
        fv.merge(a, a, gains=[1.0])
    with pytest.raises(fv.FoveateError, match="greater than 0"):
        fv.merge(a, a, gains=[1.0, 0.0])
    with pytest.raises(fv.FoveateError, match="one number"):
        fv.merge(a, gains=2.0)
    with pytest.raises(fv.FoveateError, match="broadcastable"):
        fv.merge(a, a, gains=[1.0, torch.ones(3)])


def test_an_explicit_backend_never_falls_back() -> None:
    shapes = Shapes(1, 1, 1, 4, 4, 8, 8, torch.float32, torch.device("meta"))
    with pytest.raises(fv.FoveateError, match="no flash kernel"):
        plan(fv.Program(), shapes, "sdpa")
    assert plan(fv.Program(), shapes).output == "tiles"
