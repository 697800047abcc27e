"""``attribute``: which tokens of the input a model's output goes back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._implements import implements
from ...adapters.sites import Site, sites
from ...attach import attach
from ...errors import FoveateError
from ...methods.vision.tower import Tower
from ._flow import FLOWS, Streams, flow, through
from ._result import Attribution
from ._tape import Tape, frozen
from ._target import Question
from .gradients import GRADIENTS, gradients

__all__ = ["METHODS", "attribute", "attributions"]

METHODS = (*FLOWS, *GRADIENTS)


@implements("generic-attention-explainability", basis="paper")
def attribute(
    model: nn.Module,
    prompt: Any,
    method: str = "relevance",
    target: Any = None,
    position: int | str | None = None,
    *,
    layers: Any = None,
    heads: Any = None,
    stack: str | None = None,
    methods: Sequence[Any] = (),
    regions: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> Attribution:
    """Say how much each token of the input counts for one logit.

    No attention matrix is made: all methods are linear in memory.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Decoders, encoders (text, vision) and encoder–decoder models.
    prompt : Prompt or mapping
        Of one item; or the model's inputs themselves, such as ``{"pixel_values": image}``.
    method : str
        ======================== ===================================================================
        ``relevance``            attention times its gradient, through all layers (Chefer et al.)
        ``rollout``              attention through all layers (Abnar and Zuidema)
        ``attention``            of the last layer, mean over heads
        ``value-norm``           of the last layer, times the length of what each key would move,
                                 ``P_ij ‖v_j W_O‖`` (Kobayashi et al.)
        ``gradient-input``       gradient times input embedding, summed over dimensions
        ``integrated-gradients`` along the straight line from a baseline embedding
        ``gradient-shap``        the same at random points of lines from noisy baselines
        ``lime``                 a ridge regression on which tokens are there
        ======================== ===================================================================

        The last four run in captum (the extra ``attribution``; ``lime`` also wants ``probes``) on
        the output of the model's embedding module.
    target : int, str or callable, optional
        A token id or class; a text, of which the first token is meant; or a function of the model's
        output that returns one number for each item. Default: what the model prefers.
    position : int or "mean", optional
        The query whose output is explained, counted among the tokens that are not padding. Default:
        the last in decoders, the first ([CLS]) in encoders. ``"mean"`` starts from all alike, for
        models that pool (the target is then a class or a function).
    layers, heads, stack
        What counts: default all layers (``attention``, ``value-norm``: the last), all heads, and
        the decoder or the only stack; where tokens look across to others (encoder–decoder models,
        DETR, Q-Formers) both streams and the looks together. ``"vision"`` below a decoder carries
        relevance on from its image tokens through the tower, ``[pictures · tokens]``; other methods
        look at the tower alone there, from its first token.
    methods : sequence, optional
        Attached while the model runs: explains the steered model.
    regions : mapping, optional
        Regions those methods speak of, beside the prompt's.
    options : mapping, optional
        For captum: ``baseline`` (``"pad"``, ``"zero"``, a token or a tensor ``[S, dim]``; default
        the padding token's embedding, as in Neely et al.), ``steps`` (of integrated gradients),
        ``samples``, ``batch`` (rows in one forward), ``seed``. ``details["convergence error"]``
        says by how much integrated gradients miss what they should add up to; from a baseline of
        zero it is large where the embeddings are normalised first.
    **inputs
        Further inputs of the model, such as ``decoder_input_ids``.

    Returns
    -------
    Attribution
        ``scores [S]`` and ``tokens``, ``.top(k)``, ``.share(region)``, ``.to_pandas()``.

    Raises
    ------
    FoveateError
        An unknown method, a batch, a target or position that is not there, a model in training
        mode, no captum.

    Notes
    -----
    *Relevance* is the generic method of Chefer, Gur and Wolf (ICCV 2021) with ``Ā = mean_h (∇A ⊙
    A)^+``, checked against their code. For self-attention it is row ``position`` of ``R − I``, the
    paper's ``R`` without the query's own identity (which their code, too, sets aside). Rules 6, 7
    and 10 make the encoder–decoder case, in the order the layers run (a Q-Former by itself has no
    encoder: its ``R_ii`` is the identity); the co-attention of two encoders (rule 11) is not here.
    Image tokens of a decoder are tokens like others. On through the tower, ``r_image R`` with the
    tower's ``R``, identity and all, is this library's own step: the paper has no such model.

    *Rollout* takes ``(P + I)`` with its rows normalised. A learned sink's share of a row is lost to
    it; the share that a method hides or moves is as the method has it.

    What the scores show is where the model's output goes back to *under the assumptions of the
    method*; :func:`foveate.find.attribution.faithfulness` tests whether it does.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, "The cat is black. The dog is white. The dog is")
    >>> prompt.mark("dog", "The dog is white.")
    >>> found = fv.attribute(model, prompt, "relevance")  # of " the", the likeliest
    >>> found.top(5), found.share(prompt.regions["dog"])
    """
    found = attributions(
        model, prompt, method, target, position, layers=layers, heads=heads, stack=stack,
        methods=methods, regions=regions, options=options, **inputs,
    )  # fmt: skip
    if len(found) != 1:
        raise FoveateError(
            f"attribute explains one item and was given {len(found)}: call attributions(…), which "
            "returns one Attribution for each."
        )
    return found[0]


def attributions(
    model: nn.Module,
    prompt: Any,
    method: str = "relevance",
    target: Any = None,
    position: int | str | None = None,
    *,
    layers: Any = None,
    heads: Any = None,
    stack: str | None = None,
    methods: Sequence[Any] = (),
    regions: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> list[Attribution]:
    """:func:`attribute` for a batch: one result for each item; ``target`` may be a list."""
    if method not in METHODS:
        raise FoveateError(f"method={method!r} was given; there are {', '.join(METHODS)}.")
    if not isinstance(model, nn.Module):
        raise FoveateError(
            f"A model was wanted; {type(model).__name__} was given: model, tok = fv.load(…)."
        )
    found = sites(model)
    kinds = {site.kind for site in found}
    tower = [site for site in found if site.stack == stack and site.kind == "vision"]
    # a tower below a decoder: relevance reaches it from the decoder's output, through its tokens
    below = tower if "decoder" in kinds and method == "relevance" else []
    blind = bool(tower) and "decoder" in kinds and not below  # nothing of the output is in it
    if position is None:
        position = _usual_position(found, None if below else stack)
    question = Question.of(model, prompt, target, position, inputs)
    if method in GRADIENTS:
        given = {"layers": layers, "heads": heads, "stack": stack}
        if named := [name for name, value in given.items() if value is not None]:
            raise FoveateError(
                f"{method} looks at no layer by itself: leave {', '.join(named)} away."
            )
        if not methods:
            return gradients(question, method, dict(options or {}))
        if question.batch > 1:  # items run one by one, and the regions' rows would not fit
            raise FoveateError(f"{method} with methods= takes one item at a time.")
        with attach(model, *methods, prompt=_known(prompt), regions=regions):
            return gradients(question, method, dict(options or {}))
    if options:
        raise FoveateError(f"options= are captum's; {method} takes none.")
    pairs = isinstance(heads, Sequence) and any(not isinstance(head, int) for head in heads)
    placed = pairs or isinstance(heads, Mapping)  # the heads say which layers are meant
    if method in ("attention", "value-norm") and layers is None and not placed:
        layers = -1
    scope = {"layers": layers, "heads": heads, "stack": stack}
    if question.crossed or (stack is None and "cross" in kinds and "decoder" not in kinds):
        if stack is not None:
            raise FoveateError(
                f"stack={stack!r} was given; in an encoder–decoder model what is explained goes "
                "through encoder, decoder and cross-attention together: leave it away."
            )
        scope["stack"] = "all"
    elif below:
        scope["stack"] = "all"
    told: tuple[Tensor | None, Tensor | None]
    tape = Tape(grad=method == "relevance", projections=method == "value-norm", **scope)
    around = attach(model, *tape.around(methods), prompt=_known(prompt), regions=regions)
    if tape.grad:
        with frozen(model), around, torch.enable_grad():
            value, ids = question.value(question.ask())
            tape.differentiate(value)
            told = value, ids
    else:
        with around, torch.no_grad():
            output = question.ask()
            asked = getattr(output, "logits", None) is not None or callable(question.target)
            asked = asked and position != "mean" and not blind
            told = question.value(output) if asked else (None, None)
    scores, own = _flow(method, tape, question, below, prompt)
    return _results(question, method, scores, own, *told)


# -- the flows -------------------------------------------------------------------------------------
def _flow(
    method: str, tape: Tape, question: Question, below: Sequence[Site], prompt: Any
) -> tuple[Tensor, Tensor | None]:
    """Scores ``[B, S]``, and those of the looking tokens where some look across to others."""
    calls = tape.calls
    if below:
        calls = tape.of("decoder")
    if not calls:
        raise FoveateError(f"{method} saw no attention: give layers= or stack= that the model has.")
    streams = Streams.of(calls)
    if len(names := dict.fromkeys(seen.site.stack for seen in streams.own)) > 1:
        raise FoveateError(f"stack={tuple(names)} are several; what flows is followed in one.")
    top = streams.own[-1]
    start = question.start(top.q.shape[2], len(top.q), top.q.new_zeros((), dtype=torch.float32))
    if top.q.dtype == torch.float64:
        start = start.double()
    scores, own = flow(method, streams, start.to(top.q.device))
    if below:
        lower = [s for s in tape.calls if s.site.kind != "decoder"]
        if not any(s.site.kind == "cross" for s in lower):
            lower = [s for s in lower if s.site.stack == below[0].stack]
        lead = Tower.of(question.model, below, "attribute").lead()
        scores = through(scores, _image(question, prompt).to(scores.device), lower, lead)
    return scores, own


def _image(question: Question, prompt: Any) -> Tensor:
    """The image tokens of the decoder, bool ``[B, S]``."""
    known: Mapping[str, Tensor] = getattr(prompt, "regions", {})
    if "image" in known:
        return known["image"]
    config = getattr(question.model, "config", None)
    ids = question.inputs.get("input_ids")
    for name in ("image_token_id", "image_token_index"):
        token = getattr(config, name, None)
        if isinstance(token, int) and isinstance(ids, Tensor):
            return ids == token
    raise FoveateError(
        f"Which tokens of {type(question.model).__name__} are a picture's is not known: give an "
        "fv.Prompt with the picture in it, or input_ids with image tokens."
    )


# -- around them -----------------------------------------------------------------------------------
def _usual_position(found: Sequence[Site], stack: str | None) -> int:
    """The last query of a decoder, the first of an encoder."""
    kinds = {site.kind for site in found if stack in (None, site.stack)}
    return -1 if "decoder" in kinds or not kinds else 0


def _known(prompt: Any) -> Any:
    return prompt if hasattr(prompt, "regions") else None


def _results(
    question: Question,
    method: str,
    scores: Tensor,
    own: Tensor | None,
    value: Tensor | None,
    ids: Tensor | None,
    details: Sequence[Mapping[str, Any]] | None = None,
) -> list[Attribution]:
    queries = scores.shape[1] if own is None else own.shape[1]
    ids_given = question.inputs.get("decoder_input_ids" if question.crossed else "input_ids")
    if own is None and isinstance(ids_given, Tensor):
        queries = ids_given.shape[1]
    where = question.where(queries, len(scores))
    found = []
    for b, row in enumerate(scores):
        target = None if ids is None else int(ids[b])
        same: dict[str, Any] = {
            "method": method,
            "target": target,
            "target_text": question.named(target),
            "position": None if where is None else int(where[b]),
            "value": None if value is None else float(value[b].detach()),
            "details": {} if details is None else details[b],
        }
        decoder = None
        if own is not None:
            tokens = _names(
                None, len(own[b]), question.inputs.get("decoder_input_ids"), b, question
            )
            real = None if question.decoder_real is None else question.decoder_real[b].cpu()
            decoder = Attribution(own[b], tokens, real=real, **same)
        real = None if question.real is None else question.real[b].cpu()
        if real is not None and len(real) != len(row):
            real = None
        tokens = _names(question.tokens, len(row), question.inputs.get("input_ids"), b, question)
        found.append(Attribution(row, tokens, real=real, decoder=decoder, **same))
    return found


def _names(
    rows: list[list[str]] | None, length: int, ids: Any, item: int, question: Question
) -> list[str]:
    """A name for every position: tokens where they are known, else numbers."""
    if rows is not None and len(rows[item]) == length:
        return rows[item]
    if isinstance(ids, Tensor) and ids.shape[-1] == length:
        if question.tokenizer is not None:
            return [str(t) for t in question.tokenizer.convert_ids_to_tokens(ids[item].tolist())]
        return [f"{i} " for i in ids[item].tolist()]
    return [f"{i} " for i in range(length)]
