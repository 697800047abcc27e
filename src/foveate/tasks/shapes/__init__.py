"""A small world of coloured shapes in which every answer is known exactly.

Scenes are drawn, captioned and asked about; a checker reads pictures back. It is what vision,
vision–language and text-to-image models can be trained on in minutes and judged on without a
judge.
"""

from . import asking, drawing
from .captions import caption, mentions
from .checker import Found, check
from .layouts import Layout, Region, layout
from .making import scenes
from .pairs import CHANGES, Pair, pairs
from .questions import ASKED, NEGATIVES, Question, absent, questions
from .render import render
from .scene import COLOURS, KINDS, POPULAR, SHAPES, TEXTURES, Scene, Thing, partner
from .scores import (
    Binding,
    Existence,
    Hallucination,
    Rate,
    answered,
    background,
    binding,
    existence,
    hallucination,
    layout_iou,
    rate,
)

__all__ = [
    # the world
    "COLOURS",
    "KINDS",
    "POPULAR",
    "SHAPES",
    "TEXTURES",
    "Scene",
    "Thing",
    "partner",
    "scenes",
    # what is made of a scene
    "render",
    "caption",
    "ASKED",
    "NEGATIVES",
    "Question",
    "absent",
    "questions",
    "Layout",
    "Region",
    "layout",
    "CHANGES",
    "Pair",
    "pairs",
    # reading pictures and sentences back
    "Found",
    "check",
    "mentions",
    # scores
    "Rate",
    "rate",
    "answered",
    "Existence",
    "existence",
    "Hallucination",
    "hallucination",
    "Binding",
    "binding",
    "layout_iou",
    "background",
    # models asked, under any methods
    "asking",
    "drawing",
]
