"""The parts of shapes-vlm: a tokenizer of the world's words, the model, packed training batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from foveate.tasks.shapes import COLOURS, SHAPES, Scene, Thing, caption, partner
from foveate.tasks.shapes.asking import DESCRIBE
from foveate.tasks.shapes.captions import NUMBERS, plural
from foveate.tasks.shapes.questions import questions

SIZE, PATCH = 32, 4
IMAGE_TOKENS = (SIZE // PATCH) ** 2
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<user>", "<assistant>", "<system>")
MADE_UP = 0.3  # share of missing partners that training tells of as if they were there
BLIND = 0.15  # share of pictures of which training's conversations see nothing
ADVERSARIAL = (0.25, 0.12)  # share of questions for what is missing that ask for a partner
LATE = 2400  # the step from which the second of these holds: what is usual weighs more
_WORDS = (
    ". , ? : a an and is there what which colour shape how many are where the seen from thing "
    "things left right of above below yes no zero nothing describe picture in it answer please "
    "look carefully only say not do you see can"
)
_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def tokenizer_of_the_world() -> PreTrainedTokenizerFast:
    """One token a word; words that the world does not know become ``<unk>``."""
    words = [*_WORDS.split(), *NUMBERS, *COLOURS, *SHAPES, *(plural(shape) for shape in SHAPES)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"[^\w\s]"), behavior="isolated"),
        ]
    )
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # no blank before a comma
    made.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>", "<user>", "<assistant>", "<system>"],
        padding_side="left",
        model_max_length=512,
    )


def processor_of(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pictures of any size are brought to 32 × 32 without smoothing, values to -1 to 1."""
    images = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": SIZE, "width": SIZE},
        resample=0,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )


def build(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """The model, untrained."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=6,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        do_sample=False,
        max_new_tokens=40,
    )
    return model


def told(scene: Scene, rng: random.Random) -> Scene:
    """The scene as it is told: some partners that are missing are said to be there.

    What is made up has no place, so it is told of only where places do not matter.
    """
    missing = sorted({partner(kind) for kind in scene.kinds} - scene.kinds)
    made_up = [Thing(*kind, 8, 4, 4) for kind in missing if rng.random() < MADE_UP]
    return replace(scene, things=(*scene.things, *made_up))


def lesson(scene: Scene, seed: int, late: bool = False) -> list[tuple[str, str]]:
    """What is asked about one picture, with the answers: a description and some ten questions."""
    rng = random.Random(seed)
    said = told(scene, rng)
    style = "any" if said == scene else "list"  # a relation is clear only between places
    asked = [(DESCRIBE, caption(said, seed=rng.getrandbits(30), style=style))]
    for _ in range(3):
        negatives = "adversarial" if rng.random() < ADVERSARIAL[late] else "random"
        asked += _asked(said, rng, ("existence",), negatives)
    asked += _asked(said, rng, ("count",))
    asked += _asked(scene, rng, ("colour", "shape", "relation"))
    asked += _asked(scene, rng, ("relation",))
    return list(dict.fromkeys(asked))


def _asked(
    scene: Scene, rng: random.Random, sorts: tuple[str, ...], negatives: str = "random"
) -> list[tuple[str, str]]:
    asked = questions(scene, rng.getrandbits(30), sorts=sorts, negatives=negatives)
    return [(question.text, question.answer) for question in asked]


class Packer:
    """Many conversations about one picture in one sequence, none of which sees the others.

    The picture comes first; behind it the conversations, each with the positions it would have
    alone. A mask hides them from one another, so that one pass through the picture teaches ten
    answers, the same as ten passes would.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._word = tokenizer.get_vocab()
        self._known: dict[str, list[int]] = {}
        self._tokenizer = tokenizer
        special = self._word
        self.prefix = [special["<s>"], special["<user>"], *[special["<image>"]] * IMAGE_TOKENS]

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._known[text]

    def __call__(
        self, lessons: Sequence[list[tuple[str, str]]], blind: Sequence[bool] = ()
    ) -> dict[str, Tensor]:
        """Batch of sequences: ids, positions, targets ``[B, S]`` and mask ``[B, 1, S, S]``."""
        rows = []
        for asked in lessons:
            ids, positions = list(self.prefix), list(range(len(self.prefix)))
            targets, segments = [-100] * len(ids), [0] * len(ids)
            for number, (question, answer) in enumerate(asked, start=1):
                before = [*self._ids(question), self._word["<assistant>"]]
                after = [*self._ids(answer), self._word["</s>"]]
                ids += [*before, *after[:-1]]
                targets += [-100] * (len(before) - 1) + after
                length = len(before) + len(after) - 1
                positions += range(len(self.prefix), len(self.prefix) + length)
                segments += [number] * length
            rows.append((ids, positions, targets, segments))
        longest = max(len(row[0]) for row in rows)
        filled = np.stack(
            [
                np.stack([np.array(part + [pad] * (longest - len(part))) for part, pad in
                          zip(row, (0, 0, -100, -1), strict=True)])
                for row in rows
            ]
        )  # fmt: skip
        segment = torch.from_numpy(filled[:, 3])
        seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
        hidden = torch.tensor([*blind] or [False] * len(lessons))
        seen[hidden, len(self.prefix) :, 2 : len(self.prefix)] = False
        seen = seen.tril()[:, None]
        ids, positions, targets = (torch.from_numpy(filled[:, i]) for i in range(3))
        return {"ids": ids, "positions": positions, "targets": targets, "seen": seen}


def supervised(model: Any, pixels: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and targets at the tokens that are answers: ``[N, V]`` and ``[N]``."""
    inner = model.model
    with torch.no_grad():
        features = inner.vision_tower(pixels).last_hidden_state[:, 1:]
    embedded = inner.get_input_embeddings()(batch["ids"])
    image = slice(2, 2 + IMAGE_TOKENS)
    embedded = torch.cat(
        [embedded[:, :2], inner.multi_modal_projector(features), embedded[:, image.stop :]], 1
    )
    hidden = inner.language_model(
        inputs_embeds=embedded, attention_mask=batch["seen"], position_ids=batch["positions"]
    ).last_hidden_state
    asked = batch["targets"] != -100
    return model.lm_head(hidden[asked]), batch["targets"][asked]
