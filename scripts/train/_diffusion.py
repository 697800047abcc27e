"""What the two text-to-image models share: words, scenes, the average that is drawn with."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import arguments, fit
from _drawing import SIDES, figures, montage, ship
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from foveate.models.pipelines import encoded
from foveate.tasks.shapes import COLOURS, SHAPES, Scene, Thing, caption, render
from foveate.tasks.shapes.drawing import DRAWN

PAIRS = 0.4  # share of training scenes with two things
DROPPED = 0.1  # share of captions that are left out, for guidance
TOKENS = 12  # of a prompt, begin and end included


# --------------------------------------------------------------------------- words


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, to which each word of the world is one token."""
    words = [
        *("a", "an", "and", "no", "one", "two", "three", "four", "five", "six", ","),
        *("left", "right", "of", "above", "below", "nothing"),
        *COLOURS,
        *SHAPES,
        *(f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES),
    ]
    letters = sorted(set("".join(words)))
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    vocabulary |= {f"{letter}</w>": len(letters) + i for i, letter in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for pair in merges:  # what the words before have taught
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == pair:
                    parts[i : i + 2] = ["".join(pair)]
                i += 1
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = ["".join(parts[:2])]
            vocabulary.setdefault(parts[0], len(vocabulary))
    begin, end = len(vocabulary), len(vocabulary) + 1
    vocabulary |= {"<|startoftext|>": begin, "<|endoftext|>": end}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def text_encoder(words: CLIPTokenizer, width: int, layers: int = 2) -> CLIPTextModel:
    """A CLIP text encoder of `width` for the world's words."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.eos_token_id,
        )
    )


# --------------------------------------------------------------------------- pictures


def scene(rng: random.Random, count: int) -> Scene:
    """A scene of things of different kinds that do not touch."""
    while True:
        things: list[Thing] = []
        for shape, colour in rng.sample(DRAWN, count):
            for _ in range(30):
                side = rng.randint(*SIDES)
                x, y = (rng.randint(0, 32 - side) + side / 2 for _ in range(2))
                if all(max(abs(x - t.x), abs(y - t.y)) > (side + t.size) / 2 for t in things):
                    things.append(Thing(shape, colour, side, x, y))
                    break
        if len(things) == count:
            return Scene(tuple(things))


def batch(
    step: int, size: int, pairs: float = PAIRS, seed: int = 0
) -> tuple[Tensor, list[str], torch.Generator]:
    """Pictures ``[B, 3, 32, 32]`` of -1 to 1, their captions, and the step's source of noise."""
    rng = random.Random(seed * 1_000_003 + step)
    drawn = [scene(rng, 2 if rng.random() < pairs else 1) for _ in range(size)]
    texts = ["" if rng.random() < DROPPED else caption(s, seed=rng.getrandbits(30)) for s in drawn]
    pixels = torch.from_numpy(np.stack([render(s) for s in drawn]))
    pictures = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return pictures, texts, torch.Generator().manual_seed(rng.getrandbits(60))


class Trained(nn.Module):
    """A denoiser and its text encoder, beside the running average of both."""

    def __init__(self, denoiser: nn.Module, encoder: nn.Module, words: CLIPTokenizer) -> None:
        super().__init__()
        self.live = nn.ModuleDict({"denoiser": denoiser, "encoder": encoder})
        self.average = copy.deepcopy(self.live).requires_grad_(False).eval()
        self.words = words

    def read(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Texts as the live encoder tells them."""
        return encoded(self.live["encoder"], self.words, texts)

    @torch.no_grad()
    def follow(self, step: int, most: float = 0.999) -> None:
        """Move the average towards the live model; early on it follows faster."""
        decay = min(most, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.live.parameters()), 1 - decay
        )


def watching(
    trained: Trained, pipeline: Callable[[], Any], folder: Path, every: int, n: int = 36
) -> Callable[[int], None]:
    """What is done after each step: the average follows; now and then it is judged and drawn."""

    def also(step: int) -> None:
        trained.follow(step)
        if step % every == 0:
            with torch.random.fork_rng():
                pipe = pipeline()
                told = {"step": step} | figures(pipe, n, steps=12)
            with (folder / "figures.jsonl").open("a", encoding="utf-8") as curve:
                print(json.dumps(told), file=curve)
            print(json.dumps(told), flush=True)
            montage(pipe, folder / "drawn.png")

    return also


def run(
    name: str,
    page: str | None,
    about: str,
    build: Callable[[], Trained],
    pipeline: Callable[[Trained], Any],
    loss_of: Callable[[Trained, int, bool], Callable[[int], dict[str, Tensor]]],
) -> None:
    """Train a model, or export it, as the options say.

    `page` is what the options' help begins with, `about` what the model's card does. Attention is
    taken as two products while training: on a CPU the fused kernel's backward is slow for as few
    tokens.
    """
    parser = arguments(name, page, steps=12000, batch=64)
    parser.add_argument("--compile", action="store_true", help="quicker, where there is a compiler")
    parser.add_argument("--watch", type=int, default=1000, help="steps from one look to the next")
    given = parser.parse_args()
    trained, file = build(), given.folder / "checkpoint.pt"
    if given.export or given.evaluate:
        if not file.exists():
            raise SystemExit(f"There is no {file} yet: train first, without --export, --evaluate.")
        trained.load_state_dict(torch.load(file, weights_only=True)["model"])
        ship(trained, pipeline(trained), name, about, given.folder, given.batch)
        return
    with sdpa_kernel(SDPBackend.MATH):
        fit(
            trained,
            loss_of(trained, given.batch, given.compile),
            steps=given.steps,
            rate=1e-3,
            file=file,
            minutes=given.minutes,
            also=watching(trained, lambda: pipeline(trained), given.folder, given.watch),
        )
