"""A sentence to find in a long text of others.

Source: the needle-in-a-haystack test (Kamradt 2023) and its multi-key form in RULER (Hsieh et al.
2024, arXiv:2404.06654): several needles of the same wording, each with a key, one of them asked
for. The haystack here is made, not copied: sentences without numbers, none of them twice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from ..errors import FoveateError
from ._made import Made
from ._task import Item
from ._text import LAST, draw, sentences, stream, whole

__all__ = ["Needle"]

_SAYS = "The secret number of {key} is {value}."
_ASKS = "What is the secret number of {key}? Answer with the number only."
_PLACES = ("Gate", "Cellar", "Tower", "Bridge", "Harbour", "Garden", "Mill", "Yard")


@dataclass(frozen=True)
class Needle(Made):
    """Find one number in a text of ``length`` tokens.

    Parameters
    ----------
    length : int
        Tokens of the whole prompt, template and question included, at least 150: prompts are at
        most as long, and at most a sentence shorter.
    needles : int
        Sentences of the needle's wording, each with its own key; one is asked for.
    depth : float, optional
        Where the needle asked for stands: 0 the beginning, 1 the end. Default: spread evenly
        over the items. The others stand anywhere.
    n, seed : int

    Notes
    -----
    Regions: ``evidence`` (the needle), ``decoy`` (another one, if there is one), ``context`` (the
    whole text), ``question``. ``info``: ``depth``, ``value``, ``values`` (all the numbers),
    ``lead`` (how an answer begins, up to the number).
    """

    length: int = 1024
    needles: int = 1
    depth: float | None = None

    max_new_tokens = 20

    @property
    def title(self) -> str:
        """Such as ``needle 1024`` or ``needle 1024, 4 keys, depth 0.5``."""
        more = f", {self.needles} keys" if self.needles > 1 else ""
        return f"needle {self.length}{more}" + (f", depth {self.depth:g}" if self.depth else "")

    def check(self) -> None:
        """Refuse sizes that make no sense."""
        whole("needles", self.needles)
        whole("length", self.length, least=150)
        depth = 0 if self.depth is None else self.depth
        if isinstance(depth, bool) or not isinstance(depth, int | float) or not 0 <= depth <= 1:
            raise FoveateError(f"depth={self.depth!r} was given; a number from 0 to 1 was wanted.")

    def make(self, i: int, tokenizer: Any) -> Item:
        """Item ``i``; the tokenizer counts."""
        if tokenizer is None:
            raise FoveateError("Needle counts tokens: give items(tokenizer) the model's tokenizer.")
        rng = stream("needle", self.seed, i)
        keys = [f"{stem} {rng.choice(_PLACES)}" for stem in draw(rng, LAST, self.needles)]
        values = [str(v) for v in rng.sample(range(1000, 10000), self.needles)]
        said = [_SAYS.format(key=k, value=v) for k, v in zip(keys, values, strict=True)]
        question = _ASKS.format(key=keys[0])
        # evenly spread, whatever n is: the golden ratio's multiples fill [0, 1)
        depth = (0.5 + i * 0.6180339887) % 1 if self.depth is None else float(self.depth)
        hay = self._hay(rng, tokenizer, said, question)
        places = [round(depth * len(hay)), *(rng.randint(0, len(hay)) for _ in said[1:])]
        for place, sentence in sorted(zip(places, said, strict=True), reverse=True):
            hay.insert(place, sentence)
        context = " ".join(hay)
        marks = {"evidence": said[0], "context": context, "question": question}
        if self.needles > 1:
            marks["decoy"] = said[1]
        return Item(
            id=f"needle-{i:03d}",
            content=f"{context}\n\n{question}",
            answer=values[0],
            marks=marks,
            wrong=tuple(values[1:]),
            info={
                "depth": depth,
                "value": values[0],
                "values": values,
                "lead": _SAYS.format(key=keys[0], value="").removesuffix(" ."),
            },
        )

    def _hay(self, rng: random.Random, tokenizer: Any, said: list[str], question: str) -> list[str]:
        """As many sentences as fit between the needles and the question."""
        tokenizer = getattr(tokenizer, "tokenizer", None) or tokenizer

        def count(texts: list[str]) -> list[int]:
            encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
            return [len(ids) for ids in encoded]

        frame = f"{' '.join(said)}\n\n{question}"
        if getattr(tokenizer, "chat_template", None):
            chat = [{"role": "user", "content": frame}]
            frame = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        left = self.length - count([frame])[0]
        if left < 0:
            raise FoveateError(
                f"{self.needles} needles and the question alone take {self.length - left} tokens; "
                f"length={self.length} has no room for them."
            )
        hay: list[str] = []
        source = sentences(rng)
        while True:
            some = [next(source) for _ in range(32)]
            for sentence, size in zip(some, count([f" {one}" for one in some]), strict=True):
                if size > left:
                    return hay
                left -= size
                hay.append(sentence)
