"""policy.toml: written, read, written again; refused with the reason."""

from __future__ import annotations

import math
import tomllib
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save

import foveate as fv
from families import build
from foveate import FoveateError
from foveate.advise.advice import Figure
from foveate.policy.file import FORMAT
from foveate.policy.place import versions

FULL = fv.Policy(
    [
        fv.Emphasize("closest passage", {0: 2.0, 1: 4.0}),
        fv.PASTA("question", heads=[(1, 0), (0, 3)]),
        fv.SlidingWindow(64, sinks=4) | ~fv.patterns.Strided(8),
    ],
    ["question twice"],
    name='a "name" of × two\nlines',
    data={"name": "mine", "fingerprint": "0f", "n": 50, "left out": None},
    figures={"gain": Figure(0.5, 0.3, 0.7, 25), "p": torch.tensor(0.25), "by": {"base": "nothing"}},
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "policy.toml"


@pytest.mark.parametrize("policy", [FULL, fv.Policy(), fv.Policy(rewrites=["quote first"])])
@pytest.mark.parametrize("bound", [False, True])
def test_saved_loaded_saved_is_the_same_text(policy, bound, path):
    if bound:
        policy = policy.for_model(build("llama"))
    policy.save(path)
    text = path.read_text("utf-8")
    again = fv.Policy.load(path)
    assert again.to_toml() == text == policy.to_toml()
    again.save(path)
    assert path.read_text("utf-8") == text
    for name in ("name", "rewrites", "model", "grid", "regions"):
        assert getattr(again, name) == getattr(policy, name)
    assert [type(one) for one in again.methods] == [type(one) for one in policy.methods]


def test_how_it_looks():
    text = FULL.to_toml()
    assert text.startswith("# A policy of foveate") and "fv.Policy.load" in text
    assert "--policy" in text
    data = tomllib.loads(text)
    assert list(data) == ["format", "name", "rewrites", "library", "data", "method", "figures"]
    assert data["data"] == {"name": "mine", "fingerprint": "0f", "n": 50}
    assert data["figures"]["gain"] == {"value": 0.5, "low": 0.3, "high": 0.7, "n": 25}
    assert "[method.heads]\n0 = [3]\n1 = [0]" in text.replace(
        "1 = [0]\n0 = [3]", "0 = [3]\n1 = [0]"
    )
    assert (
        'pattern = "SlidingWindow(window=64, sinks=4, causal=True) | '
        '~Strided(stride=8, causal=True)"' in text
    )
    assert max(map(len, text.splitlines())) <= 120


def test_by_hand(path):
    path.write_text(
        f'format = "{FORMAT}"\n[[method]]\nname = "Emphasize"\nregion = "question"\ngain = 3\n'
        '[[method]]\nname = "Select"\npattern = "SlidingWindow(64)"\n'
    )
    policy = fv.Policy.load(path)
    assert policy.name == "policy" and policy.model is None
    assert [repr(one) for one in policy.methods] == [
        "Emphasize('question', gain=3)",
        "Select(SlidingWindow(window=64, sinks=0, causal=True))",
    ]


def test_tensors_lie_beside(path):
    shift = fv.Shift("q", {0: torch.randn(4, 8), 1: torch.randn(4, 8)}, 2.0)
    policy = fv.Policy([shift], name="shifted")
    policy.save(path)
    beside = path.with_suffix(".safetensors")
    again = fv.Policy.load(path)
    assert again.to_toml() == path.read_text("utf-8")
    kept = again.methods[0].vectors
    assert kept.keys() == shift.vectors.keys()
    assert all(torch.equal(kept[n], shift.vectors[n]) for n in kept)
    stored = bytearray(beside.read_bytes())
    stored[-1] ^= 1
    beside.write_bytes(stored)
    with pytest.raises(FoveateError, match=r"'policy.safetensors' beside it is another file"):
        fv.Policy.load(path)
    beside.unlink()
    with pytest.raises(
        FoveateError, match=r"tensors were to be beside it, in 'policy.safetensors'"
    ):
        fv.Policy.load(path)


BASE = f'format = "{FORMAT}"\n'
MODEL = "[model]\nname = 'm'\narchitecture = 'A'\nfingerprint = 'f'\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "its format is None; this version of foveate reads 'foveate policy, version 1'"),
        ('format = "foveate policy, version 2"', "its format is 'foveate policy, version 2'"),
        ("format = ", "it is no TOML .*at end of document"),
        (BASE + "[[methods]]\nname = 'ACT'", "it has methods; a policy has format, name"),
        (BASE + "[method]\nname = 'ACT'", r"each method begins with \[\[method\]\]"),
        (BASE + "[[method]]\nname = 'Foresee'", "no method 'Foresee' in this version; there are"),
        (BASE + "rewrites = ['ask twice']", "no rewrite 'ask twice' in this version"),
        (BASE + "rewrites = 'question twice'", "a list was wanted"),
        (BASE + "rewrites = [3]", "no rewrite 3"),
        (BASE + "name = 3", "name is a text"),
        (BASE + "model = 'smollm2'", r"a table \[model\] was wanted"),
        (BASE + "[model]\nname = 'smollm2'", "name, architecture, fingerprint"),
        (BASE + "[model]\nname = 'm'\nweights = 'w'", r"\[model\] has name, weights"),
        (BASE + "[model]\nlayers = 2\nheads = 4", r"\[model\] has layers, heads; name, arch"),
        (BASE + MODEL + "layers = '2'\nheads = 4", r"\[model\] has layers = '2'; a whole number"),
        (BASE + MODEL + "layers = true\nheads = 4", r"layers = True; a whole number was"),
        (BASE + MODEL + "layers = 2", r"\[model\] has name, .*layers; name, architecture"),
        (BASE + "[model]\nname = 3\narchitecture = 'A'\nfingerprint = 'f'", "name = 3; a text"),
        (BASE + "name = ''", r"policy.toml' cannot be used: name = ''; a policy's name is a text"),
        (BASE + "[[method]]\nname = 'ACT'\n[[method]]\nname = 'Emphasize'\nregion = 'question'\n"
         "gain = 0", r"\[\[method\]\] 2: Emphasize does not take .*gain=0 was given"),
        (BASE + "[[method]]\nname = 'Emphasize'\nregion = ['question']\ngain = 2",
         "'question'. was given"),
        (BASE + "[[method]]\nname = 'ZeroTuning'\ngamma = 'strong'", "ZeroTuning"),
        (BASE + "[[method]]\nname = 'ACT'\nlayers = '3'", r"layers='3' was given"),
        (BASE + "[[method]]\nname = 'ACT'\nphase = 'prefil'", r"phase='prefil' was given"),
        (BASE + "method = [3]", r"\[\[method\]\] 1: a \[\[method\]\] has no name"),
        (
            BASE + "[[method]]\nname = 'Hide'\nregion = 'newest passage'",
            "Hide speaks of 'newest passage', for which this version has no rule",
        ),
        (BASE + MODEL + "layers = 30\nheads = 9\n[[method]]\nname = 'ACT'\nlayers = [3, 99]",
         r"policy.toml' cannot.* 1 \(ACT\) names layer 99; the model .*\[model\].* layers 0–29"),
        (BASE + MODEL + "layers = 30\nheads = 9\n[[method]]\nname = 'PASTA'\n"
         "region = 'question'\n[method.heads]\n3 = [77]", r"names head 77; .* has heads 0–8"),
        (BASE + "[library]\nfoveate = '99.1.0'", r"found with foveate 99.1.0, and this is"),
        (BASE + "[library]\nfoveate = '0.99.0'", "pip install 'foveate>=0.99.0'"),
        (BASE + "[library]\ntransformers = '99.0'", "transformers 99.0, and this is transformers"),
        (BASE + "[library]\ntorch = 'nightly'", "torch = 'nightly'; a version such as"),
        (BASE + "[[method]]\nname = 'DeCoRe'\nheads = [[0, 1]]\n[[method]]\nname = 'ACT'", "alone"),
    ],
)  # fmt: skip
def test_what_is_refused_with_the_reason(text, sentence, path):
    path.write_text(text)
    with pytest.raises(FoveateError, match=sentence) as refused:
        fv.Policy.load(path)
    assert not str(refused.value).endswith("..")


def test_files_that_are_none(path):
    with pytest.raises(FoveateError, match=r"policy.toml' cannot be used: no such file"):
        fv.Policy.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FoveateError, match="no text in UTF-8"):
        fv.Policy.load(path)
    with pytest.raises(FoveateError, match="cannot be written"):
        fv.Policy().save(path.parent / "none" / "policy.toml")


def test_a_file_of_a_windows_editor(path):
    path.write_bytes(b"\xef\xbb\xbf" + fv.Policy(name="ß").to_toml().replace("\n", "\r\n").encode())
    assert fv.Policy.load(path).name == "ß"


def test_numbers_and_names_that_are_not_quite_python(path):
    figures = {"p": np.float64(0.5), "n": np.int64(3), "none": float("nan"), "most": float("inf")}
    policy = fv.Policy(
        [fv.Emphasize("question", np.float64(2.5))], name="half \ud800 a sign", figures=figures
    )
    policy.save(path)
    again = fv.Policy.load(path)
    assert again.methods[0].gain == 2.5 and again.name == "half ? a sign"
    assert (again.figures["p"], again.figures["n"]) == (0.5, 3)
    assert math.isnan(again.figures["none"]) and math.isinf(again.figures["most"])


def test_weights_of_a_model_are_not_overwritten(path):
    shift = fv.Policy([fv.Shift("q", torch.randn(4, 8))], name="shifted")
    beside = path.with_suffix(".safetensors")
    beside.write_bytes(save({"weight": torch.zeros(2)}))
    kept = beside.read_bytes()
    with pytest.raises(FoveateError, match=r"policy.safetensors' is where the policy's tensors go"):
        shift.save(path)
    assert beside.read_bytes() == kept and not path.exists()
    fv.Policy().save(path)  # nothing goes beside it
    assert beside.read_bytes() == kept
    with pytest.raises(FoveateError, match="save the policy under another name"):
        shift.save(path.parent / "own.safetensors")
    other = path.with_name("other.toml")
    shift.save(other)
    shift.save(other)  # its own may be
    with pytest.raises(FoveateError, match="takes the path of a file"):
        fv.Policy.load(3)


def test_an_older_series_warns_and_an_older_foveate_is_read(path):
    path.write_text(BASE + "[library]\nfoveate = '0.0.1'\ntransformers = '4.57.1'")
    with pytest.warns(UserWarning, match=r"found with transformers 4.57.1"):
        fv.Policy.load(path)
    path.write_text(BASE + "[library]\nfoveate = '0.0.1'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fv.Policy.load(path).versions == {"foveate": "0.0.1"}
    assert set(versions()) == {"foveate", "torch", "transformers"}


def test_what_cannot_be_saved(path):
    with pytest.raises(FoveateError, match=r"'evidence', which no rule finds .*'closest passage'"):
        fv.Policy([fv.Emphasize("evidence", 2.0)]).save(path)
    with pytest.raises(FoveateError, match="figures holds"):
        fv.Policy(figures={"gain": object()}).save(path)
    assert not path.exists()
