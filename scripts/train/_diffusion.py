"""What the two text-to-image models share: words, scenes, averages and how they are judged."""

from __future__ import annotations

import copy
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from foveate.models.pipelines import encoded
from foveate.statistics import wilson
from foveate.tasks.shapes import COLOURS, SHAPES, Scene, Thing, caption, check, mentions, render

KINDS = tuple(product(("circle", "square", "triangle"), ("red", "green", "blue", "yellow")))
SIDES = (10, 14)  # pixels: smallest and largest thing
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
        for shape, colour in rng.sample(KINDS, count):
            for _ in range(30):
                side = rng.randint(*SIDES)
                x, y = (rng.randint(0, 32 - side) + side / 2 for _ in range(2))
                if all(max(abs(x - t.x), abs(y - t.y)) > (side + t.size) / 2 for t in things):
                    things.append(Thing(shape, colour, side, x, y))
                    break
        if len(things) == count:
            return Scene(tuple(things))


def batch(step: int, size: int, seed: int = 0) -> tuple[Tensor, list[str], torch.Generator]:
    """Pictures ``[B, 3, 32, 32]`` of -1 to 1, their captions, and the step's source of noise."""
    rng = random.Random(seed * 1_000_003 + step)
    drawn = [scene(rng, 2 if rng.random() < PAIRS else 1) for _ in range(size)]
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


# --------------------------------------------------------------------------- how good


def prompts(count: int, n: int, seed: int = 1) -> list[str]:
    """``n`` texts that ask for `count` things of different kinds, all kinds (pairs) alike."""
    asked = list(permutations(KINDS, count))
    random.Random(seed).shuffle(asked)
    drawn = [asked[i % len(asked)] for i in range(n)]
    return [" and ".join(f"a {colour} {shape}" for shape, colour in kinds) for kinds in drawn]


def judged(asked: list[str], pictures: list[Any]) -> dict[str, Any]:
    """Shares of pictures, with Wilson's intervals.

    ``right``: what was asked for and nothing else. ``all_there``: everything that was asked for.
    ``neglected``: fewer things than asked for. ``leaked``: a thing with the shape of one and the
    colour of another that were asked for.
    """
    counts: Counter[str] = Counter()
    for text, picture in zip(asked, pictures, strict=True):
        wanted, found = Counter(mentions(text)), Counter(thing.kind for thing in check(picture))
        shapes, colours = {s for s, _ in wanted}, {c for _, c in wanted}
        counts["right"] += found == wanted
        counts["all_there"] += wanted <= found
        counts["neglected"] += found.total() < wanted.total()
        counts["leaked"] += any(
            kind not in wanted and kind[0] in shapes and kind[1] in colours for kind in found
        )
    n = len(asked)
    names = ("right", "all_there", "neglected", "leaked")
    return {"n": n} | {
        name: [round(x, 3) for x in (counts[name] / n, *wilson(counts[name], n))] for name in names
    }


def drawn(
    pipeline: Any, asked: list[str], *, steps: int = 20, guidance: float = 4.0, seed: int = 7
) -> Iterator[Any]:
    """Pictures of a pipeline, 32 prompts at a time."""
    pipeline.set_progress_bar_config(disable=True)
    for first in range(0, len(asked), 32):
        part = asked[first : first + 32]
        noise = torch.Generator().manual_seed(seed + first)
        yield from pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=noise
        ).images


def figures(pipeline: Any, n: int = 240, **options: Any) -> dict[str, Any]:
    """How often a pipeline draws what it is asked for."""
    began, told = time.monotonic(), {}
    for count, name in ((1, "one"), (2, "two")):
        asked = prompts(count, n)
        told[name] = judged(asked, list(drawn(pipeline, asked, **options)))
    return told | {"seconds_a_picture": round((time.monotonic() - began) / (2 * n), 3)}


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


def montage(pipeline: Any, file: Path, rows: int = 4) -> None:
    """Eight pictures of one thing and eight of two a row, five times as large, as one file."""
    from PIL import Image

    asked = list(chain.from_iterable(zip(prompts(1, 4 * rows), prompts(2, 4 * rows), strict=True)))
    pictures = [np.asarray(p) for p in drawn(pipeline, asked)]
    lines = [np.concatenate(pictures[i : i + 8], 1) for i in range(0, len(pictures), 8)]
    sheet = np.concatenate(lines, 0).repeat(5, 0).repeat(5, 1)
    Image.fromarray(sheet).save(file)
    file.with_suffix(".txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
