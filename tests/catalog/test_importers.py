"""Files of papers in every format: what is read of them, and what is said of bad ones."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveate.catalog.entry import Entry, arxiv_id, doi_of, title_key
from foveate.catalog.importers import Fault, read
from foveate.catalog.importers._text import clean, date_of, url_of, year_of
from foveate.catalog.importers.bibtex import plain

LONG = "We show that a thing holds, and prove it on many models. " * 5
LONG = LONG.strip()
FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <title>ArXiv Query: all:attention</title>
  <id>http://arxiv.org/api/x</id>
  <entry>
    <id>http://arxiv.org/abs/2403.12345v2</id>
    <updated>2024-04-01T10:00:00Z</updated>
    <published>2024-03-18T17:59:59Z</published>
    <title>Attention: a
      &lt;b&gt;tale&lt;/b&gt; &amp; more</title>
    <summary>  What we  did. </summary>
    <author><name>José Ångström</name><arxiv:affiliation
      xmlns:arxiv="http://arxiv.org/schemas/atom">Uppsala</arxiv:affiliation></author>
    <author><name>B. Roe</name></author>
    <arxiv:doi xmlns:arxiv="http://arxiv.org/schemas/atom">10.1000/ABC</arxiv:doi>
    <link title="doi" href="http://dx.doi.org/10.1000/ABC" rel="related"/>
    <link href="http://arxiv.org/abs/2403.12345v2" rel="alternate" type="text/html"/>
    <link title="pdf" href="http://arxiv.org/pdf/2403.12345v2" rel="related"/>
  </entry>
  <entry><id>x</id><title type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">With
    <i>markup</i> in it</div></title></entry>
</feed>
"""


@pytest.fixture
def entries(tmp_path: Path) -> Any:
    """What is read of a file with this content, and how it was recognised."""

    def of(content: str | bytes, form: str) -> list[Entry]:
        path = tmp_path / "file"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        name, found = read(path)
        assert name == form
        return list(found)

    return of


def fault(tmp_path: Path, content: str | bytes) -> Fault:
    path = tmp_path / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Fault) as caught:
        list(read(path)[1])
    return caught.value


# --- what tells papers apart


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Attention Is All You Need", "attention is  all you need."),
        ("Vision–Language: a study", "Vision-language - A Study"),
        ("Pál Erdős on heads", "Pal Erdos on Heads"),
        ("ﬁne attention", "Fine Attention"),
    ],
)
def test_titles_of_the_same_paper_have_one_key(one: str, other: str) -> None:
    assert title_key(one) == title_key(other)


def test_titles_of_other_papers_have_other_keys() -> None:
    titles = ["Attention 1", "Attention 2", "注意力", "注意", "?", "!", "attn+", "attn-a"]
    assert len({title_key(title) for title in titles}) == len(titles)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2403.12345v2", "2403.12345"),
        ("arXiv:2403.12345", "2403.12345"),
        ("arXiv preprint arXiv:1706.03762", "1706.03762"),
        ("https://arxiv.org/pdf/cs/0112017v1", "cs/0112017"),
        ("http://arxiv.org/abs/math.GT/0309136", "math.gt/0309136"),
        ("10.48550/arXiv.2403.12345", "2403.12345"),
        ("10.1000/2403.12345", None),
        ("see page 2403.1234 there", None),
        ("", None),
        (None, None),
    ],
)
def test_arxiv_identifiers(text: str | None, found: str | None) -> None:
    assert arxiv_id(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://doi.org/10.1145/ABC.12", "10.1145/abc.12"),
        ("doi:10.1000/x(3)y.", "10.1000/x(3)y"),
        ("10.12/x", None),
        (None, None),
    ],
)
def test_dois(text: str | None, found: str | None) -> None:
    assert doi_of(text) == found


@pytest.mark.parametrize(
    ("text", "year", "found"),
    [
        ("Dec 18, 2024", None, "2024-12-18"),
        ("18 December 2024", None, "2024-12-18"),
        ("2024-12-18T17:59:59Z", None, "2024-12-18"),
        ("2024/2/3/", None, "2024-02-03"),
        ("Jan 21", None, None),
        ("Jan 21 2", 2025, "2025-01-21"),
        ("Feb 30, 2024", None, None),
        ("Feb 29", 2023, None),
        ("2024", None, None),
        (None, None, None),
    ],
)
def test_dates(text: str | None, year: int | None, found: str | None) -> None:
    assert date_of(text, year) == found


def test_years_addresses_and_control_characters() -> None:
    assert (year_of("in press"), year_of("c. 2019a"), year_of("12024")) == (None, 2019, None)
    assert url_of("javascript:alert(1)") is url_of("data:text/html,x") is None
    assert url_of(" https://a.b/c?d=1#e ") == "https://a.b/c?d=1#e"
    assert url_of('https://a.b/"onload="x') is None
    assert clean("a\x1b[31mred\x00\n\tb\u2028c ") == "a[31mred b c"
    assert clean(" \n") is clean(None) is None


# --- BibTeX


def test_bibtex(entries: Any) -> None:
    one, two, three = entries(
        r"""% me@example.com
@string{nips = "Advances"}
@preamble{"\newcommand{\x}{y}"} @comment{hello}
free text
@InProceedings{vaswani2017,
  title = {Attention Is {All} You Need: $O(n^2)$ \& more},
  author={Vaswani, Ashish and Erd{\H o}s, P{\'a}l and {\L}ukasz Kaiser and others},
  booktitle = nips # " 30", year = 2017, month = jun,
  url = {https://arxiv.org/abs/1706.03762v5},
}
@article(q, title="Quoted {"}title{"} --- here", year = "2020", doi={https://doi.org/10.1000/A.1})
@misc{x, title={An eprint <script>alert('x')</script>}, eprint={2403.12345v2},
  archiveprefix={arXiv}, year={in press}}""",
        "BibTeX",
    )
    assert one.title == "Attention Is All You Need: O(n^2) & more"
    assert one.authors == ["Ashish Vaswani", "Pál Erdős", "Łukasz Kaiser"]
    assert (one.year, one.arxiv, one.line) == (2017, "1706.03762", 5)
    assert (two.title, two.doi, two.year) == ('Quoted "title" — here', "10.1000/a.1", 2020)
    assert three.title == "An eprint <script>alert('x')</script>"
    assert (three.arxiv, three.year) == ("2403.12345", None)


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"M\"uller, G\"{o}del, \'{\i}, \c{c}a, \v{S}, \~n", "Müller, Gödel, í, ça, Š, ñ"),
        (r"Stra\ss e, \O rsted, \AA", "Straße, Ørsted, Å"),
        (r"\emph{well} {known} 50\% \_x", "well known 50% _x"),
        (r"pages 1--2 ``so''", "pages 1–2 “so”"),
    ],
)
def test_latex_is_read_as_text(latex: str, text: str) -> None:
    assert plain(latex) == text


# --- RIS


def test_ris(entries: Any) -> None:
    one, two = entries(
        "TY  - JOUR\r\nTI  - Heads of\r\n  attention\r\nAU  - Roe, B.\r\nA1  - Doe, J.\r\n"
        "PY  - 2021/03/04/\r\nAB  - What it does.\r\nDO  - 10.1000/Z\r\n"
        "UR  - https://arxiv.org/abs/2101.00001\r\nER  - \r\n\r\n"
        "TY  - CONF\r\nT1  - Two\r\nER  -\r\n",
        "RIS",
    )
    assert (one.title, one.authors) == ("Heads of attention", ["Roe, B.", "Doe, J."])
    assert (one.year, one.date, one.doi) == (2021, "2021-03-04", "10.1000/z")
    assert (one.arxiv, one.abstract) == ("2101.00001", "What it does.")
    assert (two.title, two.line) == ("Two", 12)


# --- Atom


def test_atom(entries: Any) -> None:
    one, two = entries(FEED, "Atom")
    assert one.title == "Attention: a <b>tale</b> & more"
    assert (one.authors, one.abstract) == (["José Ångström", "B. Roe"], "What we did.")
    assert (one.arxiv, one.doi, one.date) == ("2403.12345", "10.1000/abc", "2024-03-18")
    assert (one.url, one.line) == ("http://arxiv.org/abs/2403.12345v2", 5)
    assert two.title == "With markup in it" and two.url is None


def test_atom_in_another_encoding_that_it_names(entries: Any) -> None:
    latin = FEED.replace("UTF-8", "ISO-8859-1").encode("latin-1")
    assert entries(latin, "Atom")[0].authors[0] == "José Ångström"
    assert entries(FEED.replace("UTF-8", "UTF-16").encode("utf-16"), "Atom")


# --- JSON


def test_json_lines_and_lists(entries: Any) -> None:
    rows = [
        {"title": "A", "abstract": "x", "date": "Oct 15, 2024 2", "authors": "5 authors"},
        {"title": "B", "authors": ["J. Doe"], "year": "2020", "comments": 3, "other": [1]},
        {"title": "C", "authors": [{"name": "J. Doe"}], "doi": "10.48550/arXiv.2403.12345"},
        {"title": "D", "date": "Jan 21 2", "authors": "A. Roe and B. Doe", "url": "file:///x"},
    ]
    lines = entries("\n\n".join(map(json.dumps, rows)), "JSON")
    a, b, c, d = lines
    assert (a.author_count, a.date, a.comments, a.year) == (5, "2024-10-15", 2, 2024)
    assert (b.authors, b.year, b.comments, b.line) == (["J. Doe"], 2020, 3, 3)
    assert (c.authors, c.arxiv) == (["J. Doe"], "2403.12345")
    assert (d.authors, d.comments, d.year, d.url) == (["A. Roe", "B. Doe"], 2, None, None)
    listed = entries(json.dumps(rows, indent=1), "JSON")
    for entry in (*lines, *listed):
        entry.line = 1
    assert listed == lines


def test_what_foveate_prints_can_be_read_back(entries: Any) -> None:
    from foveate.catalog import papers

    rows = papers(year=2017)
    found = entries(json.dumps([row.to_dict() for row in rows]), "JSON")
    assert [entry.title for entry in found] == [row.title for row in rows]


# --- the text of reading lists


ROWS = [
    ("Attention in Birds", "5 authors", "Dec 18, 2024 12", "2024-12-18", 12),
    ("What Do Heads Do? A Study of 3 Models", "1 author", "Jan 21 2", None, 2),
    ("LONG: Looking Over Narrow Gaps", "40 authors", "2025-03-04", "2025-03-04", None),
]


@pytest.mark.parametrize("blank", ["everywhere", "between", "none"])
@pytest.mark.parametrize("organisation", [None, "University of Birds"])
@pytest.mark.parametrize("first", ["", "Subscribe", "Daily Papers\nby somebody\n\nSubscribe\n"])
def test_pages(entries: Any, blank: str, organisation: str | None, first: str) -> None:
    inner, outer = {"everywhere": ("\n\n",) * 2, "between": ("\n", "\n\n"), "none": ("\n",) * 2}[
        blank
    ]
    blocks = []
    for title, authors, date, *_ in ROWS:
        lines = [title, LONG, organisation, f"• {authors}", date]
        blocks.append(inner.join(line for line in lines if line))
    found = entries(first + outer.join(blocks), "text page")
    assert [entry.title for entry in found] == [row[0] for row in ROWS]
    assert [entry.author_count for entry in found] == [5, 1, 40]
    assert [(entry.date, entry.comments) for entry in found] == [row[3:] for row in ROWS]
    assert {entry.abstract for entry in found} == {LONG}
    assert {entry.organisation for entry in found} == {organisation}


@pytest.mark.parametrize(
    "end",
    [
        "Bird Lab • 5 authors • Dec 18, 2024",
        "Bird Lab\n·\n5 authors\n·\nDec 18, 2024\n7",
        "• 5 authors",
    ],
)
def test_pages_with_other_ends(entries: Any, end: str) -> None:
    one, two = entries(f"One\n{LONG}\n{end}\n\nTwo\n{LONG}\n{end}\n", "text page")
    assert (one.title, two.title, one.author_count) == ("One", "Two", 5)
    assert one.organisation in ("Bird Lab", None)
    assert one.abstract == two.abstract == LONG


def test_a_page_broken_to_a_width(entries: Any) -> None:
    long_title = "A title of so many words that it does not stand in a line of seventy characters"
    page = "\n\n".join(
        [textwrap.fill(long_title, 70), textwrap.fill(LONG, 70), "• 2 authors\nMay 16, 2025"]
    )
    [entry] = entries(page, "text page")
    assert (entry.title, entry.abstract, entry.date) == (long_title, LONG, "2025-05-16")


@pytest.mark.parametrize("between", ["\n", "\n\n"])
def test_a_page_without_authors_and_dates(entries: Any, between: str) -> None:
    page = between.join(part for title, *_ in ROWS for part in (title, LONG))
    assert [entry.title for entry in entries(page, "text page")] == [row[0] for row in ROWS]


def test_a_sentence_about_authors_is_part_of_the_abstract(entries: Any) -> None:
    page = f"A survey\nWe asked\n12 authors what they read. {LONG}\n• 3 authors\nMay 2, 2024"
    [entry] = entries(page, "text page")
    assert entry.author_count == 3 and "12 authors what" in entry.abstract


# --- what is wrong with a file, and where


@pytest.mark.parametrize(
    ("content", "line", "sentence"),
    [
        ("", 1, "the file is empty"),
        (" \n\n", 1, "the file is empty"),
        (b"\x00\x01\x02binary", 1, "this is no text"),
        ("<!DOCTYPE html><html><body>x", 1, "HTML page"),
        ("<rss version='2.0'></rss>", 1, "the root <rss>"),
        ("hello\nworld", 1, "no format that is known here"),
        ("• 5 authors\nJan 21", 2, "without a title before them"),
        # BibTeX
        ("@article{a,\n title={Open, year=2020}\n@article{b, title={x}}", 3, "comma or the end"),
        ("@article{a, title={x},\n note={{y}\n", 1, "a brace of this entry is never closed"),
        ('@article{a, title="x,\n year=1}', 1, "quotation mark"),
        ("@article{a, title={x}\n year=2020}", 2, "a comma or the end of the entry of line 1"),
        ("@article{a title={x}}", 1, "a comma is wanted behind the key 'a'"),
        ("@article{a, title=}", 1, "a value, in braces or quotes, is wanted"),
        ("@article{a, title {x}}", 1, "'=' is wanted behind 'title'"),
        ("\n@article{a, year=2020}", 2, "this entry has no title"),
        ("@article{a, title={x}", 1, "the end of the file"),
        # RIS
        ("TY  - JOUR\nTI  - x\n", 1, "no end, 'ER  -'"),
        ("TY  - JOUR\nTI  - x\nTY  - JOUR", 3, "the entry of line 1 has no 'ER  -'"),
        ("TY  - JOUR\nAU  - x\nER  - ", 1, "has no title"),
        ("TY  - JOUR\nTI  - x\nER  - \nfoo", 4, "'TY  - …' is wanted"),
        ("TY  - JOUR\nfoo\nER  - ", 2, "a tag such as"),
        # JSON
        ('{"title": "x"}\n{"title":', 2, "this is not JSON"),
        ('{"title": 3}', 1, "'title' must be text, not 3"),
        ('{"abstract": "x"}', 1, "there is no 'title'"),
        ('{"title": "x", "comments": true}', 1, "'comments' must be a whole number"),
        ('{"title": "x", "year": [1]}', 1, "'year' must be a year"),
        ('{"title": "x", "authors": [1]}', 1, "'authors' must be a list of names"),
        ('{"title": "x"}\n7', 2, "an object with a 'title' is wanted, not 7"),
        ('[{"title": "x"}, 7]', 1, "paper 2 of the list"),
        ('[{"title": "x"},\n7', 2, "this is not JSON"),
        ("[" * 100_000, 1, "JSON"),
        # Atom
        ("<feed xmlns='http://www.w3.org/2005/Atom'>\n<entry>\n</feed>", 3, "mismatched tag"),
        ("<feed xmlns='http://www.w3.org/2005/Atom'>\n<entry></entry></feed>", 2, "no <title>"),
        ("<feed><entry><title>x</title></entry></feed>", 1, "nothing is in Atom's namespace"),
        ("<feed xmlns='http://www.w3.org/2005/Atom'><entry><title>&x;</title>", 1, "undefined ent"),
        ("<?xml version='1.0' encoding='klingon'?>\n<feed></feed>", 1, "encoding"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, line: int, sentence: str
) -> None:
    found = fault(tmp_path, content)
    assert sentence in found.what
    assert found.line == line


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE f [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
        '<!DOCTYPE f [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE f SYSTEM "http://127.0.0.1/x.dtd">',
    ],
)
def test_a_feed_with_a_document_type_is_refused(tmp_path: Path, declared: str) -> None:
    feed = f"<?xml version='1.0'?>\n{declared}{FEED.partition('?>')[2]}"
    found = fault(tmp_path, feed)
    assert (found.line, "<!DOCTYPE>" in found.what) == (2, True)


def test_a_text_without_end_in_a_feed_is_refused_before_it_is_read(tmp_path: Path) -> None:
    found = fault(tmp_path, FEED.replace("What we", "word " * 300_000))
    assert (found.line, "over 200,000 characters" in found.what) == (5, True)


@pytest.mark.parametrize(
    "form", ["@misc{a,\n title={%s}}", "TY  - X\nTI  - %s\nER  - ", '{"title":\n"%s"}']
)
def test_a_wrong_encoding_is_told_with_its_line_and_not_guessed(tmp_path: Path, form: str) -> None:
    found = fault(tmp_path, (form % "Über die Aufmerksamkeit").encode("latin-1"))
    assert found.line == 2
    assert "byte 0xdc is not UTF-8; save the file as UTF-8" in found.what


PIECES = [
    *(
        "@article{a,",
        "@string{",
        "@comment{",
        "title",
        "=",
        "{",
        "}",
        '"',
        "#",
        ",",
        "\\",
        "\\'{\\i}",
    ),
    *("TY  - JOUR", "TI  - x", "ER  - ", "AU  - ", "<feed xmlns='http://www.w3.org/2005/Atom'>"),
    *(
        "<entry>",
        "</entry>",
        "<title>",
        "</title>",
        "</feed>",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "&",
    ),
    *('{"title": "x"}', '{"title":', "[", "]", "null", "Subscribe", "• 5 authors", "·", "Jan 21 2"),
    *("Dec 18, 2024", "word " * 60, "A title", "2", "\n", "\n\n", "\r\n", "\x00", "\ufeff", "é"),
]


@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12)
    .map("".join)
    .map(str.encode)
    | st.binary(max_size=40)
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_file_holds_it_is_read_or_refused_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(content)
    try:
        found = list(read(path)[1])
    except Fault as error:
        assert 1 <= error.line <= content.count(b"\n") + content.count(b"\r") + 1 and error.what
        return
    for entry in found:
        assert entry.title and entry.title == clean(entry.title)
        assert entry.year is None or 1500 <= entry.year < 2200
        assert entry.url is None or entry.url.startswith("http")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(entries: Any, encoding: str) -> None:
    [entry] = entries("@misc{a, title={Über}}".encode(encoding), "BibTeX")
    assert entry.title == "Über"
