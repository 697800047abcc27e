"""The model is bitwise as it was: after everything, and after an interrupt anywhere."""

from __future__ import annotations

import copy
import json
import linecache
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import foveate as fv
from families import NAMES, build, inputs, logits
from foveate.adapters import dispatch
from foveate.adapters import transformers as switchboard

REGION = {"r": torch.arange(11) < 4}


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that attach could touch."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    found: dict[str, Any] = {
        "attention": dict(AttentionInterface._global_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "listeners": dict(dispatch._listeners),
        "switched": {key: set(entry.owners) for key, entry in dispatch._switched.items()},
        "registered": {key: set(owners) for key, owners in switchboard._registered.items()},
    }
    for name, module in model.named_modules():
        found[name] = {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in vars(module).items()
        }
        config = getattr(module, "config", None)
        if config is not None:
            found[f"{name} config"] = configuration(config)
    return found


def configuration(config: Any) -> list[Any]:
    return [
        (key, type(value), configuration(value) if hasattr(value, "to_dict") else repr(value))
        for key, value in vars(config).items()
    ]


@contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    before = [snapshot(model) for model in models]
    yield
    assert [snapshot(model) for model in models] == before


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_nothing_is_left(name: str) -> None:
    model = build(name)
    with untouched(model), fv.attach(model, fv.Measure(fv.entropy(), stack="all")):
        model(**inputs(name))


def test_nothing_is_changed_before_the_block() -> None:
    model = build("llama")
    with untouched(model):
        fv.attach(model, fv.Measure(fv.entropy()))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@torch.no_grad()
def test_after_an_error_in_the_block(error: type[BaseException]) -> None:
    model = build("bart")
    with untouched(model), pytest.raises(error), fv.attach(model):
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@torch.no_grad()
def test_after_an_error_in_the_middle_of_a_forward(error: type[BaseException]) -> None:
    model, given = build("llama"), inputs("llama")
    want = logits(model(**given))

    def fail(module: nn.Module, args: Any, output: Any) -> None:
        raise error

    with untouched(model), fv.attach(model, fv.Measure(fv.entropy())) as run:
        handle = model.model.layers[1].mlp.register_forward_hook(fail)
        with pytest.raises(error):
            model(**given)
        handle.remove()
        got = logits(model(**given))  # the attachment is alive and starts anew
    assert torch.allclose(got, want, atol=1e-5)
    assert len(run.calls) == 1
    assert run.results["entropy"].prefill.shape == (2, 2, 4, 11)
    assert torch.equal(logits(model(**given)), want)


class Interrupt:
    """Raise KeyboardInterrupt at the n-th line that foveate runs.

    Not at a ``with`` line: a tracer sees one again on leaving, between the block and the release of
    its lock, where Python lets no signal in.
    """

    def __init__(self, at: int) -> None:
        self.at, self.lines, self.raised = at, 0, False

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        if "/foveate/" not in frame.f_code.co_filename:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not line.lstrip().startswith("with "):
            self.lines += 1
            if self.lines == self.at:
                self.raised = True
                raise KeyboardInterrupt
        return self


@pytest.mark.parametrize("when", ["enter", "exit"])
@torch.no_grad()
def test_after_an_interrupt_at_any_line(when: str) -> None:
    """One KeyboardInterrupt at each line of foveate's own code, on the way in and on the way
    out."""
    model = build("clip")
    with fv.attach(model):  # imports are done
        pass
    before, at, stop = snapshot(model), 0, False
    while not stop:
        at += 1
        interrupt = Interrupt(at)
        attachment = fv.attach(model, fv.Measure(fv.entropy(), stack="all"))
        if when == "exit":
            attachment.__enter__()
        old = sys.gettrace()
        sys.settrace(interrupt)
        try:
            if when == "enter":
                attachment.__enter__()
            else:
                attachment.__exit__(None, None, None)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(old)
        stop = not interrupt.raised
        if stop and when == "enter":
            attachment.__exit__(None, None, None)
        # before its first line, leaving cannot defend itself: then the last reference does
        del attachment
        assert snapshot(model) == before, f"line {at}"
    assert at > 50


@torch.no_grad()
def test_nested_attachments_act_in_order_and_leave_in_order() -> None:
    model, given = build("llama"), inputs("llama")
    plain = logits(model(**given))
    other = {"r": torch.arange(11) == 7}
    with untouched(model):
        with fv.attach(
            model, fv.Emphasize("r", 4.0), fv.Measure(fv.mass("r")), regions=REGION
        ) as out:
            alone = logits(model(**given))
            first = out.results["mass:r"].prefill
            with (
                untouched(model),
                fv.attach(
                    model, fv.Emphasize("r", 3.0), fv.Measure(fv.mass("r")), regions=other
                ) as inner,
            ):
                both = logits(model(**given))
            again = logits(model(**given))
    union = {**REGION, "s": other["r"]}
    with fv.attach(
        model,
        *(fv.Emphasize("r", 4.0), fv.Emphasize("s", 3.0)),
        fv.Measure(fv.mass("r"), fv.mass("s")),
        regions=union,
    ) as flat:
        want = logits(model(**given))
    assert torch.allclose(both, want, atol=1e-6) and torch.equal(again, alone)
    assert not torch.allclose(alone, plain, atol=1e-3)
    assert torch.allclose(inner.results["mass:r"].prefill, flat.results["mass:s"].prefill)
    assert torch.equal(out.results["mass:r"].prefill, first)
    assert (len(out.calls), len(inner.calls)) == (3, 1)
    assert torch.equal(logits(model(**given)), plain)


@torch.no_grad()
def test_attachments_may_end_in_any_order() -> None:
    model, given = build("llama"), inputs("llama")
    plain = logits(model(**given))
    with untouched(model):
        first = fv.attach(model, fv.Emphasize("r", 4.0), regions=REGION)
        second = fv.attach(model, fv.Measure(fv.entropy()))
        first.__enter__()
        run = second.__enter__()
        model(**given)
        first.__exit__(None, None, None)
        got = logits(model(**given))
        assert torch.allclose(got, plain, atol=1e-5) and len(run.calls) == 2
        second.__exit__(None, None, None)
    assert torch.equal(logits(model(**given)), plain)


@torch.no_grad()
def test_two_models_of_one_config() -> None:
    one = build("llama")
    other = type(one)(one.config).eval()
    given = inputs("llama")
    want, plain = logits(other(**given)), logits(one(**given))
    assert one.config is other.config
    with untouched(one, other):
        with fv.attach(one, fv.Emphasize("r", 9.0), regions=REGION) as run:
            assert torch.equal(logits(other(**given)), want)
            assert run.calls == []
            edited = logits(one(**given))
            with fv.attach(other, fv.Measure(fv.entropy())) as second:
                logits(other(**given))
                assert torch.equal(logits(one(**given)), edited)
            assert len(second.calls) == 1
            assert torch.equal(logits(other(**given)), want)
    assert not torch.allclose(edited, plain, atol=1e-3)


@torch.no_grad()
def test_two_threads_with_two_models_of_one_config() -> None:
    """One attaches and detaches all the time while the other runs plainly, and measures."""
    one = build("mistral")
    other = type(one)(one.config).eval()
    given = inputs("mistral", padded="left")
    real = given["attention_mask"].bool()
    wants = [logits(m(**given)) for m in (one, other)]
    errors: list[BaseException] = []
    stop = threading.Event()

    def attaching() -> None:
        try:
            with torch.no_grad():
                while not stop.is_set():
                    with fv.attach(one, fv.Measure(fv.entropy())) as run:
                        got = logits(one(**given))
                    assert torch.allclose(got[real], wants[0][real], atol=1e-4)
                    assert len(run.calls) == 1
        except BaseException as error:
            errors.append(error)

    with untouched(one, other):
        thread = threading.Thread(target=attaching)
        thread.start()
        try:
            for _ in range(60):
                got = logits(other(**given))
                # bitwise unless the config was switched back in the middle of this forward
                assert torch.allclose(got[real], wants[1][real], atol=1e-4)
        finally:
            stop.set()
            thread.join()
    assert errors == []


@torch.no_grad()
def test_a_detach_in_the_middle_of_another_models_forward() -> None:
    """The mask was handed out by us, and our function is gone when it is used."""
    one = build("llama", "eager")
    other = type(one)(one.config).eval()
    for given in (inputs("llama", padded="left"), inputs("llama")):
        real = given.get("attention_mask", torch.ones(2, 11)).bool()
        want = logits(other(**given))
        with ExitStack() as stack:
            stack.enter_context(fv.attach(one))
            hook = other.model.layers[1].register_forward_pre_hook(lambda m, a: stack.close())
            got = logits(other(**given))
            hook.remove()
        assert torch.allclose(got[real], want[real], atol=1e-6)


@torch.no_grad()
def test_code_that_asks_for_the_implementation_hears_the_models_own() -> None:
    model = build("llama", "eager")
    with fv.attach(model):
        name = model.config._attn_implementation
        assert name == "eager" and name in ("eager", "sdpa") and name != "sdpa"
        assert json.loads(json.dumps({"a": name})) == {"a": "eager"}
        for twin in (copy.deepcopy(model.config), pickle.loads(pickle.dumps(model.config))):
            assert type(twin._attn_implementation) is str
        twin = copy.deepcopy(model)
    assert torch.equal(logits(twin(**inputs("llama"))), logits(model(**inputs("llama"))))


@torch.no_grad()
def test_a_choice_of_the_user_inside_the_block_stays() -> None:
    model = build("llama")
    with pytest.raises(fv.FoveateError, match="reached none"), fv.attach(model):
        model.set_attn_implementation("eager")
        model(**inputs("llama"))
    assert model.config._attn_implementation == "eager"
    assert type(model.config._attn_implementation) is str


def test_an_attachment_is_entered_once() -> None:
    attachment = fv.attach(build("llama"))
    with attachment:
        pass
    with pytest.raises(fv.FoveateError, match="used already"):
        attachment.__enter__()


@torch.no_grad()
def test_a_model_is_not_kept_alive() -> None:
    import gc
    import weakref

    model = build("llama")
    with fv.attach(model, fv.Measure(fv.entropy())) as run:
        model(**inputs("llama"))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and len(run.coverage.touched) == 2


def test_importing_registers_nothing() -> None:
    from transformers.modeling_utils import AttentionInterface

    assert all(type(name) is str for name in AttentionInterface._global_mapping)
