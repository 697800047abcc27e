"""Pictures on their way into a model: read, prepared by its processor, found among its tokens."""

from .picture import Picture

__all__ = ["Picture"]
