"""Heads, circuits, attributions and detectors: what is found in a model by looking.

The names below are imported when they are first asked for: methods know what was found in a model,
and finders know methods.
"""

from __future__ import annotations

import importlib
from typing import Any

# module -> what it offers
_OFFERS = {
    "act": ("calibrate_act",),
    "anchors": ("resampling_importance", "suppression_kl", "suppression_matrix"),
    "attribution": (
        "Attribution",
        "Faithfulness",
        "agreement",
        "attribute",
        "attributions",
        "faithfulness",
    ),
    "calibration": ("head_effects",),
    "circuits": (
        "Circuit",
        "Pairs",
        "PatchScores",
        "activation_patching",
        "find_circuit",
        "path_patching",
    ),
    "contextual": ("contextual_scores",),
    "divergence": ("VHD", "head_outputs", "vhd"),
    "focus": ("fit_focus_directions",),
    "heads": ("KINDS", "find_heads"),
    "hunting": ("HeadHunt", "head_hunter"),
    "importance": ("head_importance", "leave_one_out", "only_head", "prune_greedily"),
    "injection": ("InjectionDetector",),
    "known": ("choice_logprobs", "known_scores"),
    "lookback": ("LookbackLens", "lookback_ratios"),
    "massive": ("massive_activations",),
    "mixing": ("perturbation_spread",),
    "profiling": ("profile_heads",),
    "receiver": ("receiver_scores", "sentence_attention"),
    "registers": ("patch_norms", "register_neurons"),
    "scores": ("HeadScores",),
    "tuning": ("tune",),
    "visual_sinks": ("VisualSinks", "find_visual_sinks"),
    "where_to_look": ("ViCrop", "grad_att", "pure_grad", "rel_att"),
    "zerotuning": ("fit_zerotuning",),
}
_HOME = {name: module for module, names in _OFFERS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
