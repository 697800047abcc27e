"""A small world of coloured shapes in which every answer is known exactly.

Scenes are drawn, captioned and asked about; a checker reads pictures back. It is what vision,
vision–language and text-to-image models can be trained on in minutes and judged on without a
judge.
"""

from .captions import caption, mentions
from .checker import Found, check
from .making import scenes
from .render import render
from .scene import COLOURS, KINDS, POPULAR, SHAPES, TEXTURES, Scene, Thing, partner

__all__ = [
    "COLOURS",
    "KINDS",
    "POPULAR",
    "SHAPES",
    "TEXTURES",
    "Found",
    "Scene",
    "Thing",
    "caption",
    "check",
    "mentions",
    "partner",
    "render",
    "scenes",
]
