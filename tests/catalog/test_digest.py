"""Following and digests: what is new, how it is ranked, what is written."""

from __future__ import annotations

import datetime
import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from following import DAY, Clock, prepare, put
from foveate.catalog import digest as digest_module
from foveate.catalog.database import database
from foveate.catalog.digest import FORMULA, Item, clean, day_of, digest, score
from foveate.catalog.digest_pages import WRITERS, Issue, feed, html, markdown, text
from foveate.catalog.follow import follow, followers, follows, unfollow
from foveate.catalog.follow_command import register
from foveate.errors import FoveateError

SINCE = DAY.date() - datetime.timedelta(days=7)
NASTY = 'A <script>alert("1")</script> & [x](javascript:y) **b**\r\nBcc: eve@example.org\x00\u202e'
ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture(autouse=True)
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return prepare(tmp_path, monkeypatch)


# --- the formula


def test_the_formula_by_hand() -> None:
    assert score(1, 0, 0) == 1.0
    assert score(1, None, -3) == 1.0
    assert score(12, 0, 0) == pytest.approx(0.5)  # 11 / 22
    assert score(1, 0, 14) == pytest.approx(0.5)
    assert score(1, 147, 0) == pytest.approx(2.0, abs=1e-3)  # ln 148 = 4.997


@given(
    rank=st.integers(1, 50), comments=st.integers(0, 10_000), age=st.floats(0, 1000), more=st.data()
)
def test_better_fits_more_talk_and_less_age_rank_higher(
    rank: int, comments: int, age: float, more: Any
) -> None:
    step = more.draw(st.integers(1, 100))
    here = score(rank, comments, age)
    assert score(rank + step, comments, age) < here
    assert score(rank, comments + step, age) > here
    assert score(rank, comments, age + step) < here


def test_a_title_that_is_the_query_beats_a_popular_one_far_down() -> None:
    assert score(1, 0, 0) > score(30, 100, 0)


def test_the_docs_state_the_same_formula() -> None:
    words = (Path(__file__).parents[2] / "docs" / "following.md").read_text("utf-8")
    k, talk, half = digest_module.K, digest_module.TALK, digest_module.HALF_LIFE
    wanted = (
        f"{1 + k} / (rank + {k}) × (1 + ln(1 + comments) / {talk:g}) × 2^(−age / {half:g} days)"
    )
    assert wanted in words and f"place {digest_module.DEPTH}" in words


# --- what is new


def test_new_is_what_was_added_or_is_dated_since() -> None:
    old = (SINCE - datetime.timedelta(days=1)).isoformat()
    put("Zebra eviction one", added=old)
    two = put("Zebra eviction two", added=SINCE.isoformat())
    three = put("Zebra eviction three", added=old, date=SINCE.isoformat())
    found = {item.id for item in digest(["zebra eviction"], SINCE)}
    assert found == {two, three}


def test_what_foveate_brought_along_is_not_new_unless_a_later_version_brings_it() -> None:
    today = datetime.date.today()
    assert digest(["attention sink"], today, today=today) == []
    with database().write() as db:
        db.execute("UPDATE papers SET added = '2020-01-01' WHERE slug != 'zerotuning'")
    (found,) = digest(["zerotuning"], today, today=today)
    assert found.slug == "zerotuning"


def test_the_ranking_follows_the_formula() -> None:
    """Equal texts share a rank's neighbourhood; comments and age decide among them."""
    for title, values in {
        "Zebra eviction plain": {},
        "Zebra eviction famous": {"comments": 500},
        "Zebra eviction old": {"date": "2025-09-01"},
    }.items():
        put(title, **values)
    found = digest(["zebra eviction"], SINCE, today=DAY.date())
    assert [item.slug.split("-")[-1] for item in found] == ["famous", "plain", "old"]
    for item, rank in itertools.product(found, range(1, 51)):
        age = (DAY.date() - datetime.date.fromisoformat(item.date or "2026-03-10")).days
        if item.score == score(rank, item.comments, age):
            break
    else:
        pytest.fail("no rank explains the score")


def test_a_year_alone_counts_from_its_end() -> None:
    put("Zebra eviction", year=2026)
    put("Zebra eviction of yore", year=2025)
    found = digest(["zebra eviction"], SINCE, today=DAY.date())
    assert found[0].score == 1.0 and found[1].score < score(2, 0, 68)
    assert found[1].score == pytest.approx(score(2, 0, 69))


def test_several_queries_give_one_entry_for_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    put("Zebra eviction")
    put("Zebra stripes and eviction of caches")
    (first, *_) = digest(["eviction of caches stripes", "zebra eviction"], SINCE)
    both = digest(["zebra eviction", "stripes"], SINCE)
    assert len(both) == 2 and {item.query for item in both} == {"zebra eviction", "stripes"}
    assert first.score <= 1.0
    assert len(digest(["zebra eviction"], SINCE, limit=1)) == 1
    assert len(digest(["zebra eviction"], SINCE, skip={both[0].id})) == 1
    monkeypatch.setattr(digest_module, "DEPTH", 1)
    assert len(digest(["zebra eviction"], SINCE)) == 1


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "", None, "2026-03-11"])
def test_bad_days(text: Any) -> None:
    with pytest.raises(FoveateError, match="since="):
        day_of(text)


# --- following


def test_follow_list_unfollow(tmp_path: Path) -> None:
    one = follow("  kv  cache eviction ", "mail", "ann@example.org")
    assert one.query == "kv cache eviction" and one.created == "2026-03-10T08:00:00Z"
    assert follow("kv cache eviction", "mail", "Ann@Example.org").id == one.id, "said twice"
    two = follow("sinks", "mail", "ann@example.org")
    three = follow("sinks", "file", str(tmp_path / "p.md"))
    assert follows() == [one, two, three]
    assert [queries for _, queries in followers()] == [["kv cache eviction", "sinks"], ["sinks"]]
    assert unfollow(one.id) == [one] and unfollow("sinks") == [two, three]
    assert follows() == [] and followers() == []


@pytest.mark.parametrize(
    ("query", "by", "to", "sentence"),
    [
        ("", "mail", "a@b.org", "some words"),
        ("?!", "mail", "a@b.org", "some words"),
        ("x" * 1001, "mail", "a@b.org", "at most 1000"),
        (None, "mail", "a@b.org", "some words"),
        ("sinks", "pigeon", "a@b.org", "one of mail, atom, file"),
        ("sinks", "mail", "", "an address"),
        ("sinks", "mail", "ann", "no address"),
        ("sinks", "mail", "ann@", "no address"),
        ("sinks", "mail", "ann@b.org, eve@b.org", "no address"),
        ("sinks", "mail", "ann@b.org\nBcc: eve@b.org", "no address"),
        ("sinks", "mail", "<ann@b.org>", "no address"),
        ("sinks", "atom", "papers.md", ".xml or .atom"),
        ("sinks", "file", "papers.pdf", ".md or .html"),
        ("sinks", "file", "/nowhere/at/all/p.md", "does not exist"),
    ],
)
def test_bad_follows(query: Any, by: str, to: str, sentence: str) -> None:
    with pytest.raises(FoveateError, match=sentence):
        follow(query, by, to)
    assert follows() == []


def test_a_file_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    mine = tmp_path / "notes.md"
    mine.write_text("my notes")
    with pytest.raises(FoveateError, match="no digest of foveate's"):
        follow("sinks", "file", str(mine))
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(FoveateError, match="is a folder"):
        follow("sinks", "file", str(tmp_path / "folder.md"))
    for writer in (markdown, html):
        mine.write_text(writer([]))
        assert follow("sinks", "file", str(mine)).target == str(mine)


def test_unknown_unfollows() -> None:
    follow("sinks", "mail", "ann@example.org")
    for what in (99, "nothing", ""):
        with pytest.raises(FoveateError, match="nothing is followed"):
            unfollow(what)


# --- what is written


def nasty() -> Issue:
    put(NASTY, does=NASTY, authors=json.dumps([NASTY]), url="javascript:alert(1)", comments=3)
    items = digest(["script alert"], SINCE)
    assert len(items) == 1 and items[0].url is None
    return Issue(DAY, items)


def test_nothing_of_a_paper_is_interpreted() -> None:
    issue = nasty()
    for write in WRITERS.values():
        words = write([issue])
        assert "\u202e" not in words and "\x00" not in words and "\r" not in words
    assert "<script" not in html([issue]) and "<script" not in markdown([issue])
    assert "[x]" not in markdown([issue]) and "**b**" not in markdown([issue])
    assert "\nBcc" not in text([issue]) and "javascript:alert(1)" not in html([issue])
    entry = ET.fromstring(feed([issue]).encode()).find(f"{ATOM}entry")
    assert entry is not None and "<script>" in (entry.findtext(f"{ATOM}title") or "")


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://example.org/a?b=c&d", "https://example.org/a?b=c&d"),
        ('https://example.org/"><b>', "https://example.org/%22%3E%3Cb%3E"),
        ("https://example.org/) [x", "https://example.org/)%20[x"),
        ("data:text/html,x", None),
        ("//example.org", None),
        ("http://[broken", None),
        (None, None),
    ],
)
def test_links_are_http_and_stay_within_their_marks(url: Any, link: Any) -> None:
    put("Zebra eviction", url=url)
    (item,) = digest(["zebra eviction"], SINCE)
    assert item.url == link
    put("Yak eviction", url=url, arxiv="2403.12345", doi="10.1000/x y")
    (item,) = digest(["yak"], SINCE)
    assert item.url == (link or "https://arxiv.org/abs/2403.12345")


def test_every_form_states_the_formula_and_what_there_is() -> None:
    put("Zebra eviction", date="2026-03-09", comments=7, does="It evicts.", organisation="Zoo")
    issue = Issue(DAY, digest(["zebra eviction"], SINCE))
    for ending, write in WRITERS.items():
        words = " ".join(write([issue]).replace("&#124;", "|").split())
        for part in ("Zebra eviction", "2026-03-09", "7 comments", "It evicts.", "Zoo"):
            assert part in words, (ending, part)
        assert FORMULA[:30] in words and "2026-03-10" in words
        assert write([]), "an empty one is fine"


def test_the_feed_is_valid_atom() -> None:
    """RFC 4287: what a feed and an entry must have, and dates and ids as they must be."""
    for title in ("Zebra eviction", "Yak eviction"):
        put(title, url="https://example.org/x")
    first = Issue(DAY, digest(["zebra", "yak"], SINCE))
    later = Issue(DAY + datetime.timedelta(days=1), [])
    root = ET.fromstring(feed([later, first], "here").encode())
    assert root.tag == f"{ATOM}feed"
    for tag in ("id", "title", "updated"):
        assert len(root.findall(f"{ATOM}{tag}")) == 1
    assert root.findtext(f"{ATOM}author/{ATOM}name")
    assert root.findtext(f"{ATOM}updated") == "2026-03-11T08:00:00Z"
    entries = root.findall(f"{ATOM}entry")
    ids = [entry.findtext(f"{ATOM}id") for entry in entries]
    assert len(set(ids)) == 2 and all((one or "").startswith("urn:uuid:") for one in ids)
    for entry in entries:
        for tag in ("id", "title", "updated"):
            assert len(entry.findall(f"{ATOM}{tag}")) == 1
        datetime.datetime.fromisoformat(entry.findtext(f"{ATOM}updated") or "")
        link = entry.find(f"{ATOM}link")
        assert link is not None and link.attrib == {"href": "https://example.org/x"}
    again = ET.fromstring(feed([first], "here").encode())
    assert [one.findtext(f"{ATOM}id") for one in again.findall(f"{ATOM}entry")] == ids
    other = ET.fromstring(feed([first], "there").encode())
    assert not {one.findtext(f"{ATOM}id") for one in other.findall(f"{ATOM}entry")} & set(ids)


@given(st.text())
def test_any_text_makes_a_feed_that_can_be_read(words: str) -> None:
    item = Item(1, "x", clean(words), clean(words), "", None, None, clean(words), "q", 1.0)
    root = ET.fromstring(feed([Issue(DAY, [item])]).encode())
    assert " ".join((root.findtext(f"{ATOM}entry/{ATOM}title") or "").split()) == clean(words)
    assert clean(clean(words)) == clean(words) and "\n" not in clean(words)


# --- the commands


@pytest.fixture
def run() -> Any:
    app = typer.Typer()
    register(app)

    def call(*words: str) -> Any:
        return CliRunner().invoke(app, list(words))

    return call


def test_follow_and_unfollow_by_command(run: Any, tmp_path: Path) -> None:
    assert "nothing is followed yet" in run("follow").output
    done = run("follow", "kv cache", "eviction", "--by", "file", "--to", str(tmp_path / "p.md"))
    assert done.exit_code == 0 and "'kv cache eviction'" in done.output
    (listed,) = json.loads(run("follow", "--json").output)
    assert listed["query"] == "kv cache eviction" and listed["by"] == "file"
    assert "forgotten" in run("unfollow", "kv cache", "eviction").output
    assert "nothing is followed yet" in run("follow").output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["follow", "sinks"], "--by mail"),
        (["follow", "--by", "mail"], "what to follow"),
        (["digest"], "nothing is followed yet"),
        (["digest", "--since", "soon"], "is no day"),
    ],
)
def test_bad_commands(run: Any, words: list[str], sentence: str) -> None:
    done = run(*words)
    assert isinstance(done.exception, FoveateError) and sentence in str(done.exception)


@pytest.mark.parametrize("ending", WRITERS)
def test_a_digest_into_a_file_records_nothing(run: Any, tmp_path: Path, ending: str) -> None:
    put("Zebra eviction")
    follow("zebra eviction", "mail", "ann@example.org")
    target = tmp_path / f"digest{ending}"
    for _ in range(2):
        assert run("digest", "--out", str(target)).exit_code == 0
        assert "Zebra eviction" in target.read_text("utf-8")
        target.unlink()
    assert run("digest", "--out", str(target), "--dry-run").exit_code == 0 and not target.exists()
    bad = run("digest", "--out", str(tmp_path / "digest.pdf"))
    assert isinstance(bad.exception, FoveateError) and ".atom" in str(bad.exception)
    lost = run("digest", "--out", str(tmp_path / "no" / f"digest{ending}"))
    assert isinstance(lost.exception, FoveateError) and "cannot be written" in str(lost.exception)
