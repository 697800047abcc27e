"""Papers put into the store: known ones recognised, all or nothing, and text that stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from foveate.catalog import Paper, paper, papers
from foveate.catalog.add import add, put
from foveate.catalog.command import register
from foveate.catalog.database import Database, database
from foveate.catalog.entry import Entry
from foveate.catalog.remove import remove
from foveate.catalog.search import search
from foveate.errors import FoveateError

pytestmark = pytest.mark.usefixtures("words_only")


@pytest.fixture
def bring(fresh: Path, tmp_path: Path) -> Any:
    """Add rows, as JSON lines, to a store of this test alone."""

    def of(*rows: dict[str, Any], name: str = "mine.jsonl", **words: Any) -> Any:
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
        return add(path, **words)

    return of


def only(title: str) -> Paper:
    [found] = [row for row in papers() if row.title == title]
    return found


def test_new_papers_stand_behind_the_catalogue_with_their_fields(bring: Any) -> None:
    added = bring(
        {
            "title": "Über attention: of birds",
            "abstract": "What they see.",
            "date": "2024-12-18",
            "authors": ["J. Doe"],
            "comments": 4,
            "doi": "10.1000/x",
            "url": "https://a.b/c",
        }
    )
    assert added.to_dict() == {
        "file": "mine.jsonl",
        "format": "JSON",
        "new": 1,
        "completed": 0,
        "known": 0,
        "without_year": 0,
    }
    row = papers()[-1]
    assert (row.slug, row.name, row.title) == (
        "uber-attention-birds",
        "Über attention",
        "Über attention: of birds",
    )
    assert (row.year, row.date, row.comments, row.authors) == (2024, "2024-12-18", 4, ("J. Doe",))
    assert (row.doi, row.url, row.source) == ("10.1000/x", "https://a.b/c", "mine.jsonl")
    assert (row.area, row.tier, row.needs, row.does, row.stage) == ("", None, "", "", ())
    assert (row.status, row.summary, row.abstract) == ("catalogue only",) + ("What they see.",) * 2
    assert len(row.added) == 10 and paper(row.slug) == row
    assert json.loads(json.dumps(row.to_dict()))["authors"] == ["J. Doe"]


@pytest.mark.parametrize(
    "again",
    [
        {"title": "ATTENTION   of birds?"},
        {"title": "Now called otherwise", "doi": "https://doi.org/10.1000/X"},
        {"title": "And again", "arxiv": "arXiv:2403.12345v7"},
        {"title": "And again", "url": "http://arxiv.org/abs/2403.12345"},
    ],
)
def test_a_paper_is_known_by_title_doi_and_arxiv_identifier(bring: Any, again: Any) -> None:
    bring({"title": "Attention of Birds", "doi": "10.1000/x", "arxiv": "2403.12345", "year": 2020})
    added = bring({**again, "year": 1999, "abstract": "New."}, {**again}, name="other.jsonl")
    assert (added.new, added.completed, added.known) == (0, 1, 1)
    row = only("Attention of Birds")
    assert (row.year, row.abstract, row.source) == (2020, "New.", "mine.jsonl")
    assert len(papers()) == 309


def test_two_papers_of_one_title_are_two_if_arxiv_says_so(bring: Any) -> None:
    bring(
        {"title": "Attention", "arxiv": "2403.12345"},
        {"title": "Attention", "arxiv": "2403.54321"},
        {"title": "Attention", "doi": "10.1000/journal"},  # the first one's, most likely
    )
    rows = papers()[308:]
    assert [row.arxiv for row in rows] == ["2403.12345", "2403.54321"]
    assert len({row.slug for row in rows}) == 2 and rows[0].doi == "10.1000/journal"


def test_a_shipped_paper_is_completed_and_nothing_of_it_overwritten(bring: Any) -> None:
    before = paper("pointer-networks")
    bring({"title": "Pointer networks.", "year": 1900, "abstract": "A.", "authors": "5 authors"})
    after = paper("pointer-networks")
    assert (after.abstract, after.author_count) == ("A.", 5)
    assert (after.title, after.year, after.does, after.source, after.summary) == (
        before.title,
        before.year,
        before.does,
        "foveate",
        before.does,
    )


def test_the_count_of_comments_only_grows(bring: Any) -> None:
    for comments, now in ((None, None), (3, 3), (2, 3), (8, 8)):
        bring({"title": "Attention of Birds", "comments": comments})
        assert only("Attention of Birds").comments == now


def test_a_year_for_those_without_one(bring: Any) -> None:
    rows = ({"title": "With", "year": 2001}, {"title": "Without", "date": "Jan 21 2"})
    assert bring(*rows, dry_run=True).without_year == 1
    assert bring(*rows, year=2025).without_year == 0
    assert (only("With").year, only("Without").year, only("Without").comments) == (2001, 2025, 2)
    with pytest.raises(FoveateError, match="year='2025' must be a whole number"):
        bring(*rows, year="2025")


def test_a_dry_run_changes_nothing(bring: Any) -> None:
    added = bring({"title": "Attention of Birds"}, {"title": "Attention of birds"}, dry_run=True)
    assert (added.new, added.known) == (1, 1)
    assert len(papers()) == 308


def test_nothing_of_a_malformed_file_is_added(bring: Any, tmp_path: Path) -> None:
    rows = [json.dumps({"title": f"Attention of bird {n}"}) for n in range(100)]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join([*rows, '{"title": 7}', *rows]), "utf-8")
    with pytest.raises(FoveateError, match=r"bad\.jsonl, line 101: 'title' .* Nothing of this"):
        add(path)
    assert len(papers()) == 308


@pytest.mark.parametrize("path", ["there_is_none.bib", "."])
def test_a_file_that_cannot_be_read(fresh: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(FoveateError, match="cannot be read: "):
        add(tmp_path / path)


HOSTILE = [
    "'; DROP TABLE papers; --",
    'Robert"); DELETE FROM papers WHERE ("1"="1',
    "<script>alert(1)</script> & <img src=x onerror=alert(2)>",
    "[bold red]markup[/bold red] [/]",
    "{{ 7 * 7 }} %s %(x)s {0}",
    "NEAR(a b) OR * AND title:x ^",
    "\x1b[2J\x1b]0;owned\x07 a title",
]


def test_sql_html_and_markup_in_titles_stay_text(bring: Any, run: Any) -> None:
    bring(*({"title": title, "abstract": title, "authors": [title]} for title in HOSTILE))
    rows = papers()[308:]
    assert [row.title for row in rows[:6]] == HOSTILE[:6]
    assert "\x1b" not in rows[6].title and "\x07" not in rows[6].title
    html = rows._repr_html_()
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    shown = run("--limit", "400").stdout
    assert "\x1b" not in shown
    for row in rows:
        assert search(row.title, "words")[0].slug == row.slug
        assert " ".join(run(row.slug).stdout.split()).startswith(" ".join(row.title.split())[:40])
    assert len(papers()) == 308 + len(HOSTILE)


def test_titles_without_latin_letters_have_slugs(store: Database) -> None:
    with store.write() as db:
        for title in ("注意力机制", "注意力", "???", "the of and"):
            assert put(db, Entry(title), "x") == "new"
        slugs = [slug for (slug,) in db.execute("SELECT slug FROM papers WHERE NOT shipped")]
    assert len(set(slugs)) == 4 and all(slug.startswith("paper-") for slug in slugs)


def test_a_title_longer_than_any_is_refused(bring: Any) -> None:
    with pytest.raises(FoveateError, match="line 1: a title of 1,001 characters is none"):
        bring({"title": "x" * 1001})


def feed(path: Path, megabytes: float) -> int:
    """Write a feed of about so many megabytes; how many entries it has."""
    summary, count = "word " * 400, 0
    with path.open("w") as file:
        file.write('<feed xmlns="http://www.w3.org/2005/Atom">')
        while file.tell() < megabytes * 1e6:
            file.write(f"<entry><title>Paper {count}</title><summary>{summary}</summary></entry>\n")
            count += 1
        file.write("</feed>")
    return count


@pytest.mark.parametrize("megabytes", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_large_feeds(store: Database, tmp_path: Path, megabytes: int) -> None:
    count = feed(tmp_path / "feed.xml", megabytes)
    assert add(tmp_path / "feed.xml", store=store).new == count > 450 * megabytes


# --- the command


@pytest.fixture
def run() -> Any:
    app = typer.Typer()
    register(app)

    @app.command()
    def other() -> None: ...  # with one command typer would drop its name

    runner = CliRunner()
    return lambda *args: runner.invoke(app, ["papers", *map(str, args)], env={"COLUMNS": "200"})


def test_files_are_added_one_by_one_and_a_bad_one_is_told(
    run: Any, fresh: Path, tmp_path: Path
) -> None:
    good, bad, more = (tmp_path / name for name in ("a.bib", "b.bib", "c.ris"))
    good.write_text("@misc{a, title={Attention of birds}}")
    bad.write_text("@misc{b, title={Never closed}")
    more.write_text("TY  - JOUR\nTI  - Attention of bees\nPY  - 2020\nER  - \n")
    result = run("add", good, bad, more)
    assert result.exit_code == 2
    assert "a.bib (BibTeX): 1 new, 0 completed, 0 known\n" in result.stdout
    assert "without a year: 1; --year gives them one" in result.stdout
    assert "c.ris (RIS): 1 new" in result.stdout
    assert "b.bib, line 1: " in result.stderr and "Nothing of this file was added" in result.stderr
    assert len(papers()) == 310
    rows = json.loads(run("add", good, bad, "--json").stdout)
    assert rows[0]["known"] == 1 and "line 1" in rows[1]["error"]
    more.write_text("TY  - JOUR\nTI  - Attention of ants\nER  - \n")
    result = run("add", more, "--dry-run", "--year", 2020)
    assert result.exit_code == 0 and "would be 1 new" in result.stdout
    assert len(papers()) == 310


def test_a_dry_run_sees_the_files_before_it(run: Any, fresh: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.bib", "bad.bib", "b.bib", "c.bib")]
    files[0].write_text("@misc{a, title={Attention of birds}}")
    files[1].write_text("@misc{b, title={Attention of ants}}\n@misc{c, title={Never closed}")
    files[2].write_text("@misc{d, title={Attention of Birds}, year={2020}}")
    files[3].write_text("@misc{e, title={Attention of ants}}")
    rows = json.loads(run("add", *files, "--dry-run", "--json").stdout)
    assert len(papers()) == 308
    assert rows == json.loads(run("add", *files, "--json").stdout)
    assert [row.get("new") for row in rows] == [1, None, 0, 1], "nothing of the bad file counts"
    assert rows[2]["completed"] == 1 and len(papers()) == 310


def test_papers_of_ones_own_are_listed_and_removed(run: Any, bring: Any) -> None:
    assert run("--mine").exit_code == 1
    bring({"title": "Attention of birds"}, {"title": "Of bees"}, {"title": "Attention sinks, mine"})
    assert len(papers(mine=True)) == 3 and len(papers("sinks", mine=True)) == 1
    assert len(json.loads(run("--mine", "--json").stdout)) == 3
    for wrong, sentence in (("densediffusion", "is shipped with foveate"), ("nope", "no paper is")):
        refused = run("remove", "attention-birds", wrong)
        assert refused.exit_code == 2 and sentence in refused.stderr
        assert len(papers(mine=True)) == 3, "nothing was removed"
    assert run("remove", "attention-birds", "bees", "bees").exit_code == 0
    assert [row.title for row in papers(mine=True)] == ["Attention sinks, mine"]
    assert len(papers()) == 309 and papers("birds", mine=True) == []
    assert bring({"title": "Of bees"}).new == 1
    with pytest.raises(FoveateError, match="none was given"):
        remove()


def test_words_that_are_no_command_are_searched_for(run: Any) -> None:
    plain = run("pointer", "networks", "--json").stdout
    assert plain == run("search", "pointer", "networks", "--json").stdout
    assert json.loads(plain)[0]["slug"] == "pointer-networks"
    assert run("--family", "cache", "--json").stdout == run("--area", "cache", "--json").stdout
    assert "follow" in run("--help").stdout


def test_a_mistyped_command_with_a_file_is_no_search(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "good.bib"
    assert "did you mean" not in run("ad", file).stderr, "no file: words to search for"
    file.write_text("@misc{a, title={Attention of birds}}")
    for typo in ("ad", "addd", "ade", "dd"):
        result = run(typo, file)
        assert result.exit_code == 2 and f"did you mean `papers add {file}`?" in result.stderr
    for words in ("head", "a", "dad"):
        assert "did you mean" not in run(words, file).stderr


def test_making_vectors_without_an_encoder_says_what_to_install(run: Any) -> None:
    result = run("index")
    assert (result.exit_code, "foveate[search]" in result.stderr) == (2, True)


def test_the_users_store_is_not_the_one_of_these_tests(own_store: Path) -> None:
    assert database().path == own_store
