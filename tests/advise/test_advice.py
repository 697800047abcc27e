"""An advice as a file: nothing of it is lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import foveate as fv
from foveate import FoveateError
from foveate.advise import Advice
from foveate.report.advice import render

from ..report.advised import advice, finalist, nothing

POLICY = fv.Policy(
    [fv.Emphasize("closest passage", 5.0), fv.SlidingWindow(64)],
    ["question twice"],
    name="“twice” × 5",
    data={"n": 50},
    figures={"p": 0.5},
)


def whole(make=advice):
    """With policies that can be applied."""
    made = make(policy=POLICY if make is advice else fv.Policy())
    verdict = replace(
        made.verdict,
        finalists=tuple(replace(one, policy=POLICY) for one in made.verdict.finalists),
    )
    return replace(made, verdict=verdict)


@pytest.mark.parametrize("make", [advice, nothing])
def test_what_was_saved_is_all_there(make, tmp_path):
    given = whole(make)
    back = Advice.load(given.save(tmp_path / "advice.json"))
    assert back.to_dict() == given.to_dict()
    assert repr(back) == repr(given)
    assert render(back) == render(given)
    assert back.policy.to_toml() == given.policy.to_toml()
    assert [repr(one) for one in back.policy.methods] == [repr(o) for o in given.policy.methods]


def test_a_number_that_json_has_not(tmp_path):
    controls = {"perplexity": float("inf"), "perplexity_base": 20.0}
    given = whole()
    odd = finalist(controls=controls, policy=POLICY)
    given = replace(given, verdict=replace(given.verdict, finalists=(odd,)))
    back = Advice.load(given.save(tmp_path / "advice.json"))
    assert back.verdict.finalists[0].controls["perplexity"] is None
    assert "What it does to other work" in render(back)


def test_a_policy_that_cannot_be_used_is_told(tmp_path):
    path = whole().save(tmp_path / "advice.json")
    data = json.loads(path.read_text("utf-8"))
    data["policy"] = data["policy"].replace('"Emphasize"', '"Emphasise"')
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(FoveateError, match=r"advice.json.*method.* 1: there is no method 'Emphasi"):
        Advice.load(path)
