"""advise on a live model: within its time, resumable, the same for a seed, honest about both."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from families import build
from foveate.advise import Advice, advise, run
from foveate.advise.ask import OutOfTime
from foveate.advise.candidates import Candidate, candidates
from foveate.advise.clock import Clock, Plan, minutes_for_all, planned, sampled
from foveate.advise.live import Live
from foveate.advise.run import read
from foveate.advise.search import rungs
from foveate.errors import FoveateError
from foveate.evaluate.journal import Journal
from foveate.methods.emphasis import Emphasize
from foveate.policy import Policy
from foveate.tasks import Distractors, Questions
from words import tokenizer as words

N = 20


class Oracle:
    """Knows the answer to some items, and counts how often it is asked."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._asked: list[str] = []

    def generate(self, model: Any, tokenizer: Any, items: Any, max_new_tokens: int) -> list[str]:
        self._asked += [item.id for item in items]
        return [item.answer if int(item.id) % self.every == 0 else "?" for item in items]


@pytest.fixture(scope="module")
def questions() -> Questions:
    made = Distractors("facts", passages=2, n=N)
    return Questions.of(
        [
            {"prompt": one.marks["question"], "context": list(one.info["passages"]),
             "answer": one.answer, "id": str(k)}
            for k, one in enumerate(made.items())
        ],
        name="mine",
        max_new_tokens=2,
    )  # fmt: skip


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> dict[str, Oracle]:
    """Two candidates that know answers; no diagnosis, no controls: they have tests of their own."""
    oracles = {"all": Oracle(), "some": Oracle(3)}
    made = [Candidate(Policy(), "nothing", 0, "")] + [
        Candidate(Policy([one], name=name), "method", 1, "") for name, one in oracles.items()
    ]
    monkeypatch.setattr(run, "candidates", lambda *a, **k: made)
    monkeypatch.setattr(run, "left_out", lambda *a, **k: {})
    monkeypatch.setattr(run, "controls", lambda *a: pytest.fail("no controls are wanted here"))
    monkeypatch.setattr(run._Advising, "_controls", lambda self: None)
    monkeypatch.setattr(run._Advising, "_diagnosis", lambda *a: None)
    return oracles


def plain(advice: Advice) -> dict[str, Any]:
    """What must be the same whenever it is asked: no clock, no bytes."""
    policies = {one.name: one.policy for one in advice.verdict.finalists}
    verdict = [
        (one.name, one.gain, one.p, one.mended, one.broken) for one in advice.verdict.finalists
    ]
    tried = [replace(one, seconds=0.0) for one in advice.tried]
    return {"verdict": verdict, "reason": advice.verdict.reason, "tried": tried,
            "policies": list(policies), "base": advice.baseline.replies}  # fmt: skip


def test_from_questions_to_a_claim(tiny: Any, questions: Any, pool: Any, tmp_path: Path) -> None:
    before = [p.clone() for p in tiny[0].parameters()]
    told: list[tuple[str, str, float]] = []
    path = tmp_path / "journal.jsonl"
    found = advise(*tiny, questions, minutes=5, resume=path, progress=lambda *a: told.append(a))
    assert found.verdict.claimed and found.verdict.recommended == "all"
    assert found.verdict.finalists[0].gain.value == 1.0 and sum(found.baseline.right) == 0
    assert found.settings["complete"] and found.settings["n"] == N
    assert found.settings["data_fingerprint"] == questions.fingerprint
    assert found.policy.name == "all" and found.policy.model is not None
    assert found.policy.data["fingerprint"] == questions.fingerprint
    assert found.policy.figures["gain"] == 1.0
    assert len(found.examples) == 5 and all(one.right_after for one in found.examples)
    assert {stage for stage, _, _ in told} >= {"baseline", "search", "verdict", "examples"}
    assert all(0 <= left <= 300 for _, _, left in told)
    assert "change nothing" not in repr(found) and "policy.toml" in found.command
    assert "--task other.jsonl" in found.command  # not the questions that chose
    assert all(torch.equal(a, b) for a, b in zip(before, tiny[0].parameters(), strict=True))
    # every cell once; the side-by-side cost asks a few again
    cells = [json.loads(line) for line in path.read_text().splitlines()]
    asked = [(one["policy"], one["id"]) for one in cells if "id" in one]
    assert len(asked) == len(set(asked)) == 3 * N

    again = advise(*tiny, questions, minutes=5, resume=path, progress=False)
    assert again.settings["asked"] == 0 and plain(again) == plain(found)
    fresh = advise(*tiny, questions, minutes=5, progress=False)
    assert plain(fresh) == plain(found)


def test_stopped_and_taken_up_again(
    tiny: Any, questions: Any, pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    asked = Oracle.generate
    calls = []

    def interrupted(self: Any, *given: Any) -> list[str]:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return asked(self, *given)

    monkeypatch.setattr(Oracle, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        advise(*tiny, questions, minutes=5, resume=path, progress=False)
    kept = len(path.read_text().splitlines())
    found = advise(*tiny, questions, minutes=5, resume=path, progress=False)
    assert kept > N and found.verdict.claimed
    whole = advise(*tiny, questions, minutes=5, progress=False)
    assert found.settings["asked"] < whole.settings["asked"] and plain(found) == plain(whole)


def test_too_few_items_are_told_and_nothing_is_tried(tiny: Any, questions: Any, pool: Any) -> None:
    few = replace(questions, records=questions.records[:8])
    found = advise(*tiny, few, minutes=5, progress=False)
    assert found.verdict.folds == 0 and not found.tried and not found.verdict.claimed
    assert found.verdict.needed and str(found.verdict.needed) in found.verdict.reason
    assert not pool["all"]._asked and found.policy.name == "nothing"


@pytest.mark.parametrize(
    ("answer", "n", "first", "why"),
    [
        (
            ".*",
            14,
            "it answers 14 of 14 questions right as it is.",
            "14 of 14 items answered right",
        ),
        ("x{9}", 1, "one question is too few to tell", "1 item, 1 of them answered wrong"),
    ],
)
def test_nothing_to_mend_and_one_question(
    tiny: Any, questions: Any, pool: Any, answer: str, n: int, first: str, why: str
) -> None:
    rows = [{"prompt": f"What is {k}?", "answer": answer, "check": "regex"} for k in range(n)]
    found = advise(*tiny, rows, minutes=5, progress=False, max_new_tokens=2)
    assert first in repr(found).splitlines()[0] and why in found.verdict.reason
    assert not found.tried and found.command == ""


def test_what_cannot_be_drawn_does_not_cost_the_advice(
    tiny: Any, questions: Any, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **more: Any) -> None:
        raise RuntimeError("no such dimension")

    monkeypatch.setattr(run, "examples", broken)
    found = advise(*tiny, questions, minutes=5, progress=False)
    assert found.verdict.claimed and not found.examples
    assert "No examples: no such dimension" in found.settings["notes"]


def test_a_model_with_an_encoder_is_refused() -> None:
    with pytest.raises(FoveateError, match="reads its prompt in an encoder"):
        advise(build("t5"), words(), [{"prompt": "w3 w4?", "answer": "w5"}])


def test_no_time_is_an_answer_too(
    tiny: Any, questions: Any, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    found = advise(*tiny, questions, minutes=0.002, progress=False)
    assert not found.settings["complete"] or found.settings["n"] < N
    assert not found.verdict.claimed and found.verdict.recommended == "nothing"
    assert time.monotonic() - began < 20 and "more minutes" in found.verdict.reason
    found = advise(*tiny, questions, minutes=1e-9, progress=False)  # not even for one batch
    assert found.verdict.recommended == "nothing" and not found.baseline.ids

    def late(self: Any, *given: Any) -> list[str]:
        raise OutOfTime

    monkeypatch.setattr(Oracle, "generate", late)
    found = advise(*tiny, questions, minutes=5, progress=False)
    assert not found.settings["complete"] and found.verdict.recommended == "nothing"


def test_the_whole_way_with_real_candidates(
    tiny: Any, questions: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diagnosis, candidates, controls, page: a random model has no gain to find."""
    monkeypatch.setattr(run, "candidates", lambda *a: candidates(*a)[:4])
    some = replace(questions, records=questions.records[:14])
    found = advise(*tiny, some, minutes=1, seed=1, progress=False)
    assert found.diagnosis is not None and found.tried
    back = Advice.load(found.save(tmp_path / "advice.json"))
    assert back.to_dict() == found.to_dict()
    page = found.report(tmp_path / "advice.html").read_text()
    assert "change nothing" in page.lower() or found.verdict.claimed


def test_a_journal_does_not_mix_runs_that_differ(
    tiny: Any, questions: Any, pool: Any, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    few = replace(questions, records=questions.records[:14])  # of the same file: --n 14
    asked = [advise(*tiny, one, minutes=5, resume=path, progress=False, **more).settings
             for one, more in ((few, {}), (questions, {}), (questions, {"batch_size": 3}),
                               (questions, {"goal": "memory"}))]  # fmt: skip
    assert [one["n"] for one in asked] == [14, N, N, N]
    # whoever is asked three at a time, or alone, takes other seconds and bytes
    assert asked[2]["asked"] == 3 * N
    assert asked[3]["asked"] == 0  # too few for memory, whatever is answered


def test_an_answer_to_what_is_rewritten_or_marked_otherwise_is_not_taken_over(
    tiny: Any, questions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, journal = questions.items()[:2], Journal(None)
    one = Candidate(Policy((), ["short answer"], name="x"), "prompt", 1, "")
    for said, count in (("Be brief.", 2), ("Be brief.", 0), ("Say little.", 2)):
        monkeypatch.setattr("foveate.policy.rewrites.SHORT", said)
        live = Live(*tiny, questions, items, journal, {})
        live(one, items)
        assert live.asked == count


def test_what_is_given_competes(tiny: Any, questions: Any, pool: Any) -> None:
    mine = Policy((), ["question twice"], name="mine")
    lost = Policy([Emphasize("instruction", 2.0)], name="lost")
    found = advise(*tiny, questions, minutes=5, progress=False, policies=[mine, lost])
    tried = {one.name: one for one in found.tried}
    assert list(tried) == ["mine", "lost", "all", "some"] and tried["mine"].asked == N
    assert tried["lost"].asked == 0 or tried["lost"].why == "it was given"
    assert found.verdict.recommended == "all"
    with pytest.raises(FoveateError, match="policies or their files"):
        advise(*tiny, questions, policies=[3])


def test_what_the_time_does_not_hold_is_named(
    tiny: Any, questions: Any, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "planned", lambda *a: Plan(N, N, 0.0))
    found = advise(*tiny, questions, minutes=5, progress=False)
    assert [one.name for one in found.tried] == ["all"] and found.verdict.claimed
    assert found.settings["not_tried"] == ["some"] and found.settings["left_out"] == {}
    said = f"held 1 of 2 things to try; give about {found.settings['minutes_for_all']} minutes"
    assert said in repr(found).splitlines()[0] and found.settings["minutes_for_all"] > 5
    assert said in found.verdict.reason.splitlines()[1]


def test_questions_longer_than_the_model_reads_are_refused_by_name(
    smollm2: Any, questions: Any
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(smollm2[1]), n_embd=16, n_layer=1, n_head=2, n_positions=24,
                        eos_token_id=2, bos_token_id=1)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with pytest.raises(FoveateError, match=r"The longest of them, '\d+', has \d+ tokens.* 24"):
        advise(model, smollm2[1], questions, minutes=1, progress=False)


def test_the_words_begin_as_the_page_does(tiny: Any, questions: Any, pool: Any) -> None:
    from foveate.report.sentences import headline

    found = advise(*tiny, questions, minutes=5, progress=False)
    assert repr(found).splitlines()[0] == " ".join(headline(found))
    assert repr(found).startswith("Change this: all. It answers 20 of 20 right instead of 0")


@pytest.mark.parametrize("goal", ["speed", "memory"])
def test_seconds_and_bytes_are_measured_beside(
    tiny: Any, goal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Distractors("facts", passages=2, n=53)
    task = Questions.of(
        [{"prompt": one.marks["question"], "context": list(one.info["passages"]), "answer": r".*",
          "check": "regex"} for one in made.items()], name="mine", max_new_tokens=1,
    )  # fmt: skip
    shorter = Candidate(Policy((), ["closest passages only"], name="less"), "prompt", 1, "")
    same = Candidate(Policy((), ["question twice"], name="same"), "prompt", 1, "")
    made_up = [Candidate(Policy(), "nothing", 0, ""), shorter, same]
    monkeypatch.setattr(run, "candidates", lambda *a, **k: made_up)
    monkeypatch.setattr(run._Advising, "_diagnosis", lambda *a: None)
    monkeypatch.setattr(run._Advising, "_controls", lambda self: None)
    found = advise(*tiny, task, minutes=5, goal=goal, progress=False)
    assert found.verdict.folds == 2 and len(found.tried) == 2 and found.goal == goal
    assert all(one.mended == one.broken == 0 for one in found.verdict.finalists)
    assert "5.0 points" in found.verdict.reason


def test_for_speed_too_few_are_told_before_anything_is_asked(tiny: Any, questions: Any) -> None:
    found = advise(*tiny, questions, minutes=5, goal="speed", progress=False)
    assert found.settings["asked"] == 0 and found.diagnosis is None and not found.examples
    first, second, *_ = repr(found).splitlines()
    assert first == "Change nothing yet: 20 questions are too few to tell: 52 would do."
    assert "not asked" in second and "At least 52" in found.verdict.reason


def test_speed_is_measured_beside_the_model_as_it_is(tiny: Any, questions: Any) -> None:
    items = questions.items()[:3]
    live = Live(*tiny, questions, items, Journal(None), {}, batch_size=1, beside=True)
    one = Candidate(Policy([Emphasize("closest passage", 2.0)], name="x"), "method", 1, "")
    found = live(one, items)
    assert all(answer.beside is not None and answer.beside > 0 for answer in found)
    assert all((one.beside_memory is None) == (one.memory is None) for one in found)
    assert live.cost(one, items) is not None
    live.until = 0.0
    with pytest.raises(OutOfTime):
        live(Candidate(Policy(name="y"), "prompt", 1, ""), items)
    assert live(one, items) == found  # known: no time is needed


def test_plans_are_whole_and_forgiving() -> None:
    near = planned(50, 1.0, 900), planned(50, 1.05, 900)
    assert near[0] == near[1] and near[0].items == 50 and near[0].answers > 100
    assert planned(5000, 1.0, 900).items == 200
    # three at most, all of them asked everything: then nothing is left to report
    assert 3 * 24 > planned(24, 4.0, 300).answers >= 24
    assert planned(100, 1.0, 400, beside=True).items < 100
    assert planned(50, 1.0, 900, beside=True).answers < near[0].answers
    short = planned(24, 1.4, 300)
    assert rungs(23, 12, short.answers // 2)[0].candidates >= 4
    most = minutes_for_all(23, 24, 1.4, 300)
    assert 5 < most < 60
    assert rungs(23, 12, planned(24, 1.4, 60 * most).answers // 2)[0].candidates == 23
    assert sampled(3, 10, 0) == sampled(3, 10, 0) != sampled(3, 10, 1)
    assert Clock(60).left("search") < Clock(60).left()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"goal": "fame"}, "it is one of accuracy"),
        ({"minutes": 0}, "above 0"),
        ({"minutes": True}, "above 0"),
        ({"margin": 2}, "between 0 and 1"),
        ({"batch_size": 0}, "whole number from 1"),
        ({"seed": -1}, "whole number from 0"),
        ({"data": 7}, "dicts with prompt and answer"),
        ({"data": "none.jsonl"}, "no such file"),
        ({"model": 3}, "a model that generates"),
    ],
)
def test_bad_input(tiny: Any, questions: Any, given: Any, sentence: str) -> None:
    asked = {"model": tiny[0], "tokenizer": tiny[1], "data": questions} | given
    with pytest.raises(FoveateError, match=sentence):
        advise(**asked)


def test_data_as_people_have_it(tmp_path: Path) -> None:
    record = {"prompt": "1 + 1?", "answer": "2"}
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(record))
    assert len(read(path)) == len(read([record])) == 1  # type: ignore[arg-type]
    task = Distractors(n=3)
    assert read(task) is task


def test_controls_keep_to_their_share_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Slow:
        def measure(self, policy: Policy, progress: Any) -> dict[str, Any]:
            asked.append(policy.name)
            progress(1, 2)
            clock[0] += 5.0
            return {"n": 1}

    clock, told = [0.0], []
    monkeypatch.setattr(run, "controls", lambda *_: Slow())
    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])
    me = SimpleNamespace(
        live=SimpleNamespace(pace=0.0), clock=Clock(60, 0.0), facts={}, journal=Journal(None),
        model=None, tokenizer=None, notes=[], tell=lambda *said: told.append(said),
    )  # fmt: skip
    first, second = (Policy((), [name], name=name) for name in ("question twice", "quote first"))
    measure = run._Advising._controls(me)  # type: ignore[arg-type]
    assert measure(first) == {"n": 1}  # what was chosen, always
    assert measure(second) == {} and asked == ["question twice"]  # a tenth of 60 s is 6
    assert told == [("controls", "plain text and unrelated questions, question twice: 1/2")]
    assert run._Advising._controls(me)(first) == {"n": 1}  # type: ignore[arg-type]
    assert len(asked) == 1  # taken up again: kept
