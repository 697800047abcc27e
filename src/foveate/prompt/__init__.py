"""Tokens and regions: a prompt knows which of its tokens came from which piece of its text.

A *region* is a named set of token positions, a bool tensor ``[B, S]`` over the padded batch. Roles
and special tokens are regions unasked; :meth:`Prompt.mark` adds the user's own.

**When is a token inside?** Tokens do not end where words do: in GPT-2-style vocabularies they
carry the space before the word, in others a piece of punctuation. A token is inside a span of
characters if at least one of its characters *that is not white space* lies in the span; a token
that is nothing but white space (a line break) is inside if any of it does. So marking ``"Tarn
Point"`` takes ``" Tarn"``, and does not take ``" lighthouse"`` because of the blank in between.
"""

from .longer import continued
from .prompt import Prompt
from .rows import BUILT_IN

__all__ = ["BUILT_IN", "Prompt", "continued"]
