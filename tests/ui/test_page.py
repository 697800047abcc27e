"""The page in a real browser: each tab, two visitors at once, by keyboard, and nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import slowed

WAIT = 60_000  # milliseconds, of a machine that is busy with other things
HOSTILE = '<img src="http://example.org/x.png" onerror="document.title=1"> is a tag.'


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open the page as another visitor; what it asked others for must stay empty."""
    contexts, outside, broken = [], [], []

    def open_(width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        local = (address, "data:", "blob:", "about:")
        page.on("request", lambda r: r.url.startswith(local) or outside.append(r.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(address)
        page.locator("#look-go").wait_for()
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not outside, "the page asked another machine for something"
    assert not broken, "a script of the page failed"


def tokens(page: Any, frame: str = "#look-report") -> Any:
    found = page.frame_locator(f"{frame} iframe").locator("#tokens span")
    found.first.wait_for()
    return found


def write(page: Any, where: str, text: str) -> None:
    page.locator(f"{where} textarea, {where} input").first.fill(text)


def look(page: Any, text: str, marks: str = "") -> None:
    page.locator("#look-form").get_by_text("plain text").click()
    write(page, "#look-text", text)
    write(page, "#look-marks", marks)
    page.locator("#look-go").click()


def test_look_colours_the_tokens_and_answers_about_one(visit: Callable[..., Any]) -> None:
    page = visit()
    look(page, "The red cat sat on the mat.", "animal = red cat")
    shown = tokens(page)
    assert "".join(shown.all_inner_texts()) == "The red cat sat on the mat."
    assert len(set(shown.evaluate_all("all => all.map((x) => x.style.background)"))) > 2
    report = page.frame_locator("#look-report iframe")
    assert report.locator("canvas").count() >= 4, "layer × head maps"
    assert "animal" in report.locator("tbody").first.inner_text()
    shown.nth(2).hover()
    assert "token 2" in report.locator("#tip").inner_text()
    shown.nth(2).click()
    report.locator("#map option", has_text="What token 2 (cat) looked at").wait_for(
        state="attached"
    )
    report.locator("#map").select_option(label="Who looked at token 2 (cat)")
    before = shown.evaluate_all("all => all.slice(0, 2).map((x) => x.style.background)")
    assert len(set(before)) == 1, "nobody before it can have looked at it"
    assert page.evaluate("document.querySelector('iframe.fv-frame').offsetHeight") > 600


def test_html_in_a_prompt_is_shown_as_text(visit: Callable[..., Any]) -> None:
    page = visit()
    look(page, HOSTILE, f"tag = {HOSTILE[:10]}")
    assert "".join(tokens(page).all_inner_texts()) == HOSTILE
    assert page.frame_locator("#look-report iframe").locator("img").count() == 0
    write(page, "#look-marks", "<img>")  # no NAME = text: the sentence quotes it
    page.locator("#look-go").click()
    page.locator("#look-status .bad").wait_for()
    assert page.locator("#look-status img").count() == 0
    assert "<img" in page.locator("#look-status").inner_text()
    assert page.title() == "foveate"


def test_bad_input_says_what_to_do(visit: Callable[..., Any]) -> None:
    page = visit()
    look(page, "The cat sat.", "animal = cat")
    tokens(page)
    write(page, "#look-marks", "animal = dog")
    page.locator("#look-go").click()
    bad = page.locator("#look-status [role=alert]")
    bad.wait_for()
    assert "'dog' does not stand in the prompt" in bad.inner_text()
    assert page.locator("#look-report").inner_text() == "", "what is from before stays"
    assert page.locator("#look-report iframe").count() == 0
    write(page, "#look-marks", "")
    write(page, "#look-text", "word " * 5000)
    page.locator("#look-go").click()
    page.locator("#look-status", has_text="25,000 characters; the page takes 20,000").wait_for()
    write(page, "#look-text", "The cat sat.")
    page.locator("#look-go").click()
    tokens(page)
    assert bad.count() == 0, "the sentence stays after it was mended"


def test_failed_steering_leaves_no_answers_to_another_question(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_role("tab", name="Steer").click()
    page.locator("#steer-go").click()
    tokens(page, "#steer-report")
    assert page.locator("#steer-answers figure").count() == 3
    write(page, "#steer-layers", "3-99")
    page.locator("#steer-go").click()
    page.locator("#steer-status .bad", has_text="Layers 0–3 are there; 99 was given.").wait_for()
    assert page.locator("#steer-answers figure, #steer-report iframe").count() == 0
    assert page.locator("#steer-answers").inner_text() == ""


def test_text_selected_in_the_prompt_becomes_a_piece(visit: Callable[..., Any]) -> None:
    page = visit()
    write(page, "#look-marks", "")
    page.locator("#look-mark").click()
    page.locator("#look-status .bad", has_text="Select some text").wait_for()
    area = page.locator("#look-text textarea")
    area.evaluate("(x) => { x.focus(); x.setSelectionRange(0, 8); }")
    page.locator("#look-mark").click()
    page.wait_for_function(
        "document.querySelector('#look-marks textarea').value === 'piece 1 = The mill'"
    )


def test_steer_shows_both_answers_and_their_times(visit: Callable[..., Any]) -> None:
    page = visit(390, "dark")
    page.get_by_role("tab", name="Steer").click()
    write(page, "#steer-text", "The red cat sat on the mat.")
    area = page.locator("#steer-text textarea")
    area.evaluate("(x) => { x.focus(); x.setSelectionRange(4, 11); }")
    page.wait_for_function("document.querySelector('#steer-piece textarea').value === 'red cat'")
    page.locator("#steer-way input").click()
    page.get_by_role("option", name="Suppress").click()
    page.locator("#steer-strength", has_text="times less attention").wait_for()
    page.locator("#steer-go").click()
    tokens(page, "#steer-report")
    heads = page.locator("#steer-answers figcaption").all_inner_texts()
    assert heads == ["Without", "With Suppress, 5 times less attention", "Did the piece matter?"]
    feet = page.locator("#steer-answers small").all_inner_texts()
    assert all(re.fullmatch(r"\d+ tokens in \d+\.\d\d s", foot) for foot in feet[:2])
    assert "nats" in feet[2]


def test_stop_stops(visit: Callable[..., Any], tiny: tuple[Any, Any]) -> None:
    page = visit()
    page.get_by_role("tab", name="Steer").click()
    with slowed(tiny[0], 0.1) as forwards:
        page.locator("#steer-go").click()
        page.locator("#steer-status", has_text=re.compile(r"[1-9]\d? %")).wait_for()
        page.locator("#steer-stop").click()
        page.locator("#steer-status", has_text="Stopped. The model is as it was.").wait_for()
        assert len(forwards) < 40, "two answers of 24 tokens were not cut short"


def test_two_visitors_at_once_see_only_their_own(
    visit: Callable[..., Any], tiny: tuple[Any, Any]
) -> None:
    texts = ["The red cat sat on the mat.", "The blue whales swim in the cold sea."]
    pages = [visit(), visit()]
    with slowed(tiny[0], 0.15):
        for page, text in zip(pages, texts, strict=True):
            look(page, text)
        for page, text in zip(pages, texts, strict=True):
            assert "".join(tokens(page).all_inner_texts()) == text
        # the question about a token goes to the prompt of whoever asks
        for page in pages:
            tokens(page).nth(1).click()
        for page, word in zip(pages, ("red", "blue"), strict=True):
            option = page.frame_locator("#look-report iframe").locator("#map option")
            option.filter(has_text=f"What token 1 ({word}) looked at").wait_for(state="attached")


def test_a_visitor_who_leaves_stops_the_work(
    visit: Callable[..., Any], tiny: tuple[Any, Any]
) -> None:
    page = visit()
    page.get_by_role("tab", name="Steer").click()
    with slowed(tiny[0], 0.1) as forwards:
        page.locator("#steer-go").click()
        page.locator("#steer-status", has_text=re.compile(r"[1-9]\d? %")).wait_for()
        page.close()
        other = visit()
        look(other, "The red cat.")
        tokens(other)
        assert len(forwards) < 60


def test_compare_draws_a_table_and_a_plot(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-tasks").get_by_text("Distractors").click()
    page.locator("#compare-go").click()
    page.locator("#compare-status .bad", has_text="0 tasks were chosen").wait_for()
    page.locator("#compare-tasks").get_by_text("Coloured objects").click()
    page.locator("#compare-go").click()
    page.locator("#compare-table .fv-plot").wait_for()
    assert page.locator("#compare-table tbody tr").count() == 2
    assert page.locator("#compare-table .row .name").all_inner_texts() == [
        "dense", "Emphasize evidence × 5",
    ]  # fmt: skip


def test_papers_are_found_read_and_tried(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_role("tab", name="Papers").click()
    write(page, "#papers-words", "zerotuning")
    page.keyboard.press("Enter")
    page.locator("#papers-status", has_text=re.compile(r"papers\.( Note: .+)?")).wait_for()
    page.locator("#papers-rows input").first.check()
    card = page.frame_locator("#papers-card iframe")
    card.get_by_role("heading", name="ZeroTuning").first.wait_for()
    page.locator("#papers-try").click()
    page.locator("#steer-strength", has_text="times the first token").wait_for()
    assert page.locator("#steer-way input").input_value() == "ZeroTuning"


def test_a_chosen_card_is_scrolled_to_and_fits_a_narrow_screen(visit: Callable[..., Any]) -> None:
    page = visit(390)
    page.get_by_role("tab", name="Papers").click()
    page.locator("#papers-go").click()
    page.locator("#papers-status .bad", has_text="Say in a few words").wait_for()
    write(page, "#papers-words", "zerotuning")
    page.locator("#papers-go").click()
    page.locator("#papers-rows input").first.check()
    card = page.frame_locator("#papers-card iframe")
    figure = card.locator(".plot svg")
    figure.wait_for()
    page.wait_for_function(
        "(() => { const top = document.querySelector('#papers-read').getBoundingClientRect().top; "
        "return top >= -1 && top < innerHeight / 2; })()"
    )
    wide = figure.evaluate("(x) => x.ownerDocument.documentElement.clientWidth")
    for mark in ("circle >> nth=0", "circle >> nth=1", "line[stroke-width='7']"):
        box = figure.locator(mark).evaluate("(x) => x.getBoundingClientRect().toJSON()")
        assert box["left"] >= 0 and box["right"] <= wide, f"{mark} is cut off"
    assert figure.evaluate("(x) => x.ownerDocument.documentElement.scrollWidth") <= wide
    page.locator("#papers-words").scroll_into_view_if_needed()
    write(page, "#papers-words", "")
    page.locator("#papers-go").click()
    page.locator("#papers-status .bad").wait_for()
    assert page.locator("#papers-card iframe, #papers-rows input").count() == 0


CONTROLS = {
    "Look": ["look-text", "look-form", "look-marks", "look-mark", "look-ablation", "look-go",
             "look-stop"],
    "Steer": ["steer-text", "steer-form", "steer-piece", "steer-way", "steer-strength",
              "steer-go", "steer-stop"],
    "Compare": ["compare-methods", "compare-tasks", "compare-go", "compare-stop"],
    "Papers": ["papers-words", "papers-go"],
}  # fmt: skip


def test_every_control_is_reached_by_the_tab_key(visit: Callable[..., Any]) -> None:
    page = visit()
    for tab, wanted in CONTROLS.items():
        page.get_by_role("tab", name=tab).focus()
        page.keyboard.press("Enter")
        page.locator(f"#{wanted[0]}").wait_for()
        seen: list[str] = []
        for _ in range(45):
            page.keyboard.press("Tab")
            seen += page.evaluate(
                "(() => { const ids = []; for (let x = document.activeElement; x; "
                "x = x.parentElement) if (x.id) ids.push(x.id); return ids; })()"
            )
        order = [one for one in dict.fromkeys(seen) if one in wanted]
        assert order == wanted, f"{tab}: {order}"


def test_tokens_are_read_and_chosen_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit()
    look(page, "The red cat sat on the mat.")
    tokens(page)
    report = page.frame_locator("#look-report iframe")
    report.locator("#fair, #sink").first.focus()
    for _ in range(3):
        if report.locator("#tokens:focus").count():
            break
        page.keyboard.press("Tab")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "token 3" in report.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    report.locator("#map option", has_text="What token 3 (sat)").wait_for(state="attached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(visit: Callable[..., Any], scheme: str) -> None:
    """No sideways scrolling; text and ground at least 4.5 : 1 (WCAG AA)."""
    page = visit(1280, scheme)
    poor: dict[str, list[str]] = {}
    for tab in CONTROLS:
        page.get_by_role("tab", name=tab).click()
        page.locator(f"#{CONTROLS[tab][0]}").wait_for()
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        poor[tab] = page.evaluate(CONTRAST)
    assert not any(poor.values()), poor


# every visible text of the page against the first ground behind it that is not transparent
CONTRAST = """() => {
  const rgb = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (x) => {
    for (; x; x = x.parentElement) {
      const c = rgb(getComputedStyle(x).backgroundColor);
      if (c.length === 3 || c[3] > 0.9) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const x of document.querySelectorAll(".gradio-container *")) {
    const own = [...x.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim());
    const skipped = x.disabled || x.closest("iframe, svg, style, script");
    if (!own.join("") || skipped || !x.checkVisibility()) continue;
    const both = [light(rgb(getComputedStyle(x).color)), light(ground(x))];
    const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (ratio < 4.5) poor.push(`${own.join("").slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
