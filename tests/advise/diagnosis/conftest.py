"""Tiny models gain nothing from threads."""

from __future__ import annotations

from tests.policy.conftest import chats, one_thread

__all__ = ["chats", "one_thread"]
