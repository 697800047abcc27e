"""Inputs of the classes whose signature and configuration do not say what they want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.check.inputs import tokens

__all__ = ["INPUTS"]

Made = dict[str, Any]
B, S = 2, 11


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g)


def _series(model: Any, g: torch.Generator) -> Made:
    config = model.config
    past = config.context_length + max(config.lags_sequence)
    future, features = config.prediction_length, config.num_time_features
    return {
        "past_values": _normal(g, B, past),
        "past_time_features": _normal(g, B, past, features),
        "past_observed_mask": torch.ones(B, past),
        "future_values": _normal(g, B, future),
        "future_time_features": _normal(g, B, future, features),
    }


def _patches(model: Any, g: torch.Generator) -> Made:
    config = model.config
    return {"past_values": _normal(g, B, config.context_length, config.num_input_channels)}


def _timesfm(model: Any, g: torch.Generator) -> Made:
    return {
        "past_values": _normal(g, B, 64),
        "past_values_padding": torch.zeros(B, 64),
        "freq": torch.zeros(B, 1, dtype=torch.long),
    }


def _lxmert(model: Any, g: torch.Generator) -> Made:
    config = model.config
    return {
        "input_ids": tokens(model, B, S, g),
        "visual_feats": _normal(g, B, 6, config.visual_feat_dim),
        "visual_pos": torch.rand((B, 6, config.visual_pos_dim), generator=g),
    }


def _codebooks(count: str) -> Callable[[Any, torch.Generator], Made]:
    """Decoder tokens of several codebooks, one after the other in the batch."""

    def made(model: Any, g: torch.Generator) -> Made:
        books = model.config.decoder.num_codebooks
        rows = torch.randint(0, model.config.decoder.vocab_size, (B * books, 7), generator=g)
        return {"input_ids": tokens(model, B, S, g), "decoder_input_ids": rows}

    return made


def _dia(model: Any, g: torch.Generator) -> Made:
    channels = model.config.decoder_config.num_channels
    return {
        "input_ids": tokens(model, B, S, g),
        "decoder_input_ids": torch.randint(0, 60, (B, 7, channels), generator=g),
    }


def _pix2struct(model: Any, g: torch.Generator) -> Made:
    width = 2 + model.config.vision_config.patch_embed_hidden_size
    patches = _normal(g, B, 9, width)
    patches[..., :2] = torch.arange(1, 10)[:, None].float() % 3
    return {
        "flattened_patches": patches,
        "decoder_input_ids": torch.randint(3, 60, (B, 7), generator=g),
    }


def _pair(model: Any, g: torch.Generator) -> Made:
    return {"pixel_values": _normal(g, B, 2, 3, 64, 64)}


def _seggpt(model: Any, g: torch.Generator) -> Made:
    names = ("pixel_values", "prompt_pixel_values", "prompt_masks")
    return {name: _normal(g, B, 3, 32, 32) for name in names}


def _rag(model: Any, g: torch.Generator) -> Made:
    return {
        "input_ids": tokens(model, B, S, g),
        "context_input_ids": torch.randint(3, 60, (5 * B, S), generator=g),
        "context_attention_mask": torch.ones(5 * B, S, dtype=torch.long),
        "doc_scores": _normal(g, B, 5),
        "decoder_input_ids": torch.randint(3, 60, (B, 7), generator=g),
    }


def _speech_to_text(model: Any, g: torch.Generator) -> Made:
    return {
        "inputs": _normal(g, B, 4000),
        "decoder_input_ids": torch.randint(3, 60, (B, 7), generator=g),
    }


def _perceiver(model: Any, g: torch.Generator) -> Made:
    return {"inputs": torch.randint(3, 60, (B, model.config.max_position_embeddings), generator=g)}


def _idefics(model: Any, g: torch.Generator) -> Made:
    return {
        "input_ids": tokens(model, B, S, g),
        "attention_mask": torch.ones(B, S, dtype=torch.long),
        "pixel_values": _normal(g, B, 1, 3, 32, 32),
        "image_attention_mask": torch.ones(B, S, 1, dtype=torch.long),
    }


def _kosmos2(model: Any, g: torch.Generator) -> Made:
    places = torch.zeros(B, S + 4, dtype=torch.long)
    places[:, 1 : 1 + model.config.latent_query_num] = 1
    return {
        "pixel_values": _normal(g, B, 3, 32, 32),
        "input_ids": tokens(model, B, S + 4, g),
        "image_embeds_position_mask": places,
    }


def _muse(model: Any, g: torch.Generator) -> Made:
    config = model.config
    width = config.hidden_size * len(config.target_layer_ids)
    return {
        "noise_embeds": _normal(g, B, config.block_size, config.hidden_size),
        "context_hidden_states": _normal(g, B, 6, width),
        "position_ids": torch.arange(6 + config.block_size).expand(B, -1),
        "attention_mask": torch.ones(B, 6 + config.block_size, dtype=torch.long),
    }


def _codec(model: Any, g: torch.Generator) -> Made:
    return {"input_values": _normal(g, B, 1, 3200), "input_features": _normal(g, B, 10, 160)}


def _oneformer(model: Any, g: torch.Generator) -> Made:
    return {
        "pixel_values": _normal(g, B, 3, 32, 32),
        "task_inputs": torch.randint(3, 60, (B, model.config.task_seq_len), generator=g),
    }


def _books(model: Any, g: torch.Generator) -> Made:
    return {"input_ids": torch.randint(3, 60, (B, S, model.config.num_codebooks + 1), generator=g)}


INPUTS: dict[str, Callable[[Any, torch.Generator], Made]] = {
    "AutoformerModel": _series,
    "InformerModel": _series,
    "TimeSeriesTransformerModel": _series,
    "PatchTSMixerModel": _patches,
    "PatchTSTModel": _patches,
    "TimesFmModel": _timesfm,
    "TimesFm2_5Model": lambda model, g: {"past_values": _normal(g, B, 64)},
    "IdeficsModel": _idefics,
    "OneFormerModel": _oneformer,
    "KyutaiSpeechToTextForConditionalGeneration": _books,
    "EfficientLoFTRModel": _pair,
    "EfficientLoFTRForKeypointMatching": _pair,
    "Kosmos2ForConditionalGeneration": _kosmos2,
    "MuseGlimmerAssistantModel": _muse,
    "NeuCodecModel": _codec,
    "Xcodec2Model": _codec,
    "XcodecModel": lambda model, g: {"input_values": _normal(g, B, 1, 3200)},
    "GraniteSpeech5ForCTC": lambda model, g: {"input_features": _normal(g, B, 64, 320)},
    "PPOCRV5MobileRecModel": lambda model, g: {"pixel_values": _normal(g, B, 3, 48, 320)},
    "PPOCRV5ServerRecModel": lambda model, g: {"pixel_values": _normal(g, B, 3, 48, 320)},
    "PPOCRV5MobileDetModel": lambda model, g: {"pixel_values": _normal(g, B, 3, 64, 64)},
    "LxmertModel": _lxmert,
    "MusicgenForConditionalGeneration": _codebooks("decoder"),
    "MusicgenMelodyForConditionalGeneration": _codebooks("decoder"),
    "DiaForConditionalGeneration": _dia,
    "DiaModel": _dia,
    "Pix2StructForConditionalGeneration": _pix2struct,
    "SuperGlueForKeypointMatching": _pair,
    "SegGptModel": _seggpt,
    "RagModel": _rag,
    "SpeechEncoderDecoderModel": _speech_to_text,
    "PerceiverForMaskedLM": _perceiver,
}
