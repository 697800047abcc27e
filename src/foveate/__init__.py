"""foveate: measure where a model looks, steer it, and make looking cheaper."""

from pathlib import Path as _Path
from typing import Any as _Any

from . import decoding, find, layers, methods, patterns, tasks
from .advise import Advice, advise
from .advise.diagnosis import Diagnosis, diagnose
from .attach import Attachment as _Attachment
from .attach import Run, attach
from .catalog import paper, papers
from .check import check
from .engine.attention import attention, plan
from .engine.measures import block_map, distance, entropy, mass, max, received, rows, top
from .engine.partial import Partial, merge
from .engine.program import Gain, Output, Program
from .engine.shapes import Shapes
from .errors import FoveateError
from .evaluate import Table, evaluate
from .find.attribution import Attribution, agreement, attribute, attributions, faithfulness
from .find.circuits import Circuit, Pairs, activation_patching, find_circuit, path_patching
from .find.heads import find_heads
from .find.importance import head_importance, leave_one_out, only_head, prune_greedily
from .find.scores import HeadScores
from .find.tuning import tune
from .grid import Grid
from .inspection import inspect
from .load import home as _home
from .load import load
from .methods import (
    ACT,
    PAG,
    PASTA,
    VAR,
    VHR,
    Ablate,
    AttendAndExcite,
    AttendTo,
    AutoPASTA,
    Capture,
    DeltaCorrection,
    DenseDiffusion,
    Emphasize,
    FocusDirections,
    Hide,
    HyperAttention,
    Measure,
    RectifiedSpaAttn,
    Select,
    Shift,
    TestTimeRegisters,
    Tuned,
    ZeroTuning,
)
from .patterns import SlidingWindow
from .pictures import Picture
from .policy import Policy
from .prompt import Prompt
from .results import Results

__version__ = "0.1.0"

__all__ = [
    # the operator
    "attention",
    "Partial",
    "merge",
    "Program",
    "Gain",
    "Output",
    "Shapes",
    "plan",
    # measures
    "mass",
    "entropy",
    "distance",
    "received",
    "block_map",
    "rows",
    "top",
    "max",
    # models and prompts
    "load",
    "Prompt",
    "Grid",
    "Picture",
    # attach
    "attach",
    "Run",
    "Results",
    "Emphasize",
    "Measure",
    "Hide",
    "Ablate",
    "Shift",
    "TestTimeRegisters",
    "Capture",
    "AttendTo",
    "Select",
    "SlidingWindow",
    "DeltaCorrection",
    "HyperAttention",
    "RectifiedSpaAttn",
    "inspect",
    "check",
    # the text methods of the literature
    "PAG",
    "AttendAndExcite",
    "DenseDiffusion",
    "PASTA",
    "AutoPASTA",
    "ACT",
    "ZeroTuning",
    "FocusDirections",
    # methods for models that look at pictures
    "VAR",
    "VHR",
    # find, evaluate
    "find_heads",
    "HeadScores",
    "attribute",
    "attributions",
    "Attribution",
    "agreement",
    "faithfulness",
    "Pairs",
    "activation_patching",
    "path_patching",
    "find_circuit",
    "Circuit",
    "head_importance",
    "leave_one_out",
    "only_head",
    "prune_greedily",
    "evaluate",
    "Table",
    "tune",
    "Tuned",
    "Policy",
    "advise",
    "Advice",
    "diagnose",
    "Diagnosis",
    "decoding",
    "find",
    "layers",
    "methods",
    "patterns",
    "tasks",
    # the literature
    "paper",
    "papers",
    "FoveateError",
]


def _report(run: Run, path: str | _Path, **options: _Any) -> _Path:
    from .report.html import write  # jinja2 is needed for reports alone

    return write(run, path, **options)


Run.writer = staticmethod(_report)
patterns.machine.home = _home  # where what is measured once is kept
_Attachment.select = Select
