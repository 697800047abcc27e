"""AvisC: blind tokens and the contrast written out in float64, without cache or attachment."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
import pictured
from foveate.decoding.avisc import AvisC, blind_tokens
from foveate.decoding.views import ViewDecoder
from foveate.tasks._task import Item

pytest.importorskip("PIL")

STEPS = 2
TEXTS = ("what is there?", "is it a cat, or not?")


def prompt(name: str = "llava") -> fv.Prompt:
    """Two chats of different lengths about two pictures."""
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": pictured.noise(16, 16, seed)},
                    {"type": "text", "text": text},
                ],
            }
        ]
        for seed, text in enumerate(TEXTS)
    ]
    return fv.Prompt(pictured.processor(name), chats, padding_side="left")


class Written:
    """A LLaVA as a function of its embeddings: pictures are put in, positions are counted."""

    def __init__(self, model: Any, asked: fv.Prompt) -> None:
        self.model = copy.deepcopy(model)
        self.model.set_attn_implementation("eager")
        self.asked = asked
        kept: list[Tensor] = []
        inner = self.model.model.language_model
        hook = inner.register_forward_pre_hook(
            lambda module, args, kwargs: kept.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        with torch.no_grad():
            self.model(**{**asked.inputs, "pixel_values": asked.inputs["pixel_values"].double()})
        hook.remove()
        (self.embeds,) = kept

    def __call__(self, row: int, zeroed: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """Of one item: log-probabilities ``[V]`` and the last query's attention ``[L, H, S]``."""
        real = self.asked.inputs["attention_mask"][row].bool()
        embeds = (self.embeds[row] * ~zeroed[:, None])[real]
        embeds = torch.cat([embeds, self.model.get_input_embeddings()(said)])[None]
        with torch.no_grad():
            out = self.model.model.language_model(
                inputs_embeds=embeds, output_attentions=True, use_cache=False
            )
            logits = self.model.lm_head(out.last_hidden_state[0, -1])
        return logits.log_softmax(-1), torch.stack([one[0, :, -1] for one in out.attentions])


def sought(attention: Tensor, image: Tensor, gamma: float, lamb: float) -> Tensor:
    """The blind tokens of one item: ``[L, H, S]`` and ``[S]``, one number after the other."""
    tokens = image.nonzero().flatten().tolist()
    maps = [[float(layer[:, t].mean()) for t in tokens] for layer in attention]
    total = sum(map(sum, maps))
    order = sorted(range(len(maps)), key=lambda layer: -sum(maps[layer]))
    taken, share = [], 0.0
    for layer in order:
        taken.append(layer)
        share += sum(maps[layer]) / total
        if share >= gamma:
            break
    mean_map = [sum(maps[layer][i] for layer in taken) / len(taken) for i in range(len(tokens))]
    mean = sum(mean_map) / len(tokens)
    std = math.sqrt(sum((a - mean) ** 2 for a in mean_map) / (len(tokens) - 1))
    found = torch.zeros_like(image)
    for token, a in zip(tokens, mean_map, strict=True):
        found[token] = a >= mean + lamb * std
    return found


def check(make: Callable[..., Any]) -> None:
    model, asked = copy.deepcopy(pictured.model("llava")).double(), prompt()
    written = Written(model, asked)
    asked.inputs["pixel_values"] = asked.inputs["pixel_values"].double()
    image = asked.regions["image"]
    nothing = torch.zeros_like(image)
    for settings in (
        {},
        {"alpha": 1.0, "gamma": 1.0, "lamb": 0.5, "plausibility": None},
        {"alpha": 2.0, "gamma": 0.0, "lamb": 0.8, "plausibility": 0.9},
    ):
        full: dict[str, Any] = {
            "alpha": 2.5,
            "gamma": 0.5,
            "lamb": 1.0,
            "plausibility": 0.1,
            **settings,
        }
        decoded = make(**settings).decode(model, asked, STEPS)
        for row, said in enumerate(decoded.ids):
            real = asked.inputs["attention_mask"][row].bool()
            _, attention = written(row, nothing[row], said[:0])
            found = torch.zeros_like(real)
            found[real] = sought(attention, image[row][real], full["gamma"], full["lamb"])
            assert 0 < int(found.sum()) < int(image[row].sum())
            for step in range(len(said)):
                whole = written(row, nothing[row], said[:step])[0]
                blind = written(row, image[row] & ~found, said[:step])[0]
                scores = (1 + full["alpha"]) * whole - full["alpha"] * blind
                if full["plausibility"] is not None:
                    scores[whole < whole.max() + math.log(full["plausibility"])] = -math.inf
                wanted = scores.log_softmax(-1)
                assert int(said[step]) == int(wanted.argmax()), (settings, row, step)
                told = decoded.log_probs[row, step].double()
                assert torch.isclose(wanted.max(), told, atol=1e-4), (settings, row, step)


def baseline(**settings: Any) -> ViewDecoder:
    return ViewDecoder()


def test_avisc() -> None:
    check(AvisC)


@pytest.mark.parametrize("name", pictured.NAMES)
def test_without_contrast_it_is_the_model(name: str) -> None:
    model, asked = pictured.model(name), prompt(name)
    own = model.generate(**asked.inputs, max_new_tokens=3, do_sample=False)[:, asked.length :]
    assert torch.equal(AvisC(alpha=0.0).decode(model, asked, 3).ids, own)


def test_where_all_tokens_are_blind_the_contrast_cancels() -> None:
    model, asked = pictured.model("llava"), prompt()
    plain = ViewDecoder().decode(model, asked, STEPS)
    decoder = AvisC(alpha=5.0, lamb=-100.0, plausibility=None)
    assert torch.equal(decoder.blind(model, asked), asked.regions["image"])
    still = decoder.decode(model, asked, STEPS)
    assert torch.equal(plain.ids, still.ids)
    assert torch.allclose(plain.log_probs, still.log_probs, atol=1e-5)


def test_a_map_with_one_outlier_has_one_blind_token() -> None:
    attention = torch.full((2, 1, 3, 9), 0.05)
    attention[0, 0, :, 6] = 0.6
    image = torch.zeros(1, 9, dtype=torch.bool)
    image[0, 2:8] = True
    assert blind_tokens(attention, image, 0.5, 1.0).nonzero().tolist() == [[0, 6]]
    attention[1, 0, :, 3] = 0.9  # the layer that looks at the image most; the other is not taken
    assert blind_tokens(attention, image, 0.5, 1.0).nonzero().tolist() == [[0, 3]]
    assert blind_tokens(attention, image, 1.0, 0.5).nonzero().tolist() == [[0, 3], [0, 6]]


def test_a_batch_is_its_rows() -> None:
    model, both = pictured.model("llava"), prompt()
    together = AvisC().decode(model, both, STEPS)
    for row in range(len(TEXTS)):
        content = [
            {"type": "image", "image": pictured.noise(16, 16, row)},
            {"type": "text", "text": TEXTS[row]},
        ]
        alone = fv.Prompt(pictured.processor("llava"), [{"role": "user", "content": content}])
        one = AvisC().decode(model, alone, STEPS)
        n = one.ids.shape[1]
        assert torch.equal(one.ids[0], together.ids[row, :n])
        assert torch.allclose(one.log_probs[0], together.log_probs[row, :n], atol=1e-4)


def test_answers_about_pictures_are_scored() -> None:
    model, processor, asked = pictured.model("llava"), pictured.processor("llava"), prompt()
    items = []
    for row, text in enumerate(TEXTS):
        picture = {"type": "image", "image": pictured.noise(16, 16, row)}
        chat: Any = [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]
        items.append(Item(str(row), chat, "a"))
    scores = AvisC(alpha=0.0, plausibility=None).score(model, processor, items)
    with torch.no_grad():
        said = model(**asked.inputs).logits[:, -1].log_softmax(-1)
    (token,) = processor.tokenizer("a")["input_ids"]
    assert torch.allclose(scores, said[:, token], atol=1e-4)


def test_the_model_is_as_it_was() -> None:
    model, asked = pictured.model("llava"), prompt()
    before = model(**asked.inputs).logits
    AvisC().decode(model, asked, 2)
    assert torch.equal(before, model(**asked.inputs).logits)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"gamma": True}, "gamma=True"),
        ({"lamb": "high"}, "lamb='high'"),
        ({"plausibility": 0}, "plausibility=0"),
    ],
)
def test_settings_that_are_none(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        AvisC(**settings)


def test_a_prompt_without_a_picture_is_refused() -> None:
    words = fv.Prompt(pictured.processor("llava"), [{"role": "user", "content": "hello"}])
    with pytest.raises(fv.FoveateError, match="reads region 'image'"):
        AvisC().decode(pictured.model("llava"), words, 2)
