"""Every method that is plain data comes back from its table as it was; the others are refused."""

from __future__ import annotations

import tomllib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foveate as fv
from denoisers import stable_diffusion
from families import build, inputs, logits
from foveate import FoveateError, patterns
from foveate.decoding import AgainstHidden, AvisC, ChunkedPrefill, DeCoRe, Sampling, ViewDecoder
from foveate.find.scores import HeadScores, ModelId
from foveate.methods import SetActivations
from foveate.methods._scope import Scope
from foveate.policy.toml import dumps, plain
from foveate.policy.written import known_methods, read_method, write_method

WINDOW = fv.SlidingWindow(5, sinks=1)
GAINS = {0: 2.0, -1: [1.0, 3.0, 0.5, 2.0]}
PLAIN = [
    fv.Emphasize("question", 5.0),
    fv.Emphasize("question", 0.25, layers=[0, 1], heads=[0, 3], phase="prefill", stack="decoder"),
    fv.Emphasize("question", GAINS, steps=[0, 1, 2]),
    fv.Emphasize("question", torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)),
    fv.PASTA("question", 0.1, heads=[(0, 3), (1, 0), (0, 1)]),
    fv.ACT(alpha=3.0, beta=0.5, share_first=True, layers=[0, 1]),
    fv.ACT(threshold=0.1, heads={0: [1], 1: [0, 2]}),
    fv.ZeroTuning(1.7, heads=[2]),
    fv.PAG(2.0, 0.5, tokens="image", heads=[(0, 1), (3, 0)], stack="joint", steps=[0, 1]),
    fv.Hide("passages", queries="question"),
    fv.Hide("passages"),
    fv.Ablate({0: [1, 2]}),
    fv.Select(WINDOW, heads=[0, 1], phase="prefill"),
    fv.Select(~patterns.Dilated(4, 2) | WINDOW & patterns.Strided(3)),
    fv.DeltaCorrection(4, last=2),
    fv.DeltaCorrection(None),
    fv.HyperAttention(block=4, samples=2, projections=3, least=4, seed=7),
    fv.RectifiedSpaAttn(text=None, gain=False),
    fv.AttendTo("question", heads=[(0, 1)], weights="own"),
    SetActivations(1, {(0, 3): -2.5, (4, 1): 0.0}),
    fv.AutoPASTA({0: [1], 1: [2, 3]}, by="likelihood", unit="passage"),
    DeCoRe([(0, 1), (1, 2)], alpha=0.5, plausibility=0.1, sampling=Sampling(0.7, top_p=0.9)),
    ChunkedPrefill(64, batch_size=2),
    fv.Tuned(
        [(WINDOW, {0: (0, 2), 1: (1,)}), (patterns.Strided(3), {0: (1,)})],
        ModelId("tiny", "LlamaForCausalLM", "0" * 16),
        (2, 4),
        phase=None,
        found={"tokens": 128, "holds": True, "plan": None, "tuning": [{"n": 3}]},
    ),
    fv.VAR((3, 17), p=0.3, rho=0.8, tau=1.5, layers=[0, 1]),
    fv.VAR([5]),
    AgainstHidden("image", 0.5, plausibility=None),
    AvisC(2.0, gamma=0.3, plausibility=None),
    fv.TestTimeRegisters([(0, 5), (0, 17), (1, 3)], registers=2, lead=1),
    fv.AttendAndExcite("circle"),
    fv.AttendAndExcite(["circle", "square"], 5.0, 0.4, {0.25: 0.5, 0.5: 0.8}, 3, 16, stack="cross"),
    fv.AttendAndExcite("circle", thresholds={}),
]
TENSORS = [
    fv.Shift("q", {0: torch.randn(4, 8), 1: torch.randn(4, 8)}, 0.5, queries="question"),
    fv.Shift("out", torch.randn(4, 8), heads=[1], layers=[0]),
    fv.FocusDirections({1: torch.randn(4, 8)}, 2.0, heads={1: [0, 3]}),
    fv.Ablate([1], torch.randn(4, 8)),
    fv.VHR({1: torch.randn(2, 4, 8)}, 1.5, outliers=False, layers=[1]),
    fv.DenseDiffusion({"3": (0.0, 0.0, 0.5, 1.0), "a.b": torch.eye(4)}, background=True, steps=0),
]


def again(method):
    """Through a text, as a file holds it; the tables of both, and the tensors."""
    tensors = {}
    table = write_method(method, tensors)
    read = tomllib.loads(dumps({"method": [table]}))["method"][0]
    assert read == table
    back = read_method(read, tensors)
    assert type(back) is type(method)
    return back, table, tensors


@pytest.mark.parametrize("method", PLAIN, ids=repr)
def test_what_is_plain_comes_back(method):
    back, table, tensors = again(method)
    assert write_method(back) == table
    assert not tensors
    if isinstance(getattr(method, "scope", None), Scope):
        assert back.scope == method.scope


@pytest.mark.parametrize("method", TENSORS, ids=repr)
def test_tensors_go_beside(method):
    back, table, tensors = again(method)
    kept = {}
    assert write_method(back, kept) == table
    assert kept.keys() == tensors.keys() and kept
    assert all(torch.equal(kept[name], tensors[name]) for name in kept)


def test_every_method_there_is_was_tried():
    """A new method is put into one of these lists, and what it holds is written."""
    looks = {"Capture", "KeepResidual", "Measure"}
    holds_more = {"DAGCD", "LookbackGuided", "ViewDecoder"}  # probes, lenses, functions
    tried = {type(one).__name__ for one in [*PLAIN, *TENSORS]}
    assert tried | looks | holds_more == set(known_methods())


REGIONS = {"question": torch.arange(11) > 7, "passages": torch.arange(11) < 6}
ELSEWHERE = (fv.RectifiedSpaAttn, fv.PAG, fv.DenseDiffusion)  # on no model of text alone
ACTING = [one for one in PLAIN[:18] + TENSORS if not isinstance(one, ELSEWHERE)]
DRAWING = [
    fv.PAG(2.0, 0.5, stack="self"),
    fv.AttendAndExcite("circle", 5.0, 1.0, {}),
    fv.DenseDiffusion({"circle": (0.0, 0.0, 0.5, 1.0)}, until=1.0),
]


@pytest.mark.parametrize("method", ACTING, ids=repr)
@torch.no_grad()
def test_what_comes_back_does_the_same(method):
    model, asked = build("llama"), inputs("llama")
    first = {"first": torch.arange(11) == 0}

    def said(one):
        with fv.attach(model, one, regions={**REGIONS, **first}):
            return logits(model(**asked))

    want = said(method)
    assert torch.equal(said(again(method)[0]), want)
    if repr(method) not in ("DeltaCorrection(4, last=2)", "DeltaCorrection(None, last=128)"):
        assert not torch.equal(want, logits(model(**asked)))


@pytest.mark.parametrize("method", DRAWING, ids=repr)
@torch.no_grad()
def test_what_comes_back_draws_the_same(method):
    pipe, text = stable_diffusion(), "red circle and blue square"
    prompt = fv.Prompt(pipe.tokenizer, text, padding_side="right").mark("circle", "circle")

    def drawn(*methods):
        noise = torch.Generator().manual_seed(0)
        with fv.attach(pipe, *methods, prompt=prompt):
            return pipe(text, num_inference_steps=2, output_type="latent", generator=noise).images

    want = drawn(method)
    assert torch.equal(drawn(again(method)[0]), want)
    assert not torch.equal(drawn(), want)


def test_heads_are_numbers_whatever_they_came_from():
    scores = HeadScores("retrieval", torch.arange(8.0).view(2, 4), ModelId("m", "A", "f"))
    best = write_method(fv.PASTA("question", heads=scores.top(3)))
    assert best["heads"] == {"1": [3, 2, 1]}
    assert best == write_method(fv.PASTA("question", heads={1: (3, 2, 1)}))


class Own(fv.Emphasize):
    """A method of somebody's own."""


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (Own("question", 2.0), "none of foveate's methods"),
        (fv.Measure(fv.entropy()), "only looks"),
        (ViewDecoder(), "cannot be written down"),
        (DeCoRe([(0, 1)], seed=torch.Generator()), "cannot be written down"),
        (fv.AutoPASTA(encoder=print), "cannot be written down"),
        (fv.Emphasize("q", torch.ones(4, requires_grad=True)), None),
    ],
    ids=["own", "measure", "views", "generator", "encoder", "graph"],
)
def test_what_cannot_be_written(method, sentence):
    if sentence is None:  # kept as a tensor, without its graph
        assert write_method(method)["gain"] == {"tensors": "0.gain"}
        return
    with pytest.raises(FoveateError, match=sentence):
        write_method(method)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({}, "has no name"),
        ("Emphasize", "has no name"),
        ({"name": "Emphasise"}, "no method 'Emphasise' in this version"),
        ({"name": "Measure"}, "no method 'Measure'"),
        ({"name": "Emphasize", "region": "question"}, "wants gain"),
        ({"name": "Emphasize", "region": "question", "gian": 5}, "does not take gian"),
        ({"name": "Emphasize", "region": "question", "gain": -1}, "greater than 0"),
        ({"name": "Emphasize", "region": "question", "gain": 2, "none": 3}, "names were wanted"),
        ({"name": "Emphasize", "region": "question", "gain": {"a": 2}}, "not understood"),
        ({"name": "ACT", "heads": {"0": "x"}}, "heads"),
        ({"name": "Select", "pattern": "Nothing()"}, "no pattern 'Nothing'"),
        ({"name": "Select", "pattern": "SlidingWindow(width=3)"}, "does not take"),
        ({"name": "Select", "pattern": 7}, "Select"),
        ({"name": "Shift", "part": "q", "vectors": {"tensors": "0.vectors"}}, "no tensors"),
        ({"name": "Tuned", "choices": 3, "model": {}, "grid": [1, 1]}, "Tuned"),
        ({"name": "DeCoRe", "heads": [[0, 1]], "sampling": {"heat": 1}}, "not understood"),
        ({"name": "HyperAttention", "block": "wide"}, "HyperAttention"),
        ({"name": "Ablate", "to": {"0": "x"}}, "mapping layer -> such a tensor"),
        ({"name": "Ablate", "queries": []}, "queries="),
        ({"name": "AttendAndExcite", "subjects": "a", "thresholds": [3]}, "not understood"),
        ({"name": "DenseDiffusion", "segments": {"tensors": "0.segments"}}, "no tensors"),
    ],
)
def test_what_cannot_be_read(table, sentence):
    with pytest.raises(FoveateError, match=sentence):
        read_method(table)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"alpha": "x"}, "alpha='x' was given"),
        ({"alpha": float("nan")}, "alpha=nan was given"),
        ({"alpha": float("inf")}, "alpha=inf was given"),
        ({"queries": ["question"]}, "name of a region"),
        ({"vectors": {"0": "x"}}, "mapping layer -> tensor"),
    ],
)
def test_a_shift_that_cannot_be_read(given, sentence):
    table = {"name": "Shift", "part": "q", "vectors": {"tensors": "v"}} | given
    with pytest.raises(FoveateError, match=sentence):
        read_method(table, {"v": torch.randn(4, 8)})


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_toml_holds_what_is_plain(data):
    text = dumps(data, "head\n\nmore")
    assert tomllib.loads(text) == data
    assert dumps(tomllib.loads(text), "head\n\nmore") == text


def test_what_is_not_plain():
    assert plain({"a": torch.tensor(2.0), "b": None, "c": (1, range(2))}, "x") == {
        "a": 2.0,
        "c": [1, [0, 1]],
    }
    with pytest.raises(FoveateError, match="figures holds"):
        plain({"a": object()}, "figures")
