"""``fv.tune``: what it tries, what it chooses, when it says no, what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import families
import foveate as fv
import words
from foveate import patterns as p
from foveate.find.tuning import search
from foveate.find.tuning.judge import Judged
from foveate.tasks._task import Item

FEW = {"window": lambda n: p.SlidingWindow(n, sinks=1), "dilated": lambda n: p.Dilated(n, 2)}


@pytest.fixture(scope="module")
def llama() -> Any:
    return families.build("llama")


@pytest.fixture(scope="module")
def items(llama: Any) -> list[Item]:
    """Eight prompts that the model answers rightly, for its own answers are right."""
    made = []
    g = torch.Generator().manual_seed(3)
    while len(made) < 8:
        ids = torch.randint(3, 64, (40,), generator=g)
        said = int(llama(ids[None]).logits[0, -1].argmax())
        if said >= 3:
            made.append(Item(str(len(made)), words.text(*ids.tolist()), words.text(said)))
    return made


def test_a_search_from_end_to_end(llama: Any, items: list[Item], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tuned = fv.tune(
        llama,
        words.tokenizer(),
        items,
        budget=0.5,
        families=FEW,
        progress=lambda *n: told.append(n),
    )
    found = tuned.found
    assert found["tokens"] == 40 and found["budget"] == 0.5 and found["task"] == "8 items"
    names = [row["plan"] for row in found["tuning"]]
    assert names[:5] == [
        "dense", "window everywhere", "dilated everywhere", "by mass, a layer", "by mass, a head",
    ]  # fmt: skip
    for half in ("tuning", "reporting"):
        assert found[half][0]["right"] == found[half][0]["n"] == 4  # dense
        for row in found[half][1:]:
            assert 0.3 < row["density"] <= 0.5 and 0 <= row["right"] <= 4
    assert found["plan"] in names and found["density"] <= 0.5
    assert "heads drawn blindly, dense" in [row["plan"] for row in found["reporting"]]
    assert "window everywhere" in [row["plan"] for row in found["reporting"]]
    right = {row["plan"]: row["right"] for row in found["reporting"]}
    assert found["holds"] == (right[found["plan"]] >= 0.9 * 4) == tuned.holds
    assert set(found["versions"]) >= {"torch", "transformers", "foveate"}
    assert told[-1][0] == told[-1][1] and [n for n, _ in told] == sorted(n for n, _ in told)

    again = fv.Tuned.load(tuned.save(tmp_path / "tuned.json"))
    assert again.found == found and again.same(llama)
    best = search.judge(llama, words.tokenizer(), items[1::2], [again])
    assert sum(one.right for one in best) == right[found["plan"]]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, float]]:
    """Right answers (of four) and log-probability by the method's repr, instead of asking."""
    given: dict[str, tuple[int, float]] = {}

    def judge(model: Any, tokenizer: Any, asked: Any, methods: Any = (), **_: Any) -> list[Judged]:
        key = next((k for k in given if methods and k in repr(methods[0])), "other")
        right, logp = (len(asked), 0.0) if not methods else given.get(key, (0, -9.0))
        return [Judged(n < right, logp, 0.1) for n in range(len(asked))]

    monkeypatch.setattr(search, "judge", judge)
    return given


def test_the_best_on_the_tuning_half_is_chosen(
    llama: Any, items: list[Item], pretended: dict[str, tuple[int, float]]
) -> None:
    pretended["Dilated(window=10, dilation=2"] = (4, -1.0)
    tuned = fv.tune(llama, words.tokenizer(), items, budget=0.38, families=FEW)
    assert tuned.found["plan"] == "dilated everywhere" and tuned.holds
    assert {type(pattern) for pattern, _ in tuned.choices} == {p.Dilated}
    gains = tuned.found["logp_gain_over"]["window everywhere"]
    assert gains["mean"] == gains["low"] == gains["high"] == 8.0


def test_nothing_holds(
    llama: Any, items: list[Item], pretended: dict[str, tuple[int, float]]
) -> None:
    pretended["Dilated(window=10"] = (3, -1.0)
    ask: Any = {"budget": 0.38, "families": FEW}
    assert fv.tune(llama, words.tokenizer(), items, **ask).holds is False
    assert fv.tune(llama, words.tokenizer(), items, keep=0.75, **ask).holds is True


def test_where_dense_attention_fails_nothing_holds(
    llama: Any, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(model: Any, tokenizer: Any, asked: Any, *_: Any, **__: Any) -> list[Judged]:
        return [Judged(int(one.id) % 2 == 0, -1.0, 0.1) for one in asked]

    monkeypatch.setattr(search, "judge", judge)  # the tuning half right, the reporting half wrong
    assert fv.tune(llama, words.tokenizer(), items, budget=0.5, families=FEW).holds is False


def test_the_control_has_the_same_patterns_on_other_heads(
    llama: Any, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    masses = torch.rand(9, 2, 4, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(search, "retained", lambda *args, **more: masses[: len(args[3])])
    asked: list[fv.Tuned] = []

    def judge(model: Any, tokenizer: Any, some: Any, methods: Any = (), **_: Any) -> list[Judged]:
        asked.extend(methods)
        kinds = {len(heads) for m in methods for _, w in m.choices for heads in w.values()}
        return [Judged(True, 0.0 if kinds - {4} else -1.0, 0.1) for _ in some]

    monkeypatch.setattr(search, "judge", judge)
    tuned = fv.tune(llama, words.tokenizer(), items, budget=0.5, families=FEW)
    assert tuned.found["plan"] == "by mass, a head"
    *_, best, _, blind = asked
    assert best.choices == tuned.choices

    def counted(one: fv.Tuned) -> dict[Any, int]:
        return {pattern: sum(map(len, where.values())) for pattern, where in one.choices}

    assert counted(blind) == counted(best) and blind.choices != best.choices
    densities = {row["plan"]: row["density"] for row in tuned.found["reporting"]}
    assert densities["by mass, a head, heads shuffled"] == densities["by mass, a head"]


def test_what_the_model_cannot_do_is_refused(llama: Any, items: list[Item]) -> None:
    wrong = [
        Item(one.id, one.content, "w3" if one.answer != "w3" else "w4") for one in items[:5]
    ] + items[5:]
    with pytest.raises(fv.FoveateError, match="answers 3 of 8 items rightly"):
        fv.tune(llama, words.tokenizer(), wrong, budget=0.5, families=FEW)


@pytest.mark.parametrize(
    ("given", "words_"),
    [
        ({"budget": 0}, "budget=0"),
        ({"budget": 1.2}, "budget=1.2"),
        ({"budget": True}, "budget=True"),
        ({"budget": 1}, "budget=1 is dense"),
        ({"keep": 0}, "keep=0"),
        ({"phase": "decode"}, "phase='decode'"),
        ({"families": {"hip": lambda n: p.HiP(k=2 * n)}}, "looks at the content"),
        ({"budget": 0.01, "families": FEW}, r"fits a budget of 0.01 at 40 tokens: .*smallest"),
    ],
)
def test_refused(llama: Any, items: list[Item], given: Any, words_: str) -> None:
    with pytest.raises(fv.FoveateError, match=words_):
        fv.tune(llama, words.tokenizer(), items, **given)


def test_too_few_items(llama: Any, items: list[Item]) -> None:
    with pytest.raises(fv.FoveateError, match="at least four"):
        fv.tune(llama, words.tokenizer(), items[:3])


def test_the_smallest_budget_that_is_named_fits(llama: Any, items: list[Item]) -> None:
    with pytest.raises(fv.FoveateError, match="Take a budget of") as error:
        fv.tune(llama, words.tokenizer(), items, budget=0.01, families=FEW)
    least = float(str(error.value).split("Take a budget of ")[1].split()[0])
    assert 0.01 < least < 0.2
    assert search._options(FEW, least, 40)[2]
    with pytest.raises(fv.FoveateError):
        search._options(FEW, least - 0.002, 40)


@pytest.mark.parametrize("task", ["needle", 5, ["a question"], None])
def test_what_is_no_task(llama: Any, task: Any) -> None:
    with pytest.raises(fv.FoveateError, match=r"was given; a task, such as fv\.tasks\.Needle"):
        fv.tune(llama, words.tokenizer(), task)


@pytest.mark.parametrize(("seconds", "times"), [(0.3, 3.0), (0.05, 0.5)])
def test_the_time_beside_dense(
    llama: Any, items: list[Item], monkeypatch: pytest.MonkeyPatch, seconds: float, times: float
) -> None:
    def judge(model: Any, tokenizer: Any, asked: Any, methods: Any = (), **_: Any) -> list[Judged]:
        return [Judged(True, -1.0, seconds if methods else 0.1) for _ in asked]

    monkeypatch.setattr(search, "judge", judge)
    tuned = fv.tune(llama, words.tokenizer(), items, budget=0.5, families=FEW)
    assert tuned.found["times_dense"] == times
    assert any("not faster" in one for one in tuned.remarks) == (times > 1)
    assert any("Only 8 questions" in one for one in tuned.remarks)
    said = str(tuned)
    assert tuned.found["plan"] in said and "holds" in said and "dense" in said
    assert ("not faster: 3.00 ×" in said) == (times > 1)
