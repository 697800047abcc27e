"""Look: the report of a prompt, and one token's view of the others."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from importlib import resources
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foveate.errors import FoveateError
from foveate.report.encode import decode
from foveate.ui.inputs import PLAIN
from foveate.ui.look import BOX, around, look
from foveate.ui.session import Desk, Session

TEXT = "The red cat sat on the mat and the dog ate a bone."


def data_of(frame: str) -> dict[str, Any]:
    """What the report inside a frame holds."""
    document = html.unescape(frame.partition('srcdoc="')[2].rpartition('"')[0])
    raw = document.partition('id="data">')[2].partition("</script>")[0]
    return json.loads(raw)


def test_the_report_holds_the_prompt_and_its_pieces(desk: Desk, done: Callable[..., Any]) -> None:
    found = data_of(done(look(desk, Session(), TEXT, PLAIN, "animal = red cat", False)))
    assert "".join(found["items"][0]["tokens"]) == TEXT
    assert "animal" in found["items"][0]["regions"] and found["asks"] is True
    assert [len(g["last"]) for g in found["items"][0]["grids"]] == [4] * len(
        found["items"][0]["grids"]
    )
    assert not found["ablations"]


def test_an_untested_report_names_the_pages_own_box(desk: Desk, done: Callable[..., Any]) -> None:
    shown = html.unescape(done(look(desk, Session(), TEXT, PLAIN, "animal = red cat", False)))
    assert BOX in shown and "--ablate" not in shown
    tabs = resources.files("foveate.ui").joinpath("tabs.py").read_text(encoding="utf-8")
    label = BOX.partition("“")[2].partition("”")[0]
    assert tabs.count(f'label="{label}') == 2, "the boxes of Look and Steer are called otherwise"


def test_hiding_the_pieces_is_reported(desk: Desk, done: Callable[..., Any]) -> None:
    found = data_of(done(look(desk, Session(), TEXT, PLAIN, "animal = red cat", True)))
    assert [one["region"] for one in found["ablations"]] == ["(nothing)", "animal"]
    assert found["ablations"][1]["change"] != 0


def test_html_in_a_prompt_stays_text(desk: Desk, done: Callable[..., Any]) -> None:
    hostile = '</script><img src=x onerror=alert(1)>"></iframe><script>alert(2)</script>'
    shown = done(look(desk, Session(), hostile, PLAIN, f"m = {hostile}", False))
    outside = shown.replace(shown.partition('srcdoc="')[2].rpartition('"')[0], "")
    assert outside.count("<") == 2, "only the frame's own tags stand in the page"
    assert "<img" not in html.unescape(shown)


def test_a_tokens_two_maps_are_its_row_and_its_column(
    desk: Desk, done: Callable[..., Any], tiny: tuple[Any, Any]
) -> None:
    session, token = Session(), 4
    done(look(desk, session, TEXT, PLAIN, "animal = red cat", False), session)
    maps = json.loads(done(around(desk, session, token), session))
    model = tiny[0]
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model(**session.looked.inputs, output_attentions=True)
    finally:
        model.set_attn_implementation(own)
    p = torch.stack(out.attentions)[:, 0].double()  # (L, H, S, S)
    for found, wanted in zip(maps, (p[:, :, token], p[:, :, :, token]), strict=True):
        torch.testing.assert_close(decode(found["heads"]), wanted, rtol=0.03, atol=1e-5)
        torch.testing.assert_close(
            torch.tensor(found["mean"], dtype=torch.double), wanted.mean((0, 1)), rtol=1e-3,
            atol=1e-5,
        )  # fmt: skip
    assert "looked at" in maps[0]["label"] and maps[1]["label"].startswith("Who looked")


def test_a_piece_may_bear_the_name_that_the_page_uses(desk: Desk, done: Callable[..., Any]) -> None:
    session = Session()
    done(look(desk, session, TEXT, PLAIN, "asked = red cat", False), session)
    assert len(json.loads(done(around(desk, session, 0), session))) == 2


def test_no_tag_begins_in_what_is_said_of_a_token(desk: Desk, done: Callable[..., Any]) -> None:
    session = Session()
    done(look(desk, session, "a <b> c", PLAIN, "", False), session)
    at = next(i for i, token in enumerate(session.looked.tokens) if "<" in token)
    said = done(around(desk, session, at), session)
    assert "<" not in said
    assert "<" in json.loads(said)[0]["label"]


@pytest.mark.parametrize("token", [None, -1, 10_000, "0", 1.5, {"a": 1}])
def test_tokens_that_are_not_there(desk: Desk, done: Callable[..., Any], token: Any) -> None:
    session = Session()
    with pytest.raises(FoveateError, match="token"):
        around(desk, session, token)  # nothing was looked at yet
    done(look(desk, session, TEXT, PLAIN, "", False), session)
    with pytest.raises(FoveateError, match="token"):
        around(desk, session, token)


def test_a_stopped_look_is_not_kept(desk: Desk) -> None:
    session = Session()
    work = look(desk, session, TEXT, PLAIN, "", False)
    stopping = SimpleNamespace(stage=lambda *a: (_ for _ in ()).throw(KeyError))
    with pytest.raises(KeyError):
        work(stopping)
    assert session.looked is None
