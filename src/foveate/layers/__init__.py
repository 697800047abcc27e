"""Trainable attention operators: ``y = layer(x)``, ``[B, S, dim] -> [B, S, dim]``."""

from .attention_bias import AttentionBias, attention_with_bias
from .cross_shaped import CrossShapedWindowAttention
from .flash_window import flash_window_attention
from .halo import HaloAttention
from .multi_window import MultiWindowAttention
from .window import WindowAttention

__all__ = [
    "AttentionBias",
    "CrossShapedWindowAttention",
    "HaloAttention",
    "MultiWindowAttention",
    "WindowAttention",
    "attention_with_bias",
    "flash_window_attention",
]
