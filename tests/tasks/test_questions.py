"""Questions of one's own: read whole and checked, or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import foveate as fv
from foveate.tasks import Questions, prompts
from foveate.tasks.replies import check_of

NOTES = ["The mill opens at nine.", "The mill closes at six.", "Bread is baked at dawn."]
GOOD: dict[str, Any] = {
    "prompt": "When does the mill close?",
    "context": NOTES,
    "evidence": "closes at six",
    "answer": "six",
}


def written(tmp_path: Path, *records: Any, name: str = "mine.jsonl") -> Path:
    path = tmp_path / name
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def at(item: Any, name: str) -> Any:
    spans = item.marks[name]
    spans = spans if isinstance(spans, list) else [spans]
    return [item.content[a:b] for a, b in spans]


def test_a_line_is_a_question_with_its_regions(tmp_path: Path) -> None:
    mine = Questions.load(written(tmp_path, GOOD, {**GOOD, "evidence": [1, "dawn"], "level": 3}))
    first, second = mine.items()
    assert first.content == "\n\n".join([*NOTES, GOOD["prompt"]])
    assert at(first, "evidence") == ["closes at six"]
    assert at(first, "context") == ["\n\n".join(NOTES)]
    assert [at(first, f"passage {i}")[0] for i in range(3)] == NOTES
    assert "".join(at(first, "question")).strip() == GOOD["prompt"]
    assert at(second, "evidence") == [NOTES[1], "dawn"]
    assert second.info == {"line": 2, "level": 3} and second.id == "2" and mine.name == "mine"
    assert mine.right(first, "At SIX.") and not mine.right(first, "At sixteen.")


def test_the_context_goes_where_it_is_wanted() -> None:
    prompt = "Read this:\n{context}\nWhen does the mill open? {braces} stay."
    (item,) = Questions.of([{**GOOD, "prompt": prompt, "answer": "nine"}]).items()
    assert item.content == prompt.replace("{context}", "\n\n".join(NOTES))
    assert at(item, "passage 2") == [NOTES[2]]
    assert at(item, "question") == ["Read this:\n", "\nWhen does the mill open? {braces} stay."]
    (plain,) = Questions.of([{"prompt": "Two and two?", "answer": 4}]).items()
    assert at(plain, "question") == ["Two and two?"] and plain.answer == "4"


def test_a_chat_has_its_context_in_the_last_users_message() -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "When does the mill close?"},
    ]
    row = {"messages": said, "context": NOTES, "evidence": 1, "answer": "six"}
    (item,) = Questions.of([row]).items()
    assert item.content[0] == said[0]
    assert item.content[1]["content"] == "\n\n".join([*NOTES, said[1]["content"]])
    assert item.marks["evidence"] == [NOTES[1]]
    assert said[1]["content"] == "When does the mill close?"  # the record is left as it was


def test_regions_reach_the_model(smollm2: Any) -> None:
    _, tokenizer = smollm2
    mine = Questions.of([GOOD, {**GOOD, "evidence": [0, 2]}])
    ((items, prompt),) = prompts(mine.items(), tokenizer)
    ids = prompt.inputs["input_ids"]
    for row, wanted in ((0, ["closes at six"]), (1, [NOTES[0], NOTES[2]])):
        seen = tokenizer.decode(ids[row][prompt.regions["evidence"][row]])
        assert all(piece in seen for piece in wanted), seen
    assert len(items) == 2


def test_csv_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        out = csv.writer(file)
        out.writerow(["prompt", "context", "evidence", "answer", "choices", "id"])
        out.writerow([GOOD["prompt"], json.dumps(NOTES), "1", "six", "six | nine", "a"])
        out.writerow(["[odd] start?", "[not json\nbut two lines", "", "yes", "", ""])
    first, second = (mine := Questions.load(path)).items()
    assert at(first, "evidence") == [NOTES[1]] and first.id == "a" and first.wrong == ("nine",)
    assert mine.right(first, "six") and not mine.right(first, "six or nine")
    assert second.content.startswith("[not json\nbut two lines") and second.id == "4"


def test_the_fingerprint_is_of_what_is_asked() -> None:
    one, same = Questions.of([GOOD]), Questions.of([dict(reversed(GOOD.items()))])
    other = Questions.of([{**GOOD, "answer": "nine"}])
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert Questions.of([GOOD], check="exact").fingerprint != one.fingerprint


CHECKED = [
    ("contains", "New York", None, ["it is new york."], ["Newer York", "York"]),
    ("exact", "42", None, ["42", " 42\n"], ["42.", "it is 42"]),
    ("regex", r"^\d{4}$", None, ["1999"], ["in 1999"]),
    ("choices", "York", ["York", "New York"], ["York!"], ["New York", "York, or New York", "no"]),
    ("json-schema", {"type": "object", "required": ["a"]}, None,
     ['{"a": 1}', 'Here: ```json\n{"a": {"b": 2}}\n```'], ['{"b": 1}', "a", '{"a": ']),
    ("os.path.isabs", "x", None, [], []),
]  # fmt: skip


@pytest.mark.parametrize(("how", "answer", "choices", "yes", "no"), CHECKED)
def test_checks(how: str, answer: Any, choices: Any, yes: list[str], no: list[str]) -> None:
    check = check_of(how, answer, choices)
    assert all(check(reply) for reply in yes)
    assert not any(check(reply) for reply in no)


def test_a_function_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_checks.py").write_text(
        "def near(reply, record):\n    return abs(float(reply) - float(record['answer'])) < 1\n"
        "def odd(reply, record):\n    return 'yes'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = Questions.of([{"prompt": "Pi?", "answer": 3, "check": "my_checks.near"}])
    (item,) = mine.items()
    assert mine.right(item, "3.14") and not mine.right(item, "5")
    odd = Questions.of([{"prompt": "Pi?", "answer": 3, "check": "my_checks:odd"}])
    with pytest.raises(fv.FoveateError, match="True or False"):
        odd.right(odd.items()[0], "3")


BAD = [
    ("{oops", "no JSON"),
    ("[1]", "an object with prompt and answer"),
    ({"answer": "x"}, "one of prompt and messages"),
    ({**GOOD, "messages": []}, "one of prompt and messages"),
    ({"prompt": "?"}, "no answer; the line has prompt"),
    ({"prompt": "?", "anwser": "x"}, "has prompt, anwser (did you mean answer, not anwser?)"),
    ({"promt": "?", "answer": "x"}, "did you mean prompt, not promt?"),
    ({**GOOD, "prompt": " "}, "a text was wanted"),
    ({**GOOD, "context": [1]}, "a text or a list of texts"),
    ({**GOOD, "evidence": "at noon"}, "stands nowhere in the context"),
    ({**GOOD, "evidence": 3}, "0 to 2"),
    ({**GOOD, "context": None}, "evidence is a piece of the context"),
    ({**GOOD, "check": "similar"}, "is unknown"),
    ({**GOOD, "check": "no.such.function"}, "no such function"),
    ({**GOOD, "check": "regex", "answer": "("}, "no regular expression"),
    ({**GOOD, "check": "choices"}, "two texts or more"),
    ({**GOOD, "choices": ["nine", "ten"]}, "none of the choices"),
    ({**GOOD, "check": "json-schema", "answer": {"type": "thing"}}, "no JSON schema"),
    ({**GOOD, "answer": ""}, "a text was wanted"),
    ({**GOOD, "id": "1"}, "was there before"),
    ({"messages": [{"role": "user"}], "answer": "x"}, "role"),
    ({"messages": [{"role": "assistant", "content": "Hm."}], "answer": "x"}, "assistant's"),
    ({"messages": [{"role": "system", "content": "."}], "context": "c", "answer": "x"}, "user's"),
]


@pytest.mark.parametrize(("record", "words"), BAD)
def test_a_bad_line_is_named_and_nothing_is_read(tmp_path: Path, record: Any, words: str) -> None:
    path = written(tmp_path, GOOD, "", record)
    with pytest.raises(fv.FoveateError) as caught:
        Questions.load(path)
    said = str(caught.value)
    assert "line 3: " in said and words in said and "nothing was read" in said


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    with pytest.raises(fv.FoveateError, match="9 bad lines of 9") as caught:
        Questions.load(written(tmp_path, *["{"] * 9))
    assert "line 5" in str(caught.value) and "… and lines 6, 7, 8, 9" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, text, words in (
        ("none.jsonl", None, "no such file"),
        ("mine.txt", "", "ends in '.txt'"),
        ("empty.jsonl", "\n", "no question"),
        ("bad.csv", "prompt,answer\na,b,c\n", "header has 2 columns"),
    ):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises(fv.FoveateError, match=words):
            Questions.load(path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(fv.FoveateError, match="UTF-8"):
        Questions.load(tmp_path / "latin.jsonl")
    with pytest.raises(fv.FoveateError, match="max_new_tokens"):
        Questions.of([GOOD], max_new_tokens=0)
