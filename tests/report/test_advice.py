"""Advice as a page: what it says, that it loads nothing, escapes all, and needs no script."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from foveate.advise import Advice, Figure
from foveate.errors import FoveateError
from foveate.report.advice import fragment, render, write
from foveate.report.sentences import headline

from .advised import CONTROLS, POLICY, advice, example, finalist, nothing, tried
from .test_html import Page

EVIL = '</script><img src=x onerror="alert(1)"><b>&'


def text_of(page: str) -> str:
    """What a reader without scripts sees."""
    body = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def only(**changes: object) -> Advice:
    """Advice with one finalist, changed."""
    whole, goal = advice(), str(changes.pop("goal", "accuracy"))
    one = finalist(**changes)
    return replace(
        whole, goal=goal, verdict=replace(whole.verdict, finalists=(one,), recommended=one.name)
    )


def test_the_verdict_is_one_sentence() -> None:
    assert headline(advice()) == (
        "Change this:",
        "closest passage × 5. It answers 33 of 50 right instead of 8: +50 points (95 %: 34 to 64); "
        "it costs 4 % more time.",
    )


@pytest.mark.parametrize(
    ("changed", "verb", "said"),
    [
        (only(kind="prompt", name="quote first"), "Change the prompt:", "quote first. It answers"),
        (only(seconds=Figure(0.7, 0.6, 0.8, 50)), "Change this:", "it takes 30 % less time."),
        (only(seconds=Figure(2.5, 2, 3, 50), memory=1.1), "Change this:",
         "it costs 2.5 × the time and 10 % more memory."),
        (only(seconds=Figure(1.001, 1, 1, 50)), "Change this:",
         "no measurable cost in time or memory."),
        (only(seconds=Figure(1.1, 0.96, 1.31, 50), memory=0.99), "Change this:",
         "(95 %: 34 to 64); no measurable cost in time or memory."),
        (only(seconds=Figure(1.1, 0.96, 1.31, 50), memory=1.3), "Change this:",
         "it costs 30 % more memory."),
        (only(base_right=None), "Change this:", "It gains +50 points (95 %: 34 to 64);"),
        (only(goal="speed", gain=Figure(0.31, 0.2, 0.4, 50), mended=0), "Change this:",
         "It saves +31 % (95 %: 20 to 40) of the time and answers 7 of 50 right instead of 8;"),
        (only(goal="memory", memory=0.6), "Change this:", "of the peak memory"),
        (nothing(), "Change nothing:", "+4 points (95 %: −6 to 14), which may be chance."),
    ],
)  # fmt: skip
def test_other_verdicts(changed: Advice, verb: str, said: str) -> None:
    got = headline(changed)
    assert got[0] == verb and said in got[1]


def test_a_gain_of_two_choices_is_not_said_to_be_one_policys() -> None:
    given = advice().verdict
    same = replace(given, choices=(given.recommended,) * 2)
    assert "It answers 33 of 50" in headline(advice(verdict=same))[1]
    other = replace(given, choices=(given.recommended, "quote first"))
    said = headline(advice(verdict=other))[1]
    assert "What each half chose, asked the other half, answers 33 of 50" in said


def test_verdicts_without_a_finalist() -> None:
    given = nothing().verdict
    few = nothing(verdict=replace(given, finalists=(), folds=0, needed=80))
    assert headline(few) == (
        "Change nothing yet:",
        "50 questions are too few to tell: 80 would do.",
    )
    short = replace(few, settings={"n": 50, "of": 90})
    said = "the time held 50 of 90 questions, too few to tell: 80 would do."
    assert headline(short) == ("Change nothing yet:", said)
    none = nothing(verdict=replace(given, finalists=()))
    assert "nothing that was tried did better" in headline(none)[1]
    late = {**none.settings, "complete": False}
    assert "no time to try anything" in headline(replace(none, tried=(), settings=late))[1]
    assert "nothing of what there is to try goes" in headline(replace(none, tried=()))[1]
    worse = finalist(gain=Figure(-0.1, -0.2, 0.0, 50), mended=0, broken=5)
    assert headline(nothing(verdict=replace(given, finalists=(worse,))))[1] == (
        "nothing that was tried did better. “closest passage × 5” answers 3 of 50 right instead "
        "of 8."
    )
    both = (worse, finalist("quote first", gain=Figure(0.2, 0.0, 0.4, 50)))
    assert headline(nothing(verdict=replace(given, finalists=both)))[1] == (
        "no gain is proved. What was chosen, “closest passage × 5”, answers 3 of 50 right instead "
        "of 8; “quote first” looks better (+20 points (95 %: 0 to 40)), but was not chosen "
        "beforehand."
    )
    lucky = finalist(gain=Figure(0.2, 0.1, 0.3, 50), p=0.01)
    shown = headline(nothing(verdict=replace(given, finalists=(lucky,))))[1]
    assert "not chosen beforehand" in shown


def test_the_parts_stand_in_their_order() -> None:
    seen = text_of(render(advice()))
    parts = ("Change this:", "What is wrong", "What to change", "What it gains and costs",
             "What was tried", "before and after", "How to apply it", "How it was found",
             "What was not asked")  # fmt: skip
    places = [seen.index(part) for part in parts]
    assert places == sorted(places)


def test_it_says_what_was_found() -> None:
    seen = unescape(text_of(render(advice())))
    for said in (
        "8 of 50 right (16 %; 95 %: 8 to 29), 0.55 s a question, 180 MiB at its peak",
        "raising it mends 11",
        "did it matter",
        "48.0 % (23)",
        "−2 points (95 %: −8 to 4)",
        "perplexity of plain text 20.40 instead of 20.00 (+2.0 %); unrelated questions 17 of 24 "
        "right instead of 18 (1 mended, 2 broken). Plain text has no 'closest passage'.",
        "by similarity : there is no context",
        "closest passage × 5 a change of attention 33 8 50 26 1 < 0.001 +4 % +1 % to +8 % 0 %",
        "the model as it is 8 of 50 right",
        "after round 2",
        "Fingerprint of the data 0a1b2c",
        "13.5 minutes",
        "foveate 0.1.0, torch 2.13.0",
        "foveate compare --model smollm2 --task mine.jsonl --policy policy.toml",
        "Emphasize('closest passage', gain=5)",
        "policy.toml is the file under",
        "✓ right",
        "✗ wrong",
        "outlined 35 % of the attention · sink 50 %",
    ):
        assert said in seen, said


def test_bars_share_one_axis() -> None:
    page = render(advice())
    # from −8 to +64 points: 0 stands at 8/72
    assert page.count('class="zero" style="left:11.11%"') == 4
    assert 'class="bar" style="left:11.11%;width:69.45%"' in page
    assert 'class="bar unsure" style="left:8.33%;width:2.78%"' in page  # a loss goes to the left
    assert 'class="whisker" style="left:0.0%;width:16.67%"' in page


def test_it_says_on_which_questions() -> None:
    assert "each half's choice is asked the other half" in render(advice())
    once = advice(verdict=replace(advice().verdict, folds=1))
    assert "All on the half that did not choose." in render(once)


def test_a_gain_of_nothing_has_an_axis() -> None:
    flat = finalist(gain=Figure(0.0, 0.0, 0.0, 50), mended=0, broken=0)
    given = nothing(verdict=replace(nothing().verdict, finalists=(flat,)))
    assert 'class="zero" style="left:0.0%"' in render(given)


def test_a_prompt_that_wins_is_said_plainly() -> None:
    assert "A simple rewrite of the prompt wins here" in render(only(kind="prompt"))
    assert "A simple rewrite" not in render(advice())
    both = advice().verdict
    first = finalist("quote first", kind="prompt")
    seen = text_of(render(advice(verdict=replace(
        both, recommended="quote first", finalists=(first, *both.finalists[::2])))))  # fmt: skip
    assert "where the choice was made, was not better by more than noise" in seen


def test_it_says_what_a_claim_rests_on() -> None:
    assert "and the exact McNemar test gives p &lt; 0.05." in text_of(render(advice()))
    speed = text_of(render(advice(goal="speed")))
    assert "above 0 and the accuracy lost is surely within the margin allowed." in speed


@pytest.mark.parametrize("make", [advice, nothing])
def test_it_says_when_the_time_ran_out(make: Callable[..., Advice]) -> None:
    whole = make()
    assert "The time ran out" not in render(whole)
    late = make(settings={**whole.settings, "complete": False})
    assert "The time ran out. The 15 minutes allowed" in text_of(render(late))


def test_change_nothing_shows_no_after() -> None:
    seen = text_of(render(nothing()))
    assert "Nothing. What was tried is below" in seen
    assert "3 questions" in seen and "before and after" not in seen
    assert "How to apply it" not in seen and "The policy, as a file" not in seen


def test_it_loads_nothing_and_every_tag_is_closed() -> None:
    page = render(advice())
    parsed = Page(page)
    assert not [a for a in parsed.attributes if a[1] in ("src", "href", "action", "srcset")]
    assert not {"link", "img", "iframe", "object", "embed"} & set(parsed.tags)
    assert "@import" not in page and "url(" not in page and "http" not in page
    for tag in ("div", "section", "details", "table", "tbody", "tr", "figure", "span", "p"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_everything_is_escaped() -> None:
    whole = advice()
    one = finalist(EVIL, kind=EVIL, controls={**CONTROLS, "notes": [EVIL]})
    given = advice(
        verdict=replace(whole.verdict, recommended=EVIL, reason=EVIL, finalists=(one,)),
        diagnosis=replace(whole.diagnosis, sentences=(EVIL,), figures=()),  # type: ignore[type-var]
        tried=(tried(EVIL, EVIL, why=EVIL),),
        examples=(example(id=EVIL, question=EVIL, context=EVIL, answer=EVIL, before=EVIL,
                          after=EVIL, tokens=[EVIL] * 23),
                  example(context=EVIL, before_weights=[], after_weights=[])),
        settings={"model": EVIL, "versions": {EVIL: EVIL}, "notes": [EVIL],
                  "left_out": {EVIL: EVIL}},
        command=EVIL,
        python=EVIL,
    )  # fmt: skip
    for page in (render(given), fragment(given)):
        parsed = Page(page)
        assert "img" not in parsed.tags
        assert not [a for a in parsed.attributes if a[1].startswith("on")]
        assert page.count("<script") == page.count("</script>") <= 1
    assert "&lt;img src=x onerror=" in render(given)


def test_unmeasured_attention_leaves_the_context() -> None:
    seen = text_of(render(advice(examples=(example(before_weights=[], after_weights=[]),))))
    assert "Where it looked, before" not in seen
    assert "The context The mill opens at nine." in seen


def test_another_prompt_is_drawn_after() -> None:
    one = example(after_tokens=["<s>", "Quote", " first"], after_weights=[0.5, 0.25, 0.25],
                  after_evidence=[1], raised=[])  # fmt: skip
    page = render(advice(examples=(one,)))
    assert re.search(
        r'<span class="evidence"><span class="w8" title="25 %">Quote</span></span>', page
    )
    assert "outlined 25 % of the attention · sink 50 %" in page


def test_a_sample_of_the_questions_is_told() -> None:
    whole = advice()
    seen = text_of(render(advice(settings={**whole.settings, "of": 400, "notes": ["No way."]})))
    assert "Questions 50, drawn from 400" in seen
    assert "a seeded sample was asked." in seen and "No way." in seen


def test_no_diagnosis_no_controls() -> None:
    seen = text_of(render(only(controls={})))
    assert "What it does to other work It was not measured." in seen
    assert "Nothing was diagnosed" in text_of(render(advice(diagnosis=None)))


def test_fragment() -> None:
    shown = text_of(fragment(advice()))
    assert "Change this: closest passage × 5." in shown and "+6 points (95 %: −4 to 16)" in shown
    assert "<table" not in fragment(nothing(verdict=replace(nothing().verdict, finalists=())))


def test_write(tmp_path: Path) -> None:
    assert write(advice(), tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    assert advice().report(tmp_path / "b.html").exists()
    with pytest.raises(FoveateError, match="cannot be written"):
        write(advice(), tmp_path / "none" / "a.html")


def test_the_file_is_in_the_page() -> None:
    assert "name = &#34;Emphasize&#34;" in render(advice()) and POLICY.to_toml()


def test_what_the_time_did_not_hold_is_told_first_and_listed_apart() -> None:
    settings = {**advice().settings, "not_tried": ["a", "b"], "pool": 6, "minutes_for_all": 9}
    page = render(advice(settings=settings))
    said = "The time held 4 of 6 things to try; give about 9 minutes for all."
    assert said in page.split("</h1>")[0]
    assert "Not tried: the time does not hold it (2)" in page
    assert "What did not fit these questions or this model (1)" in page
    assert said not in render(advice())
