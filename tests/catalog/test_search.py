"""Search: by words, by meaning and by both; with and without the sentence encoder."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from foveate.catalog import papers, search, status, store, vectors
from foveate.catalog.add import put
from foveate.catalog.database import Database, database
from foveate.catalog.encoder import WIDTH, Encoder, encoder
from foveate.catalog.entry import Entry
from foveate.errors import FoveateError

HERE = Path(__file__).parent
QUESTIONS = json.loads((HERE / "questions.json").read_text("utf-8"))
LISTS = json.loads((HERE / "lists.json").read_text("utf-8"))
needs_encoder = pytest.mark.skipif(encoder() is None, reason="needs the extra 'search'")


class Animals:
    """An encoder that knows animals by their kind, and letters of anything else by chance."""

    fingerprint = "animals"
    kinds = {"cat": 0, "lion": 0, "tiger": 0, "sparrow": 1, "eagle": 1, "bird": 1}

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        out = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in zip(out, texts, strict=True):
            for word in re.findall("[a-z]+", text.lower()):
                row[self.kinds.get(word, 2 + sum(map(ord, word)) % (WIDTH - 2))] += 1
            row /= np.linalg.norm(row)
        return out


@pytest.fixture
def animals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Database:
    """A store of four papers only, and an encoder that knows what they mean."""
    found = Database(tmp_path / "animals.sqlite")
    with found.write() as db:
        db.execute("DELETE FROM papers")
        for title in ("The lion", "A sparrow", "An eagle, an eagle", "Stones"):
            put(db, Entry(title), "zoo")
    coder = Animals()
    monkeypatch.setattr(search, "encoder", lambda: coder)
    return found


def titles(found: Database, words: str, how: str = "both", **more: Any) -> list[str]:
    hits = search.search(words, how, store=found, **more)
    with found.read() as db:
        named = dict(db.execute("SELECT slug, title FROM papers").fetchall())
    return [named[hit.slug] for hit in hits]


# --- by words


def test_papers_that_have_more_of_the_words_come_first(store: Database) -> None:
    with store.write() as db:
        db.execute("DELETE FROM papers")
        for title in ("sinks and sinks and sinks", "heads", "sinks and heads"):
            put(db, Entry(title), "x")
    assert titles(store, "sink head", "words")[0] == "sinks and heads"
    assert len(titles(store, "sink head", "words")) == 3


def test_a_match_in_the_title_counts_more(store: Database) -> None:
    with store.write() as db:
        db.execute("DELETE FROM papers")
        put(db, Entry("Other things here", abstract="Of quokkas"), "x")
        put(db, Entry("Quokkas in here", abstract="Of things"), "x")
    assert titles(store, "quokka", "words") == ["Quokkas in here", "Other things here"]


def test_among_keeps_to_the_given_papers(animals: Database) -> None:
    with animals.read() as db:
        ids = [paper for (paper,) in db.execute("SELECT id FROM papers")]
    for how in search.WAYS:
        assert set(titles(animals, "eagle", how, among=ids[:2])) <= {"The lion", "A sparrow"}
        assert titles(animals, "eagle", how, among=[]) == []


# --- by meaning, and both


def test_what_means_the_like_is_found_without_its_words(animals: Database) -> None:
    assert titles(animals, "tiger", "words") == []
    assert titles(animals, "tiger", "meaning") == ["The lion"]
    assert titles(animals, "tiger") == ["The lion"]
    assert set(titles(animals, "bird")) == {"A sparrow", "An eagle, an eagle"}


def test_the_fusion_adds_the_reciprocals_of_the_ranks(animals: Database) -> None:
    hits = search.search("sparrow bird", store=animals)
    ranks = {
        how: [hit.slug for hit in search.search("sparrow bird", how, store=animals)]
        for how in ("words", "meaning")
    }
    assert set(ranks["meaning"]) > set(ranks["words"]) == {"sparrow"}
    for hit in hits:
        wanted = sum(
            1 / (60 + 1 + ranking.index(hit.slug))
            for ranking in ranks.values()
            if hit.slug in ranking
        )
        assert hit.score == pytest.approx(wanted)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_words_that_occur_nowhere_and_mean_nothing_find_nothing(animals: Database) -> None:
    assert titles(animals, "qqqzzz") == []


def test_vectors_follow_every_change_and_are_made_once(animals: Database) -> None:
    coder: Any = search.encoder()
    assert titles(animals, "tiger") == ["The lion"]
    made = len(coder.texts)
    assert titles(animals, "tiger") == ["The lion"]
    assert len(coder.texts) == made + 1  # the query alone
    with animals.write() as db:
        db.execute("UPDATE papers SET title = 'The bird' WHERE title = 'The lion'")
        put(db, Entry("A cat"), "zoo")
        db.execute("UPDATE papers SET comments = 3")
    assert vectors.missing(animals, coder) == 2
    assert titles(animals, "tiger") == ["A cat"]
    assert "The bird" in titles(animals, "sparrow")
    with animals.write() as db:
        db.execute("DELETE FROM papers WHERE title = 'A cat'")
    assert titles(animals, "tiger") == []


def test_many_missing_vectors_are_left_to_the_command_and_told(animals: Database) -> None:
    with animals.write() as db:
        for n in range(100):
            put(db, Entry(f"Tiger number {n}"), "zoo")
    assert titles(animals, "lion") == ["The lion"]
    assert search.notes(animals) == [
        "104 papers have no vector yet and are found by words only; "
        "`foveate papers index` makes them"
    ]
    told: list[tuple[int, int]] = []
    coder: Any = search.encoder()
    assert vectors.compute(animals, coder, lambda *done: told.append(done)) == 104
    assert told == [(64, 104), (104, 104)]
    assert search.notes(animals) == []
    assert len(titles(animals, "lion")) == 101
    assert vectors.compute(animals, coder) == 0


def test_vectors_of_another_encoder_are_not_used(animals: Database) -> None:
    coder: Any = search.encoder()
    vectors.compute(animals, coder)
    coder.fingerprint = "other animals"
    assert vectors.missing(animals, coder) == 4
    assert titles(animals, "tiger") == ["The lion"]


# --- off topic


@pytest.mark.parametrize("how", ["words", pytest.param("both", marks=needs_encoder)])
@pytest.mark.parametrize("query", ["lost in the middle", "human attention"])
def test_papers_that_are_off_topic_come_last(query: str, how: str) -> None:
    aside = [hit.slug in status.off_topic() for hit in search.search(query, how)]
    assert 0 < sum(aside) < len(aside) and aside == sorted(aside)


@pytest.mark.parametrize("slug", sorted(status.off_topic()))
def test_a_paper_that_is_named_comes_first_even_if_off_topic(slug: str) -> None:
    with database().read() as db:
        row = db.execute("SELECT title, name FROM papers WHERE slug = ?", (slug,)).fetchone()
    for words in (slug, row["title"], row["name"]):
        assert search.search(words, "words")[0].slug == slug


# --- without the encoder


def test_without_the_encoder_words_alone_are_searched_and_it_says_so_once(
    words_only: None,
) -> None:
    store._say_once.cache_clear()
    with pytest.warns(UserWarning, match=r"by words only: .* pip install 'foveate\[search\]'"):
        assert papers("pointer networks", limit=1)[0].slug == "pointer-networks"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        papers("attention sinks")
    assert search.search("sinks") == search.search("sinks", "words")
    with pytest.raises(FoveateError, match=r"foveate\[search\]"):
        search.search("sinks", "meaning")


def test_threads_search_while_another_writes(animals: Database) -> None:
    def ask(n: int) -> list[str]:
        if n % 4 == 0:
            with animals.write() as db:
                put(db, Entry(f"Lion number {n}"), "zoo")
        return titles(animals, "lion", "words")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(40)))
    assert all("The lion" in answer for answer in found)
    assert len(titles(animals, "lion", "words")) == 11


# --- what is asked


@pytest.mark.parametrize("words", ["", "  \n", "?!…", "'\"; --"])
def test_a_query_without_a_word_is_refused(words: str) -> None:
    with pytest.raises(FoveateError, match="holds no letter and no digit"):
        search.search(words)


def test_a_way_that_is_none_and_words_that_are_no_text() -> None:
    with pytest.raises(FoveateError, match="how='best' is unknown; it is one of both, words, mean"):
        search.search("sinks", "best")
    with pytest.raises(FoveateError, match="words=7 must be text"):
        search.search(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        "attention sinks " * 625,
        "x" * 10_000,
        "?" * 9_995 + " sink",
        " ".join(map(str, range(2222))),
    ],
)
def test_ten_thousand_characters_are_searched(words: str) -> None:
    assert 9_900 < len(words) < 10_100
    found = search.search(words, "words")
    assert bool(found) == ("x" * 9 not in words)
    with pytest.raises(FoveateError) as caught:
        search.search("?" * 10_000)
    assert len(str(caught.value)) < 250


# --- the data of the figures


def test_questions_and_lists_name_papers_of_the_catalogue() -> None:
    slugs = {row.slug for row in papers()}
    assert len(QUESTIONS) == 40 and len(LISTS) == 5
    for question in QUESTIONS:
        assert question["answers"] and set(question["answers"]) <= slugs
    for one in LISTS:
        assert one["query"] and len(one["slugs"]) == len(set(one["slugs"])) > 30
        assert set(one["slugs"]) <= slugs


# --- the encoder itself


@needs_encoder
def test_the_shipped_vectors_are_those_of_this_encoder_and_catalogue(store: Database) -> None:
    coder = encoder()
    assert coder is not None
    with store.read():
        pass
    assert vectors.missing(store, coder) == 0  # else run scripts/build_vectors.py
    with store.read() as db:
        row = db.execute("SELECT * FROM papers JOIN vectors ON paper = papers.id").fetchone()
    mean = coder.encode([row["title"], row["does"], row["claim"]]).mean(0)
    shipped = np.frombuffer(row["vector"], np.float16).astype(np.float32)
    assert shipped @ mean / np.linalg.norm(mean) == pytest.approx(1, abs=1e-3)


@needs_encoder
def test_texts_are_encoded_each_on_its_own() -> None:
    coder = encoder()
    assert coder is not None
    texts = ["a cat", "a long text about many things " * 20, "", "a kitten", "a tax return"]
    together = coder.encode(texts)
    assert together.shape == (5, WIDTH) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(coder.encode([text])[0], row, atol=1e-5)
    assert together[0] @ together[3] > 0.5 > together[0] @ together[4]


@needs_encoder
def test_the_fusion_answers_the_questions() -> None:
    found = [
        len({hit.slug for hit in search.search(q["question"])[:5]} & set(q["answers"]))
        / len(q["answers"])
        for q in QUESTIONS
    ]
    assert sum(found) / len(found) >= 0.85


@needs_encoder
@pytest.mark.parametrize("words", ["qqqzzz", "wjdhf", "asdf jkl"])
def test_random_letters_find_nothing(words: str) -> None:
    assert papers(words) == []


@needs_encoder
@pytest.mark.bench
def test_a_search_answers_within_three_tenths_of_a_second() -> None:
    import time

    search.search("warm up")
    start = time.perf_counter()
    papers("reduce hallucination of vision models without training", limit=20)
    assert time.perf_counter() - start < 0.3


def test_an_encoder_without_its_files_is_not_quietly_another(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _ = Encoder(tmp_path).fingerprint


def test_the_users_store_is_not_the_one_of_these_tests(own_store: Path) -> None:
    assert database().path == own_store
