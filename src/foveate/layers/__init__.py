"""Trainable attention operators: ``y = layer(x)``, ``[B, S, dim] -> [B, S, dim]``."""

from .attention_bias import AttentionBias, attention_with_bias
from .biformer import BiLevelRouting
from .cross_shaped import CrossShapedWindowAttention
from .dinat import DiNAT
from .flash_window import flash_window_attention
from .halo import HaloAttention
from .moba import MoBA
from .multi_window import MultiWindowAttention
from .neighborhood import NeighborhoodAttention, neighborhood_attention
from .routing import RoutingAttention
from .tiny import TinyModel
from .window import WindowAttention

__all__ = [
    "AttentionBias",
    "BiLevelRouting",
    "CrossShapedWindowAttention",
    "DiNAT",
    "HaloAttention",
    "MoBA",
    "MultiWindowAttention",
    "NeighborhoodAttention",
    "RoutingAttention",
    "TinyModel",
    "WindowAttention",
    "attention_with_bias",
    "flash_window_attention",
    "neighborhood_attention",
]
