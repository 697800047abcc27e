"""Papers as rewrites of one attention call's program, one file per idea.

A method is an object with

``scope``
    Where and when it acts: layers, heads, phase, stack, steps.
``rewrite(program, site, call) -> Program``
    The edited program of one attention call; the program itself where there is nothing to do.

and, where it needs them,

``regions``, ``reads``
    Names of the regions it speaks of, and the measures it takes: known before anything runs.
``check(site)``
    Raises where it does not fit a site.
``alike(site)``
    Sites that compare equal get the same rewrite and share one plan in a forward.
``looks = True``
    Its rewrite sees the call's tensors: ``call.read(program, fv.received())`` measures the program
    so far, one pass beside it.
``inputs(q, k, v, site, call) -> (q, k, v)``
    Looks at the tensors of a call, or edits them: ``[B,Hq,Sq,D]``, ``[B,Hkv,Sk,D]``,
    ``[B,Hkv,Sk,Dv]``, behind the rotary embedding and the cache.
``emptied(site, call) -> rows``
    The queries, bool ``[B|1, Hq, Sq]``, whose own scores count for nothing: they are 0 when the
    call runs, and for methods listed later that look; None for no such queries.
``settled(program, site, call)``
    Raises where what all methods made of the program leaves it no meaning.
``outputs(out, site, call) -> out``
    Looks at the head outputs ``[B,Hq,Sq,Dv]`` before the output projection, or edits them.
``hooks(model, sites)``
    Yields ``(module, "pre" | "post", function)``: forward hooks that live as long as the
    attachment, ``pre(module, args, kwargs)`` and ``post(module, args, kwargs, output)``.
``instead(model)``
    Yields ``(object, "name", function)``: while attached, ``object.name(…)`` is
    ``function(own, …)``; for what is no module, such as a pipeline's scheduler.

:class:`foveate.methods._method.Method` holds what they share.
"""

from .act import ACT
from .attend_to import AttendTo
from .autopasta import AutoPASTA
from .diffusion import PAG, AttendAndExcite, DenseDiffusion
from .emphasis import Emphasize
from .focus_directions import FocusDirections
from .heads import Ablate, Capture, Shift
from .hide import Hide
from .measure import Measure
from .pasta import PASTA
from .residual import KeepResidual, SetActivations
from .select import Select
from .sparse import DeltaCorrection, HyperAttention, RectifiedSpaAttn
from .stable import STABLE
from .tuned import Tuned
from .vision import VAR, VHR
from .vision.registers import TestTimeRegisters
from .zerotuning import ZeroTuning

__all__ = [
    "ACT",
    "Ablate",
    "AttendAndExcite",
    "AttendTo",
    "AutoPASTA",
    "Capture",
    "DeltaCorrection",
    "DenseDiffusion",
    "Emphasize",
    "FocusDirections",
    "Hide",
    "HyperAttention",
    "KeepResidual",
    "Measure",
    "PAG",
    "PASTA",
    "RectifiedSpaAttn",
    "STABLE",
    "Select",
    "SetActivations",
    "Shift",
    "TestTimeRegisters",
    "Tuned",
    "VAR",
    "VHR",
    "ZeroTuning",
]
