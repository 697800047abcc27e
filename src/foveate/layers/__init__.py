"""Trainable attention operators: ``y = layer(x)``, ``[B, S, dim] -> [B, S, dim]``."""

from .attention_bias import AttentionBias, attention_with_bias
from .multi_window import MultiWindowAttention

__all__ = ["AttentionBias", "MultiWindowAttention", "attention_with_bias"]
