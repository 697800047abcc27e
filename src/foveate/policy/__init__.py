"""Decisions as text: what is changed in a model's attention, where, and what it gained."""

from .policy import Policy

__all__ = ["Policy"]
