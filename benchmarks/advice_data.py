"""Questions as people write them into a file, and the two other families of models."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from foveate.tasks import Distractors

SEED = 20_261  # of the held-out questions; nothing was tuned on it


def _asked(task: Distractors, **more: Any) -> list[dict[str, Any]]:
    """A prompt, a list of passages, an answer; the evidence is not told."""
    return [
        {"prompt": item.marks["question"], "context": list(item.info["passages"]),
         "answer": item.answer, **more}
        for item in task.items()
    ]  # fmt: skip


def notes(n: int) -> list[dict[str, Any]]:
    """The held-out template: letters in the first person, six an item."""
    return _asked(Distractors(template="messages", passages=6, n=n, seed=SEED))


def asked_first(n: int, template: str = "houses") -> list[dict[str, Any]]:
    """Four notes or lines of a register, and the question before them, where many people put it."""
    task = Distractors(template=template, passages=4, n=n, seed=SEED)
    return [{**one, "prompt": one["prompt"] + "\n\n{context}"} for one in _asked(task)]


def facts(n: int) -> list[dict[str, Any]]:
    """Short: three sentences, one of which is asked for."""
    return _asked(Distractors(template="facts", passages=4, n=n, seed=SEED))


def choices(n: int) -> list[dict[str, Any]]:
    """The register, with the answers of all its lines to choose from."""
    task = Distractors(template="records", passages=6, n=n, seed=SEED)
    found = []
    for item, record in zip(task.items(), _asked(task), strict=True):
        given = [item.answer, *item.wrong]
        random.Random(item.id).shuffle(given)
        found.append({**record, "choices": given})
    return found


def arithmetic(n: int) -> list[dict[str, Any]]:
    """Sums of two numbers of two figures."""
    rng = random.Random(SEED)
    pairs = [(rng.randrange(11, 99), rng.randrange(11, 99)) for _ in range(n)]
    return [
        {"prompt": f"What is {a} + {b}? Answer with the number only.", "answer": str(a + b)}
        for a, b in pairs
    ]


def unknown(n: int) -> list[dict[str, Any]]:
    """The questions to the notes, without any notes."""
    task = Distractors(template="messages", passages=2, n=n, seed=SEED + 2)
    return [{"prompt": one["prompt"], "answer": one["answer"]} for one in _asked(task)]


def missing(n: int) -> list[dict[str, Any]]:
    """The notes without the one that answers the question."""
    task = Distractors(template="messages", passages=6, n=n, seed=SEED + 1)
    found = []
    for item, record in zip(task.items(), _asked(task), strict=True):
        kept = [text for k, text in enumerate(record["context"]) if k != item.info["asked"]]
        found.append({**record, "context": kept})
    return found


def as_qwen2(folder: str) -> None:
    """The embedded model's weights in Qwen2's class, whose extra biases are 0."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from foveate.load import load

    model, tokenizer = load("smollm2")
    old = model.config.to_dict()
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps",
            "max_position_embeddings", "tie_word_embeddings", "bos_token_id", "eos_token_id",
            "pad_token_id", "rope_parameters")  # fmt: skip
    config = Qwen2Config(**{key: old[key] for key in same if key in old})
    made = Qwen2ForCausalLM(config)
    missing, unknown = made.load_state_dict(model.state_dict(), strict=False)
    assert not unknown and all(name.endswith(".bias") for name in missing), (missing, unknown)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name in missing:
                weight.zero_()
    made.generation_config = model.generation_config
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


_PEOPLE = tuple("ann bob cid dan eva fay gus hal ida jim kay leo".split())
_COLOURS = tuple("red blue green pink gold grey black white".split())


def recall(folder: str, n: int, seconds: float, seed: int = SEED) -> list[dict[str, Any]]:
    """Train a small GPT-2 on "whose key has which colour", and ask it over longer lists.

    It learns on lists of two to eight people, for minutes; it is asked about eight.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<pad>", "<end>", *"the key of is . :".split(), *_PEOPLE, *_COLOURS]
    raw = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(words), n_positions=2048, n_embd=96, n_layer=3, n_head=4,
                   resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0,
                   bos_token_id=1, eos_token_id=1)
    )  # fmt: skip
    rng = random.Random(seed)
    best = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    began, step = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        best.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 100)
        texts = [_line(rng, rng.randint(2, 8)) for _ in range(48)]
        ids = tokenizer([" ".join(t) for t in texts], return_tensors="pt", padding=True)
        labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
        loss = model(**ids, labels=labels).loss
        best.zero_grad()
        loss.backward()
        best.step()
        step += 1
    model.eval()
    model.generation_config.pad_token_id = 0
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"gpt2: {step} steps, loss {loss.item():.3f}", flush=True)
    found = []
    for _ in range(n):
        facts, (who, colour) = _facts(rng, 8)
        found.append(
            {"prompt": f": the key of {who} is", "context": facts, "answer": colour,
             "choices": list(_COLOURS)}
        )  # fmt: skip
    return found


def _facts(rng: random.Random, count: int) -> tuple[list[str], tuple[str, str]]:
    people, colours = rng.sample(_PEOPLE, count), rng.choices(_COLOURS, k=count)
    pairs = list(zip(people, colours, strict=True))
    return [f"the key of {who} is {colour} ." for who, colour in pairs], rng.choice(pairs)


def _line(rng: random.Random, count: int) -> list[str]:
    facts, (who, colour) = _facts(rng, count)
    return [*facts, f": the key of {who} is {colour} <end>"]
