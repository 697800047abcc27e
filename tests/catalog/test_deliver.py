"""Digests on their way: once a day, no paper twice, whatever breaks and whoever else is running."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import signal
import smtplib
import socket
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from following import DAY, Box, Clock, certificate, environment, prepare, put, serve
from foveate.catalog import deliver as deliver_module
from foveate.catalog.database import database
from foveate.catalog.deliver import deliver, interrupted
from foveate.catalog.follow import follow, unfollow
from foveate.catalog.follow_command import register
from foveate.catalog.mail import Connection

SINCE = DAY.date() - datetime.timedelta(days=7)
FORK = multiprocessing.get_context("fork")  # a process of its own without importing torch anew


@pytest.fixture(autouse=True)
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return prepare(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("pem"))


@pytest.fixture
def box(pem: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A running mail server and the settings to reach it."""
    found = Box()
    with serve(found, pem, "starttls") as port:
        for key, value in environment(port, pem).items():
            monkeypatch.setenv(key, value)
        yield found


def states(**how: Any) -> list[str]:
    return [one.state for one in deliver(SINCE, **how)]


def recorded() -> tuple[int, int]:
    """Digests and papers on record."""
    with database().read() as db:
        return tuple(db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES)  # type: ignore[return-value]


TABLES = ("digests", "sent")


def mails(box: Box) -> list[EmailMessage]:
    return [message_from_bytes(one, policy=policy.default) for one in box.mails]  # type: ignore[misc]


# --- files and feeds


def test_a_page_grows_by_a_digest_a_day(tmp_path: Path, clock: Clock) -> None:
    page, atom = tmp_path / "p.md", tmp_path / "p.xml"
    follow("zebra eviction", "file", str(page))
    follow("zebra eviction", "atom", str(atom))
    assert (
        states() == ["nothing new", "nothing new"] and ET.fromstring(atom.read_bytes()) is not None
    )
    put("Zebra eviction one")
    assert states() == ["sent", "sent"]
    put("Zebra eviction two")
    assert states() == ["already today", "already today"]
    assert "eviction two" not in page.read_text("utf-8")
    clock.forward(days=1)
    assert states() == ["sent", "sent"]
    clock.forward(days=1)
    assert states() == ["nothing new", "nothing new"]
    words = page.read_text("utf-8")
    assert words.index("Zebra eviction two") < words.index("Zebra eviction one")
    assert words.count("Zebra eviction one") == 1
    entries = ET.fromstring(atom.read_bytes()).findall("{http://www.w3.org/2005/Atom}entry")
    assert len(entries) == 2 and not list(tmp_path.glob(".p.*")), "nothing is left lying about"


def test_a_page_that_was_deleted_comes_back_whole(tmp_path: Path, clock: Clock) -> None:
    page = tmp_path / "p.html"
    follow("zebra eviction", "file", str(page))
    put("Zebra eviction")
    assert states() == ["sent"]
    assert page.stat().st_mode & 0o777 == 0o644
    page.unlink()
    assert states() == ["nothing new"] and "Zebra eviction" in page.read_text("utf-8")
    page.chmod(0o600)
    assert states() == ["nothing new"] and page.stat().st_mode & 0o777 == 0o600, "yours to set"


def test_a_page_that_cannot_be_written_records_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    follow("zebra eviction", "file", str(folder / "p.md"))
    follow("zebra eviction", "file", str(tmp_path / "q.md"))
    put("Zebra eviction")
    folder.rmdir()
    failed, sent = deliver(SINCE)
    assert failed.state == "failed" and "nothing is recorded" in failed.why
    assert sent.state == "sent" and recorded() == (1, 1)
    folder.mkdir()
    assert states() == ["sent", "nothing new"]


def test_a_file_put_in_its_place_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "p.md"
    follow("zebra eviction", "file", str(page))
    put("Zebra eviction")
    page.write_text("my notes")
    (found,) = deliver(SINCE)
    assert found.state == "failed" and page.read_text() == "my notes" and recorded() == (0, 0)


def test_following_anew_repeats_nothing(tmp_path: Path, clock: Clock) -> None:
    page = str(tmp_path / "p.md")
    follow("zebra eviction", "file", page)
    put("Zebra eviction")
    assert states() == ["sent"]
    unfollow("zebra eviction")
    clock.forward(days=1)
    assert states() == []
    follow("eviction of a zebra", "file", page)
    assert states() == ["nothing new"]


def test_more_than_the_limit_comes_with_the_next(tmp_path: Path, clock: Clock) -> None:
    follow("zebra eviction", "file", str(tmp_path / "p.md"))
    for n in range(5):
        put(f"Zebra eviction number {n}")
    (first,) = deliver(SINCE, limit=3)
    clock.forward(days=1)
    (second,) = deliver(SINCE, limit=3)
    assert len(first.items) == 3 and len(second.items) == 2
    assert not {item.id for item in first.items} & {item.id for item in second.items}


# --- mail


def test_a_mail_goes_out_once(box: Box, clock: Clock) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    follow("yaks", "mail", "ann@example.org")
    put("Zebra eviction", does="It evicts.")
    put("On yaks")
    assert states() == ["mail not asked for"] and states(dry_run=True) == ["would send"]
    assert box.mails == [] and recorded() == (0, 0)
    assert states(mail=True) == ["sent"]
    put("Zebra eviction again")
    assert states(mail=True) == ["already today"] == states(dry_run=True)
    clock.forward(days=1)
    assert states(mail=True) == ["sent"]
    clock.forward(days=1)
    assert states(mail=True) == ["nothing new"]
    first, second = mails(box)
    assert first["To"] == "ann@example.org" and first["From"] == "papers@example.org"
    assert first["Subject"] == "2 new papers: Zebra eviction"
    assert second["Subject"] == "1 new paper: Zebra eviction again"
    assert first["Message-ID"] != second["Message-ID"]
    plain, page = first.iter_parts()
    assert "It evicts." in plain.get_content() and "It evicts." in page.get_content()
    assert "On yaks" in plain.get_content() and "On yaks" not in second.as_string()
    assert page.get_content_type() == "text/html"
    with database().read() as db:
        assert {row["state"] for row in db.execute("SELECT state FROM digests")} == {"sent"}


def test_nothing_in_a_title_becomes_a_header_or_a_tag(box: Box) -> None:
    follow("script", "mail", "ann@example.org")
    put(
        "<script>x</script>\r\nBcc: eve@example.org\r\n\r\nbody é中",
        does="\r\n.\r\nMAIL FROM:<x@y>",
    )
    assert states(mail=True) == ["sent"]
    (mail,) = mails(box)
    assert mail["Bcc"] is None and "Bcc: eve@example.org" in mail["Subject"]
    assert "é中" in mail["Subject"]
    (page,) = (part for part in mail.iter_parts() if part.get_content_type() == "text/html")
    assert "<script" not in page.get_content() and "&lt;script&gt;" in page.get_content()
    assert max(map(len, box.mails[0].split(b"\r\n"))) <= 998


def no_server() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def test_no_server_is_a_sentence_and_nothing_is_recorded(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    put("Zebra eviction")
    right = os.environ["FOVEATE_SMTP_PORT"]
    monkeypatch.setenv("FOVEATE_SMTP_PORT", str(no_server()))
    (found,) = deliver(SINCE, mail=True)
    assert found.state == "failed" and "cannot be reached" in found.why and recorded() == (0, 0)
    monkeypatch.setenv("FOVEATE_SMTP_PORT", right)
    assert states(mail=True) == ["sent"], "the same day, once it is up"


@pytest.mark.parametrize("where", ["refuse", "refuse_recipient"])
def test_what_the_server_refuses_is_not_recorded(box: Box, where: str) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    put("Zebra eviction")
    setattr(box, where, "554 no thanks")
    (found,) = deliver(SINCE, mail=True)
    assert found.state == "failed" and "554 no thanks" in found.why and recorded() == (0, 0)
    setattr(box, where, None)
    assert states(mail=True) == ["sent"] and len(box.mails) == 1


def test_one_follower_s_failure_is_not_the_next_one_s(box: Box, tmp_path: Path) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    follow("zebra eviction", "file", str(tmp_path / "p.md"))
    put("Zebra eviction")
    box.refuse = "451 later"
    assert states(mail=True) == ["sent", "failed"], "files first"


def test_settings_that_are_no_good_keep_nobody_else_from_theirs(tmp_path: Path) -> None:
    page = tmp_path / "p.md"
    follow("zebra eviction", "mail", "ann@example.org")
    follow("zebra eviction", "mail", "bob@example.org")
    follow("zebra eviction", "file", str(page))
    put("Zebra eviction")
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["digest", "--mail", "--since", SINCE.isoformat()])
    assert result.exit_code == 1 and result.stdout.startswith(f"file {page}: sent")
    assert result.stdout.count("FOVEATE_SMTP_HOST") == 1, "told once"
    assert "Zebra eviction" in page.read_text("utf-8")
    assert recorded() == (1, 1), "of the mail nothing is recorded"


# --- crashes, and two at once


def in_another_process(work: Any) -> int:
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("taken", [True, False], ids=["the server has it", "nothing left yet"])
def test_a_crash_loses_a_digest_and_never_repeats_one(
    box: Box, clock: Clock, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    put("Zebra eviction")
    send = Connection.send

    def killed(self: Connection, mail: EmailMessage) -> None:
        if taken:
            send(self, mail)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "send", killed)
        code = in_another_process(lambda: deliver(SINCE, mail=True))
    assert code == -signal.SIGKILL and len(box.mails) == taken
    assert interrupted() == [], "it may still be under way"
    assert states(mail=True) == ["nothing new"]
    put("Zebra eviction two")
    assert states(mail=True) == ["already today"]
    clock.forward(days=1)
    ((who, day, slugs),) = interrupted()
    assert (who.target, day, slugs) == ("ann@example.org", "2026-03-10", ["zebra-eviction"])
    assert interrupted() == [], "told once"
    assert states(mail=True) == ["sent"]
    assert len(box.mails) == taken + 1 and b"eviction two" in box.mails[-1]
    assert b"zebra-eviction " not in box.mails[-1]


def test_a_crash_before_the_record_is_made_sends_it_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    put("Zebra eviction")
    with monkeypatch.context() as patch:
        patch.setattr(deliver_module, "_claim", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert in_another_process(lambda: deliver(SINCE, mail=True)) == -signal.SIGKILL
    assert recorded() == (0, 0) and states(mail=True) == ["sent"] and len(box.mails) == 1


def test_a_page_half_way_through_a_crash_holds_no_paper_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "p.md"
    follow("zebra eviction", "file", str(page))
    put("Zebra eviction")
    write = deliver_module._replace

    def killed(path: Path, words: str) -> None:
        write(path, words)
        os.kill(os.getpid(), signal.SIGKILL)  # written, the transaction still open

    with monkeypatch.context() as patch:
        patch.setattr(deliver_module, "_replace", killed)
        assert in_another_process(lambda: deliver(SINCE)) == -signal.SIGKILL
    assert recorded() == (0, 0) and "Zebra eviction" in page.read_text("utf-8")
    assert states() == ["sent"] and page.read_text("utf-8").count("**Zebra eviction**") == 1


def test_a_line_that_breaks_while_the_mail_is_taken_is_not_sent_again(
    box: Box, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    put("Zebra eviction")

    def broken(*args: Any, **kwargs: Any) -> None:
        raise smtplib.SMTPServerDisconnected("gone")

    with monkeypatch.context() as patch:
        patch.setattr(smtplib.SMTP, "send_message", broken)
        (found,) = deliver(SINCE, mail=True)
    assert found.state == "unsure" and "may have it or not" in found.why
    clock.forward(days=1)
    assert states(mail=True) == ["nothing new"] and box.mails == [] and interrupted() == []


def test_processes_at_once_send_once(box: Box) -> None:
    follow("zebra eviction", "mail", "ann@example.org")
    put("Zebra eviction")
    gate = FORK.Barrier(4)
    send = Connection.send
    connect = deliver_module.connect

    def work() -> None:
        def together(given: Any) -> Any:
            gate.wait(30)  # all have seen that nothing was sent
            return connect(given)

        deliver_module.connect = together
        assert deliver(SINCE, mail=True)[0].state in ("sent", "already today", "nothing new")

    processes = [FORK.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(box.mails) == 1 and recorded() == (1, 1) and Connection.send is send


# --- the command


def test_the_command_tells_each_follower_s_fate(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    register(app)
    follow("zebra eviction", "mail", "ann@example.org")
    follow("zebra eviction", "file", str(tmp_path / "p.md"))
    put("Zebra eviction", does="It evicts.")

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["digest", "--since", SINCE.isoformat(), *words])

    shown = run("--dry-run")
    assert shown.exit_code == 0 and shown.output.count("would send") == 2
    assert "It evicts." in shown.output and recorded() == (0, 0)
    assert "--mail sends it" in run().output
    box.refuse = "554 no"
    failed = run("--mail")
    assert failed.exit_code == 1 and "554 no" in failed.output
    box.refuse = None
    told = json.loads(run("--mail", "--json").output)
    assert [one["state"] for one in told] == ["nothing new", "sent"]
    assert "sesame" not in failed.output + shown.output + str(told)
