"""Padding and caches: a batch equals its items, steps equal one long pass, methods attached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..attach import attach
from ..engine.measures import mass
from ..errors import FoveateError
from ..methods.emphasis import Emphasize
from ..methods.measure import Measure
from .inputs import tokens
from .subject import Failed, NotApplicable, Subject, difference

__all__ = ["TESTS"]

LONG, SHORT, STEPS = 11, 7, 3


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _ids(subject: Subject) -> Tensor:
    """Two texts of one length."""
    given = subject.inputs.get("input_ids")
    if not isinstance(given, Tensor) or given.dim() != 2:
        raise NotApplicable("its input is no text")
    ids = tokens(subject.model, 2, LONG, torch.Generator().manual_seed(3)).to(given.device)
    end = getattr(getattr(subject.model, "config", None), "eos_token_id", None)
    if isinstance(end, int):  # some pool at the end-of-text token
        ids[:, -1] = end
    return ids


def _text(subject: Subject, ids: Tensor, mask: Tensor | None) -> dict[str, Any]:
    found: dict[str, Any] = {"input_ids": ids}
    if mask is not None:
        found["attention_mask"] = mask
    decoder = subject.inputs.get("decoder_input_ids")
    if isinstance(decoder, Tensor):
        found["decoder_input_ids"] = decoder[:1].repeat_interleave(ids.shape[0], 0)
    return found


def _main(output: list[tuple[str, Tensor]]) -> Tensor:
    for wanted in ("logits", "last_hidden_state"):
        for name, value in output:
            if name == wanted and value.is_floating_point():
                return value
    return next(value for _, value in output if value.is_floating_point())


class _Texts:
    """A long text and a short one: side by side, and the short one alone."""

    def __init__(self, subject: Subject, side: str) -> None:
        ids = _ids(subject)
        start = 0 if side == "right" else LONG - SHORT
        self.real = slice(start, start + SHORT)
        mask = torch.ones_like(ids)
        mask[0] = 0
        mask[0, self.real] = 1
        pad = getattr(getattr(subject.model, "config", None), "pad_token_id", None)
        both = ids.masked_fill(mask == 0, pad if isinstance(pad, int) and pad >= 0 else 0)
        short = ids[:1, self.real]
        region = torch.zeros(LONG, dtype=torch.bool, device=ids.device)
        region[start + 1 : start + 4] = True
        self.both, self.alone = (
            _text(subject, both, mask),
            _text(subject, short, mask[:1, self.real]),
        )
        self.regions = region.expand(2, -1).contiguous(), region[None, self.real]
        if side == "left" and "position_ids" in subject.parameters and mask.dim() == 2:
            self.both["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)

    def rows(self, value: Tensor) -> Tensor:
        """What belongs to the short text in the batch's main output."""
        if value.dim() > 1 and value.shape[1] == LONG:
            return value[:1, self.real]
        return value[:1]


def _padding(subject: Subject, side: str) -> float:
    if "attention_mask" not in subject.parameters:
        raise NotApplicable("its forward takes no attention mask")
    texts = _Texts(subject, side)
    try:
        alone = _main(subject.run(texts.alone))
        try:
            together = _main(subject.run(texts.both))
        except Exception:
            if "position_ids" not in texts.both:
                raise
            del texts.both["position_ids"]
            together = _main(subject.run(texts.both))
    except FoveateError:
        raise
    except Exception as error:
        raise NotApplicable(
            f"the model alone does not run on text ({_first_line(error)})"
        ) from error
    own = difference(texts.rows(together), alone)
    tolerance = max(subject.tolerance, subject.floor)
    if not own <= 10 * tolerance:
        raise NotApplicable(f"the model alone answers otherwise when padded there ({own:.1g})")
    worst = 0.0
    stacks = _of_text(subject, texts)
    for stack in stacks:
        found = []
        for inputs, region in zip((texts.both, texts.alone), texts.regions, strict=True):
            methods = Emphasize("check", 5.0, stack=stack), Measure(mass("check"), stack=stack)
            with attach(subject.model, *methods, regions={"check": region}) as run:
                answer = _main(subject.run(inputs))
            found.append((answer, run.results["mass:check"].stack(stack).prefill))
        (both, masses), (single, mass_alone) = found
        worst = max(worst, difference(texts.rows(both), single))
        part = masses[:, :1]
        if part.shape[3] == LONG:
            part = part[..., texts.real]
        worst = max(worst, difference(part, mass_alone))
    if not worst <= 20 * tolerance:
        raise Failed(f"the batch differs from the single text by {worst:.1g}", worst)
    return worst


def _of_text(subject: Subject, texts: _Texts) -> list[str]:
    """The stacks whose keys are the text's tokens."""
    crossed = "decoder_input_ids" in texts.both
    found = []
    for stack, sites in subject.stacks.items():
        if crossed and sites[0].kind == "decoder":
            continue
        calls = subject.look(stack, inputs=texts.both)
        shapes = [seen.shape for one in calls.values() for seen in one]
        if shapes and all(s[0] == 2 and s[3] == LONG for s in shapes) and len(calls) == len(shapes):
            found.append(stack)
    if not found:
        raise NotApplicable("no stack has the text's tokens as its keys")
    return found


def padding_left(subject: Subject) -> float:
    """A text padded on the left beside a longer one is answered, and measured, as alone."""
    return _padding(subject, "left")


def padding_right(subject: Subject) -> float:
    """The same, padded on the right."""
    return _padding(subject, "right")


@torch.no_grad()
def cache(subject: Subject) -> float:
    """A prefill and decode steps under a gain equal one long prefill under it."""
    model: Any = subject.model
    config = getattr(model, "config", None)
    can = getattr(model, "can_generate", None)
    if not callable(can) or not can():
        raise NotApplicable("it does not generate")
    decoder = next((s for s, all_ in subject.stacks.items() if all_[0].kind == "decoder"), None)
    if decoder is None:
        raise NotApplicable("no decoder stack was found")
    crossed = bool(getattr(config, "is_encoder_decoder", False))
    prompt = _prompt(subject, crossed)

    def steps() -> tuple[Tensor, Tensor]:
        made = model.generate(
            **prompt, max_new_tokens=STEPS + 1, do_sample=False, num_beams=1, eos_token_id=None,
            pad_token_id=0, return_dict_in_generate=True, output_logits=True, use_cache=True,
        )  # fmt: skip
        return made.sequences, torch.stack(made.logits, 1)

    def at_once(sequences: Tensor) -> Tensor:
        text = {"decoder_input_ids" if crossed else "input_ids": sequences[:, :-1]}
        if "attention_mask" in prompt and not crossed:
            text["attention_mask"] = torch.ones_like(sequences[:, :-1])
        return _main(subject.run({**prompt, **text}))[:, -STEPS - 1 :]

    try:
        sequences, stepwise = steps()
        own = difference(stepwise, at_once(sequences))
    except Exception as error:
        raise NotApplicable(
            f"the model alone does not generate here ({_first_line(error)})"
        ) from error
    if not own <= 20 * subject.tolerance:
        raise NotApplicable(f"the model alone answers otherwise from its cache ({own:.1g})")
    begun = sequences.shape[1] - STEPS - 1
    region = torch.zeros(begun, dtype=torch.bool, device=sequences.device)
    region[0 if begun < 3 else 1 : max(1, begun // 2)] = True
    method = Emphasize("check", 5.0, stack=decoder)
    with attach(model, method, regions={"check": region}):
        sequences, stepwise = steps()
    long = torch.nn.functional.pad(region, (0, sequences.shape[1] - 1 - begun))
    with attach(model, Emphasize("check", 5.0, stack=decoder), regions={"check": long}):
        want = at_once(sequences)
    off = difference(stepwise, want)
    if not off <= max(10 * own, 20 * subject.tolerance):
        raise Failed(f"steps from a cache differ from one pass by {off:.1g}", off)
    return off


def _prompt(subject: Subject, crossed: bool) -> Mapping[str, Any]:
    """The subject's own inputs, cut down to a text where it has one."""
    if not crossed and isinstance(subject.inputs.get("input_ids"), Tensor):
        ids = _ids(subject)[:, :-1]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prompt = {k: v for k, v in subject.inputs.items() if not k.startswith("decoder_")}
    if crossed and isinstance(subject.inputs.get("decoder_input_ids"), Tensor):
        prompt["decoder_input_ids"] = subject.inputs["decoder_input_ids"]
    if not prompt:
        raise NotApplicable("there is nothing to generate from")
    return prompt


TESTS = {"padding left": padding_left, "padding right": padding_right, "cache": cache}
