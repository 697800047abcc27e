"""Tiny random models of the families of transformers: their configurations, shrunk by rules."""
