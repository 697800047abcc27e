"""Prompts with pictures: which token is which patch of which picture, in several families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foveate as fv
import pictured
from foveate.errors import FoveateError
from foveate.prompt import continued
from pictured import NAMES, noise, processor

pytest.importorskip("PIL")


def chat(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    """A message of texts and pictures."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return [{"role": role, "content": content}]


def lit(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A black picture with a white box."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    return picture


def brightness(name: str, prompt: fv.Prompt) -> torch.Tensor:
    """How bright each image token's own patch is, in the order of the tokens: read from pixels."""
    values = prompt.inputs["pixel_values"].float()
    if name == "qwen2_vl":  # [patches, …]: four patches of a block behind one another
        return values.mean(-1).reshape(-1, 4).mean(-1)
    side = 4 if name == "llava" else 2
    tiles = values.flatten(0, -4).mean(1)
    return torch.nn.functional.adaptive_avg_pool2d(tiles, side).flatten()


@pytest.mark.parametrize("name", NAMES)
def test_a_box_is_where_its_pixels_are(name: str) -> None:
    box = (32, 0, 64, 32)  # the upper right quarter, to the pixel in all families
    prompt = fv.Prompt(processor(name), chat(lit(64, 64, box), "what?"))
    prompt.mark_box("lit", box)
    seen = brightness(name, prompt)
    tokens = torch.tensor(prompt.positions("image"))
    assert len(seen) == len(tokens)
    bright = tokens[seen > seen.mean() + seen.std()]
    assert prompt.positions("lit") == bright.tolist()
    (grid,) = prompt.grids
    assert (grid.width, grid.height) == (64, 64)
    drawn = grid.picture(prompt.regions["lit"][0])
    half = grid.rows // 2
    assert drawn[:half, half:].all() and int(drawn.sum()) == half * half


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_items(name: str) -> None:
    """Left padding, two pictures, one, none: each as it is alone."""
    small, large = noise(32, 32), noise(40, 64, seed=1)
    chats = [
        chat("first ", small, " then ", large, " which?"),
        chat(large, "what?"),
        chat("no picture"),
    ]
    batch = fv.Prompt(processor(name), chats)
    assert [grid.item for grid in batch.grids] == [0, 0, 1]
    batch.mark_box("box", (0, 0, 32, 20), picture=-1, item=0)
    batch.mark_box("box", (0, 0, 32, 20), item=1)
    for number, one in enumerate(chats):
        alone = fv.Prompt(processor(name), one)
        if number < 2:
            alone.mark_box("box", (0, 0, 32, 20), picture=-1)
        away = batch.length - alone.length
        assert torch.equal(batch.inputs["input_ids"][number, away:], alone.inputs["input_ids"][0])
        for region, mask in alone.regions.items():
            whole = batch.regions[region][number]
            assert torch.equal(whole[away:], mask[0]) and not whole[:away].any()
        mine = [grid for grid in batch.grids if grid.item == number]
        assert [grid.at for grid in mine] == [
            tuple(place + away for place in grid.at or ()) for grid in alone.grids
        ]
    assert not batch.regions["image"][2].any() and not batch.regions["box"][2].any()


@pytest.mark.parametrize("name", NAMES)
def test_texts_keep_their_characters(name: str) -> None:
    prompt = fv.Prompt(
        processor(name),
        [*chat("look: ", noise(32, 32), "where is it?"), *chat("there", role="assistant")],
        system="be brief",
        add_generation_prompt=False,
    )
    row = prompt.inputs["input_ids"][0]

    def said(region: str) -> str:
        return prompt.tokenizer.decode(row[prompt.positions(region)])

    assert said("user") == "look: where is it?" and said("assistant") == "there"
    assert said("system") == "be brief"
    prompt.mark("where", "where is it?")
    assert said("where") == "where is it?"
    image = prompt.regions["image"]
    for other in ("user", "special", "where"):
        assert not (image & prompt.regions[other]).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_model_runs_on_it_and_turns(name: str) -> None:
    model = pictured.model(name)
    chats = [chat(noise(64, 64), "what is it?"), chat(noise(64, 64, seed=1), "and?")]
    prompt = fv.Prompt(processor(name), chats).mark_box("box", (0, 0, 32, 32))
    with torch.no_grad():
        plain = model(**prompt.inputs).logits
        with fv.attach(model, prompt=prompt):
            assert torch.equal(model(**prompt.inputs).logits, plain)
        with fv.attach(
            model, fv.Emphasize("box", 4.0), fv.Measure(fv.mass("box"), fv.mass("image")),
            prompt=prompt,
        ) as run:  # fmt: skip
            turned = model(**prompt.inputs).logits
        with fv.attach(model, fv.Measure(fv.mass("box")), prompt=prompt) as before:
            model(**prompt.inputs)
    assert (turned - plain).abs().max() > 1e-4
    after, old = (one.results["mass:box"].prefill[..., -1] for one in (run, before))
    assert (after[0] > old[0]).all()
    assert (after <= run.results["mass:image"].prefill[..., -1] + 1e-6).all()


def test_kinds_of_pictures(tmp_path: Path) -> None:
    from PIL import Image

    array = noise(16, 16)
    file = tmp_path / "it.png"
    Image.fromarray(array).save(file)
    grey = Image.fromarray(array).convert("L")
    given = [array, torch.from_numpy(array), Image.fromarray(array), file, str(file)]
    prompts = [
        fv.Prompt(processor("llava"), [{"role": "user", "content": [part]}])
        for part in ({"type": "image", "image": one} for one in given)
    ]
    for prompt in prompts:
        assert torch.equal(prompt.inputs["pixel_values"], prompts[0].inputs["pixel_values"])
    assert fv.Prompt(processor("llava"), chat(grey, "what?")).pictures[0].mode == "RGB"
    named = {"type": "image", "path": str(file)}
    one = fv.Prompt(processor("llava"), [{"role": "user", "content": [named]}])
    assert torch.equal(one.inputs["pixel_values"], prompts[0].inputs["pixel_values"])


def test_a_cut_picture_is_told() -> None:
    cropped = processor(
        "llava", size={"shortest_edge": 16}, do_center_crop=True,
        crop_size={"height": 16, "width": 16},
    )  # fmt: skip
    box = (24, 0, 32, 16)  # what is seen is 16 to 48 of the width
    prompt = fv.Prompt(cropped, chat(lit(32, 64, box), "what?")).mark_box("lit", box)
    tokens = torch.tensor(prompt.positions("image"))
    seen = brightness("llava", prompt)
    assert prompt.positions("lit") == tokens[seen > seen.mean()].tolist()
    with pytest.raises(FoveateError, match="covers nothing of any patch"):
        prompt.mark_box("unseen", (0, 0, 14, 32))


def test_regions_of_the_text_are_not_the_towers() -> None:
    """A prompt of 17 tokens and a tower of 17: each has its own."""
    model = pictured.model("llava")
    own = processor("llava", size={"height": 16, "width": 16}, resample=0)
    prompt = fv.Prompt(own, chat(noise(16, 16), "what?"))
    mask = torch.zeros(17, dtype=torch.bool)
    mask[1:5] = True
    short = type("Given", (), {})()
    short.inputs, short.regions = prompt.inputs, {"word": mask[None]}
    with (
        pytest.raises(FoveateError, match="marks tokens of the text"),
        torch.no_grad(),
        fv.attach(model, fv.Emphasize("word", 2.0, stack="vision"), prompt=short),
    ):
        model(**prompt.inputs)
    with (
        torch.no_grad(),
        fv.attach(
            model, fv.Emphasize("patch", 2.0, stack="vision"), regions={"patch": mask}
        ) as run,
    ):
        model(**prompt.inputs)
    assert run.coverage.touched and all("vision" in name for name in run.coverage.touched)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (chat(3.5, "what?"), "The picture of message 0 is float"),
        (chat(None, "what?"), "without its picture"),
        (chat(Path("missing.png"), "what?"), "'missing.png' cannot be read"),
        (chat(Path(__file__), "what?"), "no image file"),
        (chat(np.zeros((4, 4)), "what?"), "array .4, 4. of float64"),
        (chat(np.zeros((4, 4, 4), np.uint8), "what?"), "array .4, 4, 4. of uint8"),
        (chat(noise(16, 16), "what is <image>?"), "1 picture.s., but its text 2 place"),
        ([{"role": "user", "content": "what is <image>?"}, *chat(noise(16, 16))], "2 place"),
    ],
)
def test_refused(given_: Any, message: str) -> None:
    with pytest.raises(FoveateError, match=message):
        fv.Prompt(processor("llava"), given_)


def test_parts_without_a_message_are_told_apart() -> None:
    parts = chat(noise(64, 64), "what?")[0]["content"]
    with pytest.raises(FoveateError, match="into one user message's content") as error:
        fv.Prompt(processor("llava"), parts)
    assert "'image', 'text'" in str(error.value) and "array" not in str(error.value)
    odd = {"role": "user", "parts": parts}  # no content: what is quoted stays short
    with pytest.raises(FoveateError, match=r"ndarray \[64, 64, 3\]") as error:
        fv.Prompt(processor("llava"), [odd])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", NAMES)
def test_the_nearest_piece_is_no_wall_of_pictures(name: str) -> None:
    prompt = fv.Prompt(processor(name), chat(noise(64, 64), "is there a red circle?"))
    for wanted in ("red", "reed circle", "image"):
        if wanted in prompt.text:
            continue
        with pytest.raises(FoveateError, match="nearest piece is") as error:
            prompt.mark("x", wanted)
        nearest = str(error.value).split("nearest piece is")[1]
        assert len(nearest) < 60, nearest
    with pytest.raises(FoveateError, match="nearest piece is 'red circle"):
        prompt.mark("x", "reed circle")


def test_marks_refused() -> None:
    prompt = fv.Prompt(processor("llava"), [chat(noise(16, 16), "what?"), chat("none")])
    for call, message in (
        (lambda: prompt.mark_box("image", (0, 0, 8, 8)), "'image' is there unasked"),
        (lambda: prompt.mark("image", "what?", item=0), "'image' is there unasked"),
        (lambda: prompt.mark_box("box", (0, 0, 8, 8)), "0 picture.s. of item 1"),
        (lambda: prompt.mark_box("box", (0, 0, 8, 8), item=0, picture=1), "picture=1, but"),
        (lambda: prompt.mark_box("box", (0, 0, 8, 8), item=2), "item=2"),
        (lambda: prompt.mark_box("box", (0, 0, 0, 8), item=0), "is empty"),
        (lambda: prompt.mark_box("box", (90, 0, 99, 8), item=0), "covers nothing of any patch"),
    ):
        with pytest.raises(FoveateError, match=message):
            call()
    assert "box" not in prompt.regions
    text = fv.Prompt(processor("llava"), "only text")
    assert "image" not in text.regions and text.grids == () and text.pictures == ()
    with pytest.raises(FoveateError, match="wants a prompt with a picture"):
        text.mark_box("box", (0, 0, 8, 8))
    with pytest.raises(FoveateError, match="prepares none"):
        fv.Prompt(processor("llava").tokenizer, chat(noise(16, 16), "what?"))


def test_a_grid_that_is_not_known_is_refused() -> None:
    """Learned queries stand for a whole picture (as in a Q-Former): no patch is theirs."""
    other = processor("gemma3", size={"height": 16, "width": 16}, resample=0)
    kind = type("Resampler", (), {"image_token": "<start_of_image>", "__call__": None})()
    kind.image_processor = other.image_processor
    from foveate.pictures.layout import grid_of

    values = {"pixel_values": torch.zeros(1, 3, 16, 16)}
    with pytest.raises(FoveateError, match="boxes cannot be marked"):
        grid_of(kind, values, 0, (16, 16), "", range(4), range(4), 0)


def test_to_moves_what_are_tensors() -> None:
    prompt = fv.Prompt(processor("llava"), chat(noise(16, 16), "what?"))
    prompt.inputs["note"] = ["kept"]
    moved = prompt.to("meta")
    assert moved.inputs["pixel_values"].device.type == "meta" and moved.inputs["note"] == ["kept"]
    assert moved.regions["image"].device.type == "meta"


@pytest.mark.parametrize("name", NAMES)
def test_text_behind_a_prompt(name: str) -> None:
    """What is of each token goes on with the text; what is of the pictures stays."""
    prompt = fv.Prompt(processor(name), [chat(noise(32, 32), "what?"), chat("none")])
    tail, real = torch.tensor([[70, 71], [70, 0]]), torch.tensor([[True, True], [True, False]])
    longer = continued(prompt.inputs, tail, real)
    assert set(longer) == set(prompt.inputs)
    assert torch.equal(longer["input_ids"][:, -2:], tail)
    assert torch.equal(longer["attention_mask"][:, -2:], real.long())
    for key, value in prompt.inputs.items():
        if value.shape != prompt.inputs["input_ids"].shape:
            assert longer[key] is value
        elif "type" in key:
            assert value.any() and not longer[key][:, -2:].any()
    with torch.no_grad():
        logits = pictured.model(name)(**longer).logits
    assert logits.shape[:2] == (2, prompt.length + 2)
