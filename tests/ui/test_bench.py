"""How long a visitor waits, with the embedded model: run on a quiet machine of two cores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from foveate.ui.inputs import PLAIN
from foveate.ui.look import look
from foveate.ui.session import Desk, Session

pytestmark = pytest.mark.bench

SENTENCE = "The lighthouse on Marrow Rock was built in 1929 and lit by Ann Pell. "


def text_of(tokenizer: Any, tokens: int) -> str:
    """A text of exactly so many tokens."""
    ids = tokenizer(SENTENCE * (tokens // 10), add_special_tokens=False)["input_ids"]
    text = tokenizer.decode(ids[:tokens])
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == tokens
    return text


@pytest.fixture(scope="module")
def real(smollm2: tuple[Any, Any]) -> Iterator[str]:
    pytest.importorskip("gradio")
    from foveate.ui import serve

    page, where = serve(*smollm2, "smollm2")
    yield where
    page.close(verbose=False)


def test_first_load_and_a_look_at_200_tokens(
    browser: Any, real: str, smollm2: tuple[Any, Any]
) -> None:
    context = browser.new_context()  # an empty cache: the first load
    page = context.new_page()
    start = time.perf_counter()
    page.goto(real)
    page.locator("#look-go").wait_for()
    loaded = time.perf_counter() - start
    took = {}
    for tokens in (50, 200, 1024):  # the first warms the model up
        page.locator("#look-form").get_by_text("plain text").click()
        page.locator("#look-marks textarea").fill("")
        text = text_of(smollm2[1], tokens)
        page.locator("#look-text textarea").fill(text)
        start = time.perf_counter()
        page.locator("#look-go").click()
        page.wait_for_function(
            "n => [...document.querySelectorAll('#look-report iframe')].some("
            "(f) => f.srcdoc.includes(`<dt>Tokens</dt><dd>${n}</dd>`) && f.offsetHeight > 600)",
            arg=tokens,
            timeout=120_000,
        )
        took[tokens] = time.perf_counter() - start
    context.close()
    print(f"first load {loaded:.2f} s; look {took}")
    assert loaded <= 3.0
    assert took[200] <= 5.0


def test_what_a_question_about_a_token_costs(smollm2: tuple[Any, Any]) -> None:
    from foveate.ui.look import around

    desk, session = Desk(*smollm2, "smollm2"), Session()
    list(desk.run(session, look(desk, session, text_of(smollm2[1], 200), PLAIN, "", False)))
    start = time.perf_counter()
    list(desk.run(session, around(desk, session, 100)))
    seconds = time.perf_counter() - start
    print(f"around a token of 200: {seconds:.2f} s")
    assert seconds <= 5.0
