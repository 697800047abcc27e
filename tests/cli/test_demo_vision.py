"""``foveate demo --vision``: its two stories, how their cases are picked, and what it prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import denoisers
import foveate as fv
from foveate.cli import app, story_draws, story_hidden, story_sees
from foveate.cli.story import Remedy, case
from foveate.decoding import AvisC
from foveate.methods.emphasis import Emphasize
from foveate.methods.hide import Hide
from foveate.tasks.shapes import Binding, Scene, Thing, asking, drawing, scenes

SCENE = Scene((Thing("circle", "red", 9, 8.5, 8.5), Thing("cross", "cyan", 9, 20.5, 20.5)))
RIGHT = "a red circle and a cyan cross"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vlm() -> tuple[Any, Any]:
    return fv.load("shapes-vlm")


# -- picking ---------------------------------------------------------------------------------------
def test_the_first_of_the_best_cases_is_told_and_counted() -> None:
    at, said = case([4, 2, 1, 4, 1], ("best", "good", "fair"))
    assert at == 2 and said.startswith("Case 3 of 5") and "first in which good" in said
    assert "There are 2 such" in said and "all 5" in said


def test_where_none_goes_wrong_it_says_so() -> None:
    assert case([4, 4], ("best", "good")) == (0, "Case 1 of 2: none of them goes wrong as it is.")


@pytest.mark.parametrize(
    ("plain", "turned", "rank"),
    [
        (RIGHT + " and a blue square", RIGHT, 0),
        (RIGHT + " and a green square", RIGHT, 1),
        (RIGHT + " and a blue square", "a red circle", 2),
        (RIGHT + " and a blue square", "two red circles and a cyan cross", 2),
        (RIGHT + " and a blue square", "a blue square", 3),
        ("a red circle", RIGHT, 4),
    ],
)
def test_captions_are_ranked_by_what_is_mended(plain: str, turned: str, rank: int) -> None:
    assert story_sees._mended(SCENE, plain, turned) == rank


@pytest.mark.parametrize(
    ("before", "after", "rank"),
    [
        (Binding(1, 0, 1, 0), Binding(2, 0, 0, 0), 0),
        (Binding(0, 0, 2, 0), Binding(2, 0, 0, 0), 1),
        (Binding(1, 0, 1, 0), Binding(2, 0, 0, 1), 2),
        (Binding(1, 0, 1, 0), Binding(1, 0, 1, 0), 3),
        (Binding(2, 0, 0, 1), Binding(2, 0, 0, 0), 4),
    ],
)
def test_pictures_are_ranked_by_what_is_mended(before: Binding, after: Binding, rank: int) -> None:
    assert story_draws._mended(before, after) == rank


# -- a model that sees -----------------------------------------------------------------------------
def test_what_the_checker_says_of_a_caption() -> None:
    there = Counter({("circle", "red"): 2})
    assert story_sees._judged(("circle", "red"), 2, there) == "two red circles: there"
    assert story_sees._judged(("circle", "red"), 1, there) == "a red circle: there, but two"
    assert story_sees._judged(("square", "blue"), 1, there) == (
        "a blue square: made up, the usual partner of a red circle"
    )
    assert story_sees._judged(("cross", "red"), 1, there) == "a red cross: made up"


def test_what_is_left_out_is_wrong_too() -> None:
    told = story_sees._Told("a red circle", [0], [np.full((8, 8), 1 / 128)])
    side = story_sees._seen("as it is", SCENE, told, 0, "red")
    assert side.verdict == (("a red circle: there", True), ("a cyan cross: left out", False))
    assert not side.good and side.looks[0].share == pytest.approx(0.5)
    assert side.looks[0].title == "share of its attention on the picture, when it chose “red”"


def test_the_look_is_that_of_the_token_it_stands_for(vlm: tuple[Any, Any]) -> None:
    """Against the attention that the model itself gives out."""
    model, processor = vlm
    (scene,) = scenes(1, seed=5, objects=(2, 2))
    told = story_sees._told(model, processor, scene, ())
    eager, _ = fv.load("shapes-vlm", attn_implementation="eager")
    inputs = asking.inputs_of(processor, [scene], [asking.DESCRIBE])
    image = inputs["input_ids"][0] == model.config.image_token_id
    size = len(image)
    ids = torch.cat([inputs["input_ids"], torch.tensor([told.ids])], 1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        layers = eager(**inputs, output_attentions=True).attentions
    for token in (0, 1, len(told.ids) - 1):
        rows = torch.stack([one[0, :, size - 1 + token, :size] for one in layers])
        wanted = rows[..., image].mean((0, 1)).reshape(8, 8).numpy()
        assert np.abs(told.looks[token] - wanted).max() < 1e-5


def test_patches_are_those_with_any_pixel() -> None:
    mask = np.zeros((32, 32), bool)
    mask[3, 4] = mask[4, 4] = True
    assert np.flatnonzero(story_hidden.patches([mask])).tolist() == [1, 9]


def test_seeing_is_told_as_it_was_measured(vlm: tuple[Any, Any]) -> None:
    shown = scenes(12, seed=3, objects=(1, 3))
    remedy = Remedy("blind", (Hide("image"),))
    story = story_sees.sees(*vlm, remedy, shown, 0, "tiny")
    rows = dict(story.hidden.rows)
    named, own, empty = (int(told.split()[0]) for told in rows.values())
    assert own < empty <= named  # what is hidden is what is no longer said
    made_up, left_out, _ = story.counts
    plain = asking.replies(*vlm, shown, [asking.DESCRIBE] * 12)
    assert made_up.before == tuple(float(story_sees._made_up(*one)) for one in zip(shown, plain))
    assert sum(left_out.after) > sum(left_out.before)
    assert story.after.looks[0].share == 0.0  # the method was on while it was looked


def test_a_decoder_is_told_too(vlm: tuple[Any, Any]) -> None:
    """AvisC without a weight is plain decoding, whatever the patches that it finds."""
    shown = scenes(6, seed=8, objects=(1, 3))
    told = story_sees.sees(*vlm, Remedy("no weight", decoder=AvisC(alpha=0.0)), shown, 0, "tiny")
    assert told.before.said == told.after.said
    assert all(count.before == count.after for count in told.counts)
    look, blind = told.after.looks
    assert (look.weights == told.before.looks[0].weights).all() and 0 < blind.share < look.share
    kept = blind.weights > 0
    assert (blind.weights[kept] == look.weights[kept]).all() and 0 < kept.sum() < 64


# -- a model that draws ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pipeline() -> Any:
    """A random one, to whom a few words are known."""
    pytest.importorskip("diffusers")
    from diffusers import FlowMatchEulerDiscreteScheduler

    from foveate.models.pipelines import ShapesDiTPipeline

    encoder, tokenizer = denoisers.clip()
    channels = {"in_channels": 3, "out_channels": 3, "pooled_projection_dim": 32}
    transformer = denoisers.denoiser("sd3", **channels, dual_attention_layers=())
    return ShapesDiTPipeline(transformer, FlowMatchEulerDiscreteScheduler(), encoder, tokenizer)


ASKED = [f"a {one} and a {other}" for one, other in (
    ("red circle", "blue square"), ("blue square", "red circle"), ("red square", "blue circle")
)]  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_draws, "STEPS", 4)
    monkeypatch.setattr(story_draws, "_BATCH", 2)


def test_pictures_are_those_of_the_task_and_looks_those_of_their_words(
    pipeline: Any, short: None
) -> None:
    pictures, looks = story_draws._drawn(pipeline, ASKED, (Emphasize("thing 1", 3.0),), 7)
    wanted = drawing.drawn(pipeline, ASKED, [Emphasize("thing 1", 3.0)], steps=4, seed=7, batch=2)
    for one, other in zip(pictures, wanted, strict=True):
        assert (np.asarray(one) == np.asarray(other)).all()
    _, plain = story_draws._drawn(pipeline, ASKED, (), 7)
    _, hidden = story_draws._drawn(pipeline, ASKED, (Hide("thing 2"),), 7)
    assert looks.shape == plain.shape == (3, 2, *looks.shape[2:])
    assert (looks[:, 0].mean((1, 2)) > plain[:, 0].mean((1, 2))).all()
    assert (hidden[:, 1] == 0).all() and (hidden[:, 0] > 0).all()


def test_drawing_is_told_as_it_was_measured(pipeline: Any, short: None) -> None:
    story = story_draws.draws(pipeline, Remedy("none", ()), ASKED, 7, "tiny")
    assert all(count.before == count.after and len(count.before) == 3 for count in story.counts)
    assert (story.before.picture == story.after.picture).all()
    assert [look.title for look in story.before.looks][0].startswith(
        "attention of the patches on “a red"
    )
    assert [row[0] for row in story.hidden.rows][0] == "nothing" and len(story.hidden.rows) == 3


# -- the command -----------------------------------------------------------------------------------
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_draws, "STEPS", 4)
    page = tmp_path / "page.html"
    arguments = ["demo", "--vision", "--questions", "2", "--json", "--report", str(page)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    sees, draws = found["stories"]
    assert sees["before"]["said"] and draws["before"]["said"] is None
    assert [count["n"] for count in draws["counts"]] == [2, 2] and sees["counts"][0]["n"] == 8
    assert np.array(draws["after"]["attention"][1]["patches"]).shape == (8, 8)
    assert page.read_text(encoding="utf-8").count("data:image/png") == 10
    told = CliRunner().invoke(app, arguments[:4])
    for word in ("Did it matter?", "Not only this one", "change (95 %)", "A picture is drawn"):
        assert word in told.stdout


@pytest.mark.parametrize("option", [["--model", "x"], ["--policy", "p.toml"]])
def test_it_has_models_of_its_own(option: list[str]) -> None:
    result = CliRunner().invoke(app, ["demo", "--vision", *option])
    assert result.exit_code == 2 and "of its own" in result.stderr and option[0] in result.stderr
