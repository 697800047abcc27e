"""Pictures in a report: where attention on them is drawn, and whether it mattered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate as fv
import pictured
from foveate.errors import FoveateError
from foveate.report import ablate, build, tables, write
from pictured import noise, processor

pytest.importorskip("PIL")


def asked(name: str, batch: int = 1) -> fv.Prompt:
    parts = [{"type": "image", "image": noise(64, 64)}, {"type": "text", "text": "what?"}]
    long = [*parts, {"type": "text", "text": " and where is it?"}]
    chats = [[{"role": "user", "content": one}] for one in (parts, long)[:batch]]
    return fv.Prompt(processor(name), chats).mark_box("box", (0, 0, 32, 32))


@pytest.mark.parametrize("name", ["llava", "idefics3"])  # as it is, and in tiles
def test_each_patch_has_its_tokens_share(name: str) -> None:
    prompt = asked(name, batch=2)
    run = fv.inspect(pictured.model(name), prompt)
    data = build(run)
    rows = run.results["rows"].prefill[:, 0, :, -1].mean((0, 1))  # the first item: padded
    (one,) = data.items[0].pictures
    assert (one.width, one.height) == (64, 64) and one.src.startswith("data:image/png;base64,")
    drawn = torch.tensor(tables.shares(data.items[0], one))
    torch.testing.assert_close(drawn, prompt.grids[0].picture(rows), rtol=6e-4, atol=1e-6)
    box = prompt.grids[0].picture(prompt.regions["box"][0])
    if prompt.grids[0].overview is None:
        assert drawn[box].sum().item() == pytest.approx(
            next(m for m in data.items[0].masses if m.region == "box").last, rel=1e-3
        )
    assert data.items[0].tokens[one.at[1]] == "<patch 0,1>"
    assert data.reader == "last token" and len(data.items[1].pictures) == 1


def test_the_page(tmp_path: Path) -> None:
    prompt = asked("llava")
    page = write(fv.inspect(pictured.model("llava"), prompt), tmp_path / "a.html").read_text()
    held = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert held is not None
    (one,) = json.loads(held[1].replace("\\u003c", "<"))["items"][0]["pictures"]
    assert one["rows"] == one["columns"] == 4 and len(one["at"]) == 16
    assert 'id="pictures"' in page and "drawPictures" in page
    assert not re.search(r"(src|href)=.https?:", page)


def test_a_tower_is_read_at_its_class_token() -> None:
    tower = pictured.model("llava").model.vision_tower
    picture = fv.Picture(processor("llava"), noise(32, 32), tower).mark_box("box", (0, 0, 16, 16))
    run = fv.inspect(tower, picture)
    data = build(run)
    assert data.reader == "class token" and data.items[0].tokens[:2] == ["<class>", "<patch 0,0>"]
    mass = run.results["mass:box"].prefill[:, 0, :, 0].mean().item()
    shown = next(m for m in data.items[0].masses if m.region == "box")
    assert shown.last == pytest.approx(mass, rel=1e-3)
    drawn = torch.tensor(tables.shares(data.items[0], data.items[0].pictures[0]))
    assert drawn[:2, :2].sum().item() == pytest.approx(mass, rel=1e-3)
    with pytest.raises(FoveateError, match="names no class"):
        ablate(tower, picture, ["box"])


def test_hiding_is_what_masking_does() -> None:
    """The picture hidden from every query: as a mask over its keys, which eager attention takes."""
    model, prompt = pictured.model("llava"), asked("llava")
    nothing, picture, box = ablate(model, prompt, ["image", "box"], max_new_tokens=3)
    assert (nothing.region, nothing.change) == ("(nothing)", 0.0)
    assert picture.change and box.change and picture.change != box.change
    with torch.no_grad():
        reply = model.generate(**prompt.inputs, max_new_tokens=3, do_sample=False, pad_token_id=0)[
            :, prompt.length :
        ]
        ids = torch.cat([prompt.inputs["input_ids"], reply], 1)

        def likely(mask: torch.Tensor) -> float:
            positions = torch.arange(ids.shape[1])[None]
            given: dict[str, Any] = {"input_ids": ids, "position_ids": positions}
            given["pixel_values"] = prompt.inputs["pixel_values"]
            logits = model(**given, attention_mask=mask.long()).logits[:, -1 - reply.shape[1] : -1]
            return float(logits.log_softmax(-1).gather(-1, reply[..., None]).sum())

        every = torch.ones_like(ids).bool()
        hidden = every.clone()
        hidden[:, : prompt.length] &= ~prompt.regions["image"]
        assert picture.change == pytest.approx(likely(hidden) - likely(every), abs=1e-4)


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3"])  # these say of each token what it is
def test_every_family_can_be_asked(name: str) -> None:
    found = ablate(pictured.model(name), asked(name), ["box"], max_new_tokens=2)
    assert len(found) == 2 and found[1].change is not None


def test_a_classifier_is_asked_for_its_class() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    own = ViTConfig(**size, intermediate_size=32, image_size=16, patch_size=4, num_labels=5)
    model = ViTForImageClassification(own).eval()
    picture = fv.Picture(processor("llava"), noise(16, 16), model).mark_box("box", (0, 0, 8, 16))
    nothing, hidden = ablate(model, picture, ["box"])
    with torch.no_grad():
        plain = model(**picture.inputs).logits[0].log_softmax(-1)
        with fv.attach(model, fv.Hide("box"), prompt=picture):
            gone = model(**picture.inputs).logits[0].log_softmax(-1)
    best = int(plain.argmax())
    assert nothing.answer == own.id2label[best]
    assert hidden.change == pytest.approx(float(gone[best] - plain[best]), abs=1e-5)


def test_a_picture_without_a_grid_is_shown_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = asked("llava")
    run = fv.inspect(pictured.model("llava"), prompt)

    def unknown(self: Any) -> Any:
        raise FoveateError("Nobody knows.")

    monkeypatch.setattr(fv.Prompt, "grids", property(unknown))
    (one,) = build(run).items[0].pictures
    assert (one.rows, one.at, one.note) == (0, [], "Nobody knows.")
    assert tables.picture(build(run).items[0], one) == ""
