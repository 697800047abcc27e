"""Papers: the catalogue's own search, and its cards shut in a frame."""

from __future__ import annotations

import html
from concurrent.futures import ThreadPoolExecutor

import pytest

from foveate.catalog import papers as catalogue
from foveate.errors import FoveateError
from foveate.ui.papers import NEEDS, SHOWN, card, found

pytestmark = pytest.mark.filterwarnings("ignore:searching by words only:UserWarning")


def test_a_search_gives_the_catalogues_order() -> None:
    pairs = found("attention sinks", "any", "any", "")
    wanted = catalogue("attention sinks", limit=SHOWN)
    assert [slug for _, slug in pairs] == [row.slug for row in wanted]
    assert all(row.title in label for (label, _), row in zip(pairs, wanted, strict=True))


def test_filters() -> None:
    slugs = [slug for _, slug in found("", "works", "causal-lm", "2024")]
    wanted = catalogue(status="works", needs="causal-lm", year=2024, limit=SHOWN)
    assert slugs and slugs == [row.slug for row in wanted]


def test_the_kinds_offered_are_the_catalogues() -> None:
    assert set(NEEDS) == {row.needs for row in catalogue()}


@pytest.mark.parametrize(
    ("words", "year", "sentence"),
    [
        ("x" * 10_000, "", "10,000"),
        ("sinks", "20x4", "four digits"),
        ("  ", "", "Say in a few words"),
        ("", " ", "Say in a few words"),
    ],
)
def test_bad_input(words: str, year: str, sentence: str) -> None:
    with pytest.raises(FoveateError, match=sentence):
        found(words, "any", "any", year)


@pytest.mark.parametrize("words", ["'; DROP TABLE papers; --", "<script>alert(1)</script>", '"*"'])
def test_queries_are_words_and_nothing_else(words: str) -> None:
    try:
        found(words, "any", "any", "")
    except FoveateError:
        pass
    assert found("attention", "any", "any", "")


def test_several_visitors_search_at_once() -> None:
    """gradio answers each in a thread of its own."""
    words = ["attention sinks", "vision hallucination", "kv cache", "diffusion guidance"] * 3
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda one: found(one, "any", "any", ""), words))
    assert got == [found(one, "any", "any", "") for one in words]


def test_a_card_is_shut_in() -> None:
    shown = card("zerotuning")
    assert shown.startswith('<iframe class="fv-frame"') and "allow-same-origin" not in shown
    assert "ZeroTuning" in html.unescape(shown)
