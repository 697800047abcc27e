"""One model, many visitors: in turn, told how far, stopped, and never left half-attached."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveate.errors import FoveateError
from foveate.prompt import Prompt
from foveate.tasks.answering import generate
from foveate.ui import session as session_module
from foveate.ui import steer
from foveate.ui.parts import tell
from foveate.ui.session import Desk, Job, Session, Stopped, Update

from .conftest import slowed


def hooks(model: Any) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def generating(desk: Desk, tokens: int) -> Callable[[Job], Any]:
    prompt = Prompt(desk.tokenizer, "The cat sat on the mat.")

    def work(job: Job) -> Any:
        job.stage("Answering", desk.calls * tokens)
        return generate(desk.model, prompt, tokens)

    return work


def test_work_tells_how_far_it_is_and_gives_its_result(desk: Desk) -> None:
    with slowed(desk.model, 0.03):
        updates = list(desk.run(Session(), generating(desk, 20)))
    said = [u.message for u in updates[:-1]]
    assert said[0].startswith("Answering …") or said[0] == " …"
    shares = [int(s.split()[-2]) for s in said if s.endswith("%")]
    assert shares == sorted(shares) and shares[-1] > shares[0]
    assert updates[-1] == Update("", updates[-1].value)
    expected = generate(desk.model, Prompt(desk.tokenizer, "The cat sat on the mat."), 20)
    assert torch.equal(updates[-1].value, expected)


def test_stop_really_stops_the_model_and_leaves_it_as_it_was(desk: Desk) -> None:
    before, mine = hooks(desk.model), Session()
    with slowed(desk.model, 0.03) as forwards:
        updates = desk.run(mine, generating(desk, 100))
        next(updates)
        assert mine.stop() == 1
        with pytest.raises(Stopped):
            list(updates)
        seen = len(forwards)
        time.sleep(0.15)
        assert len(forwards) == seen < 50, "the model went on after it was stopped"
    assert hooks(desk.model) == before
    assert mine.stop() == 0, "work that ended is still there to be stopped"


def test_dropping_the_generator_stops_the_work_and_frees_the_model(desk: Desk) -> None:
    with slowed(desk.model, 0.03) as forwards:
        updates = desk.run(Session(), generating(desk, 100))
        next(updates)
        updates.close()  # what happens when a visitor closes the page
        after = list(desk.run(Session(), lambda job: "free"))
        assert after[-1].value == "free"
        assert len(forwards) < 50


def test_work_that_nobody_asks_after_is_given_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_GONE", 0.3)
    with slowed(desk.model, 0.03) as forwards:
        updates = desk.run(Session(), generating(desk, 100))
        next(updates)  # and never again
        time.sleep(1.0)
        assert len(forwards) < 30
    del updates


def test_one_at_a_time_in_the_order_asked(desk: Desk) -> None:
    order: list[str] = []
    free = threading.Event()

    def first(job: Job) -> str:
        order.append("first in")
        free.wait(5)
        order.append("first out")
        return "1"

    def second(job: Job) -> str:
        order.append("second")
        return "2"

    one, two = desk.run(Session(), first), desk.run(Session(), second)
    next(one)
    assert next(two).message.startswith("Waiting for the model, 1 before you")
    assert order == ["first in"]
    free.set()
    assert [u.value for u in one][-1] == "1"
    assert [u.value for u in two][-1] == "2"
    assert order == ["first in", "first out", "second"]


def test_who_waits_can_stop_and_makes_room(desk: Desk) -> None:
    free = threading.Event()
    one = desk.run(Session(), lambda job: free.wait(5))
    next(one)
    mine = Session()
    two = desk.run(mine, lambda job: pytest.fail("stopped work was begun"))
    next(two)
    mine.stop()
    with pytest.raises(Stopped):
        list(two)
    free.set()
    assert list(one)[-1].value is True
    assert list(desk.run(Session(), lambda job: 3))[-1].value == 3


def test_who_waited_and_went_does_not_block_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    one = desk.run(Session(), lambda job: free.wait(5))
    next(one)
    gone = desk.run(Session(), lambda job: None)
    next(gone)
    three = desk.run(Session(), lambda job: "here")
    assert "2 before you" in next(three).message
    free.set()
    list(one)
    monkeypatch.setattr(session_module, "_GONE", 0.0)
    monkeypatch.setattr(Job, "check", lambda self: None)  # with _GONE = 0 all work is given up
    assert list(three)[-1].value == "here"


def test_too_many_are_sent_away_with_a_sentence(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MOST_WAITING", 1)
    free = threading.Event()
    one = desk.run(Session(), lambda job: free.wait(5))
    next(one)
    with pytest.raises(FoveateError, match="try again"):
        next(desk.run(Session(), lambda job: None))
    free.set()
    list(one)


def test_a_fault_is_a_sentence_for_the_visitor_and_a_traceback_for_the_terminal(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(job: Job) -> None:
        raise ZeroDivisionError("/secret/path")

    with pytest.raises(FoveateError) as caught:
        list(desk.run(Session(), broken))
    assert "ZeroDivisionError" in str(caught.value) and "secret" not in str(caught.value)
    assert "/secret/path" in capsys.readouterr().err


def test_a_fault_before_the_work_is_a_sentence_too(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare() -> None:
        raise RuntimeError("/secret/path")

    [(line, value)] = tell(desk, Session(), prepare, lambda: "skip")
    assert "RuntimeError" in line and "secret" not in line and value is None
    assert "/secret/path" in capsys.readouterr().err


def test_what_failed_work_had_shown_itself_stays(desk: Desk) -> None:
    def work(job: Job) -> None:
        job.show("half")
        time.sleep(0.3)  # until it was seen
        raise FoveateError("It failed.")

    told = list(tell(desk, Session(), lambda: work, lambda: "skip"))
    assert "half" in [value for _, value in told]
    assert "It failed." in told[-1][0] and told[-1][1] == "skip"


def test_visitors_have_sessions_of_their_own() -> None:
    page = Session()
    page.looked = "mine"
    page.jobs.add(Job())
    one, two = copy.deepcopy(page), copy.deepcopy(page)
    assert one is not two and one.looked is None and not one.jobs


@pytest.mark.parametrize("rounds", [2])
def test_two_at_once_get_what_each_would_get_alone(desk: Desk, rounds: int) -> None:
    """Attaching is per model: without the queue one visitor's gain would act on the other."""

    def asked(piece: str, strength: float) -> Any:
        text = "The red cat sat on the mat. The dog ate a bone. Who ate?"
        return steer.steer(
            desk, text, "plain text", piece, "Emphasize", strength, "", "", 12, False
        )  # fmt: skip

    def answers(found: Any) -> str:
        texts = found.answers.split("<blockquote>")[1:]
        return "|".join(t.partition("</blockquote>")[0] for t in texts)

    wanted = [("The dog ate a bone.", 30.0), ("The red cat sat", 40.0)]
    alone = [answers(list(desk.run(Session(), asked(*one)))[-1].value) for one in wanted]
    assert alone[0] != alone[1], "the two questions must differ to show anything"
    got: list[str] = [""] * len(wanted)

    def visitor(i: int) -> None:
        got[i] = answers(list(desk.run(Session(), asked(*wanted[i])))[-1].value)

    for _ in range(rounds):
        threads = [threading.Thread(target=visitor, args=(i,)) for i in range(len(wanted))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got == alone
