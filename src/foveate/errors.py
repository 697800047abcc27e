"""The one error type a user of foveate has to know."""

from __future__ import annotations

__all__ = ["FoveateError"]


class FoveateError(ValueError):
    """Bad input, refused at the door.

    The message says what was given, what was wanted and how to mend it. It is a
    ``ValueError``, so code that knows nothing of foveate catches it as one.
    """
