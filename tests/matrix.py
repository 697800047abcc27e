"""Stable methods two at a time on every family, beside their definitions in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

import foveate as fv
from by_definition import Book, by_definition
from families import BY_NAME, FAMILIES, build, inputs, logits
from foveate.methods.stable import STABLE, Target

TOLERANCE = 1e-4
PLACES = [(family.name, stack) for family in FAMILIES for stack in family.maps]
NAMES = list(STABLE)
PAIRS = [(a, b) for a in NAMES for b in NAMES]


@dataclass(frozen=True)
class Outcome:
    """``equal``, ``refused`` (together), ``alone`` (one of them, by itself) or ``wrong``."""

    state: str
    why: str = ""
    idle: tuple[str, ...] = ()  # which of them changed nothing here, by definition


class Place:
    """One stack of one family, with what is given to it."""

    def __init__(self, name: str, stack: str, padded: str | None = None) -> None:
        self.name, self.stack, self.padded = name, stack, padded
        self.family = BY_NAME[name]
        self.model = models(name)
        self.length = 10 if self.family.inputs == "audio" else 14
        self.prompt = self.length - 3  # what follows is generated, where it is
        given = inputs(name, length=self.length, padded=padded)
        if "decoder_input_ids" in given:
            g = torch.Generator().manual_seed(2)
            given["decoder_input_ids"] = torch.randint(3, 64, (2, self.length), generator=g)
        mask = given.get("attention_mask")
        if mask is not None and self.family.inputs == "ids":  # positions from the first real token
            given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        self.given = given
        plain = Target.of(self.model, given, "near", "other", stack)
        own = mask is not None and stack not in ("decoder", "vision")
        own = own or (mask is not None and self.family.inputs == "ids")
        keys, queries = plain.k[2], plain.q[2]
        every = torch.ones(2, keys, dtype=torch.bool)
        self.real = mask.bool() if own and mask is not None else every
        asks = stack == "cross"
        self.rows = torch.ones(2, queries, dtype=torch.bool) if asks else self.real
        at = {14: 9, 10: 5, 5: 2}[keys]  # seen by the last row, and by those decoded
        near, other = [at, at + 1], ([1, 2] if keys == 5 else [at - 3, at - 2, at])
        if stack == "cross":  # where the last row of a batch padded on the right is no padding
            other[-1] = at + 1
        self.masks = {
            "near": spot(keys, near),
            "other": spot(keys, other),
            "first": torch.nn.functional.one_hot(self.real.int().argmax(1), keys).bool(),
        }
        self.target = plain

    def __repr__(self) -> str:
        alone = len(self.family.maps) == 1
        return self.name if alone else f"{self.name}.{self.stack}"

    def made(self, *names: str) -> list[list[Any]]:
        """The methods of these names; a second one of a name differs from the first."""
        return [
            list(STABLE[name].make(self.target, name in names[:i])) for i, name in enumerate(names)
        ]

    @cached_property
    def told(self) -> Tensor:
        """The rows of the output that are of real tokens, bool ``[B, S]``; all where none is."""
        mask = self.given.get("attention_mask")
        if mask is None or self.family.inputs == "both" or self.stack == "vision":
            return torch.ones(2, 1, dtype=torch.bool)
        return mask.bool()

    def out(self, output: Any) -> Tensor:
        """The main output; of two towers that of this one, before it is pooled."""
        if self.family.inputs == "text and image":
            return output[f"{self.stack}_model_output"].last_hidden_state
        return logits(output)

    def compared(self, output: Tensor) -> Tensor:
        """What of an output is compared."""
        if output.shape[:2] == self.told.shape:
            return output[self.told]
        return output.flatten(0, 1)

    @torch.no_grad()
    def ours(self, methods: Sequence[Any], cut: bool = False) -> tuple[Tensor, dict[Any, Tensor]]:
        """The model attached: its output, and what was read.

        ``cut``: the prompt ends before the text does; what follows was generated.
        """
        regions = self.prompts if cut else self.masks
        with fv.attach(self.model, *methods, regions=regions) as run:
            out = self.out(self.model(**self.given))
        return self.compared(out), self._read(methods, run)

    @torch.no_grad()
    def stepped(self, methods: Sequence[Any]) -> tuple[Tensor, dict[Any, Tensor]]:
        """The same, the prompt in one forward and each further token from the cache."""
        given = dict(self.given)
        timed = [n for n in ("input_ids", "position_ids") if self.family.inputs == "ids"]
        timed = [n for n in timed or ["decoder_input_ids"] if n in given]
        whole = {n: given.pop(n) for n in timed}
        mask = given.pop("attention_mask", None) if self.family.inputs == "ids" else None
        parts, past = [], None
        with fv.attach(self.model, *methods, regions=self.prompts) as run:
            steps = [(n, n + 1) for n in range(self.prompt, self.length)]
            for start, stop in ((0, self.prompt), *steps):
                now = {n: t[:, start:stop] for n, t in whole.items()}
                seen = {} if mask is None else {"attention_mask": mask[:, :stop]}
                out = self.model(**given, **now, **seen, past_key_values=past, use_cache=True)
                past = out.past_key_values
                if self.family.inputs != "ids" and "encoder_outputs" not in given:
                    given.pop("input_ids", None), given.pop("input_features", None)
                    given["encoder_outputs"] = (out.encoder_last_hidden_state,)
                parts.append(out.logits)
        return self.compared(torch.cat(parts, 1)), self._read(methods, run)

    @cached_property
    def prompts(self) -> dict[str, Tensor]:
        """The regions, ending where the prompt does."""
        if self.stack != "decoder":
            return self.masks
        return {name: mask[:, : self.prompt] for name, mask in self.masks.items()}

    def _read(self, methods: Sequence[Any], run: Any) -> dict[Any, Tensor]:
        """What was read, by method, key and layer."""
        read = {}
        for method in methods:
            for one in getattr(method, "reads", ()):
                phases = [run.results[one.key].prefill]
                if any(call.phase == "decode" for call in run.calls):
                    phases.append(run.results[one.key].decode)
                phases = [t if isinstance(t, Tensor) else t[self.stack] for t in phases]
                found = torch.cat(phases, -1)
                read |= {(id(method), one.key, n): layer for n, layer in enumerate(found)}
            if isinstance(method, fv.Capture):
                for (_, n), kept in method.tensors.items():
                    read[id(method), "captured", n] = torch.cat(kept, 2)
        return read

    @torch.no_grad()
    def book(
        self, methods: Sequence[Any], prompt: int = 10**9, born: int = 10**9
    ) -> tuple[Tensor, dict]:
        """The same by definition: queries from ``prompt`` on decoded, keys from ``born`` on new."""
        eager = models(self.name, "eager")
        made = Book(methods, self.stack, self.masks, self.real, self.rows, prompt, born)
        with by_definition(eager, made):
            out = self.out(eager(**self.given))
        return self.compared(out), made.read

    @torch.no_grad()
    def row(self, methods: Sequence[Any], n: int) -> Tensor:
        """One row of the batch by itself, without its padding: what is compared of it."""
        given = {name: t[n : n + 1] for name, t in self.given.items() if name != "attention_mask"}
        mask = self.given.get("attention_mask")
        masks = {name: t[n : n + 1] for name, t in self.masks.items()}
        if mask is not None:
            real = mask[n].bool()
            for name in {"input_ids", "position_ids"} & set(given):
                given[name] = given[name][:, real]
            masks = {name: t[:, self.real[n]] for name, t in masks.items()}
        with fv.attach(self.model, *methods, regions=masks):
            return self.out(self.model(**given))[0]

    def row_of(self, output: Tensor, n: int) -> Tensor:
        """That row in what :meth:`ours` gave."""
        if self.told.shape[1] == 1:
            return output.unflatten(0, (2, -1))[n]
        first = int(self.told[0].sum())
        return output[:first] if n == 0 else output[first:]

    def apart(self, got: tuple[Tensor, dict], want: tuple[Tensor, dict]) -> str:
        """Where two runs differ, in words; nothing where they do not."""
        far = away(got[0], want[0])
        if not far < TOLERANCE:
            return f"outputs are {far:.2g} apart"
        if set(got[1]) != set(want[1]):
            return f"{len(got[1])} things were read, {len(want[1])} by definition"
        for key, ours in got[1].items():
            far = away(*(self._real(key, t) for t in (ours, want[1][key])))
            if not far < TOLERANCE:
                return f"{key[1]} of layer {key[2]} is {far:.2g} apart"
        return ""

    def _real(self, key: Any, t: Tensor) -> Tensor:
        """What was read, of real rows alone."""
        rows = self.rows[:, None, : t.shape[2]]
        return t * (rows[..., None] if t.dim() == 4 else rows)

    def alone(self, name: str, again: bool) -> Tensor:
        """What one method makes of the output by definition."""
        if (name, again) not in self._alone:
            methods = STABLE[name].make(self.target, again)
            self._alone[name, again] = self.book(methods)[0]
        return self._alone[name, again]

    @cached_property
    def _alone(self) -> dict[tuple[str, bool], Tensor]:
        return {}

    @cached_property
    def wanted(self) -> dict[tuple[str, str], Tensor]:
        """The outputs of pairs asked for so far, by definition."""
        return {}

    def refusal(self, name: str, again: bool = False) -> str:
        """The sentence with which a method is refused here by itself, if it is."""
        if (name, again) not in self._refusals:
            try:
                self.ours(STABLE[name].make(self.target, again))
                why = ""
            except fv.FoveateError as error:
                why = str(error)
            self._refusals[name, again] = why
        return self._refusals[name, again]

    @cached_property
    def _refusals(self) -> dict[tuple[str, bool], str]:
        return {}

    def pair(self, a: str, b: str, idle: bool = True) -> Outcome:
        """Two methods, in this order; with ``idle``, also whether both of them count."""
        if (a, b) not in self._pairs:
            self._pairs[a, b] = self._pair(a, b, idle)
        return self._pairs[a, b]

    @cached_property
    def _pairs(self) -> dict[tuple[str, str], Outcome]:
        return {}

    def _pair(self, a: str, b: str, idle: bool) -> Outcome:
        try:
            first, second = self.made(a, b)
            methods = [*first, *second]
            got = self.ours(methods)
        except fv.FoveateError as error:
            for name, again in ((a, False), (b, a == b)):
                if why := self.refusal(name, again):
                    return Outcome("alone", f"{name}: {why}")
            return Outcome("refused", str(error))
        except Exception as error:  # no sentence: a bug
            return Outcome("wrong", f"{type(error).__name__}: {error}")
        want = self.book(methods)
        self.wanted[a, b] = want[0]
        count = [(a, b, a == b), (b, a, False)] if idle else []  # each, and what is left without
        idler = [
            name
            for name, other, again in count
            if not STABLE[name].looks and away(self.alone(other, again), want[0]) < 1e-3
        ]
        why = self.apart(got, want)
        return Outcome("wrong" if why else "equal", why, tuple(idler))


def place(name: str, stack: str, padded: str | None = None) -> Place:
    """A place, made once."""
    return _place(name, stack, padded)


@cache
def _place(name: str, stack: str, padded: str | None) -> Place:
    return Place(name, stack, padded)


def spot(keys: int, at: Sequence[int]) -> Tensor:
    """A region of both rows."""
    mask = torch.zeros(2, keys, dtype=torch.bool)
    mask[:, list(at)] = True
    return mask


def away(got: Tensor, want: Tensor) -> float:
    """Largest difference, beside the largest number."""
    if got.shape != want.shape:
        return float("inf")
    far = (got.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-9)
    return float("inf") if far.isnan() else float(far)


@cache
def models(name: str, implementation: str | None = None) -> Any:
    return build(name, implementation)
