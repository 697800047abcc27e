"""Small worlds with exact answers: seeded, sized by arguments, scored exactly."""

from . import shapes
from ._task import Item, Task, answer, prompts, score_answers
from .classification import Classification
from .coloured_objects import ColouredObjects
from .counterfactual import Counterfactual
from .derivations import Derivation, derivations
from .distractors import Distractors
from .format import Format
from .injection import Injection
from .ioi import IOI
from .needle import Needle
from .questions import Questions
from .recall import MQAR, CopyTokens, GroupRecall, MatchingShapes
from .training import Fit, accuracy, fit
from .unanswerable import Unanswerable

__all__ = [
    # the worlds
    "Needle",
    "Distractors",
    "Unanswerable",
    "Counterfactual",
    "Injection",
    "Format",
    "Classification",
    "IOI",
    "ColouredObjects",
    "Derivation",
    "derivations",
    # coloured shapes: pictures, captions, questions, a checker
    "shapes",
    # your own
    "Questions",
    # worlds to train small models on
    "MQAR",
    "CopyTokens",
    "GroupRecall",
    "MatchingShapes",
    "fit",
    "Fit",
    "accuracy",
    # the protocol
    "Item",
    "Task",
    "prompts",
    "answer",
    "score_answers",
]
