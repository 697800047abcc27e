"""Mail: settings, encryption, passwords, refusals, against a real server on this machine."""

from __future__ import annotations

import os
import smtplib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from following import Box, certificate, environment, serve
from foveate.catalog import mail as mail_module
from foveate.catalog.mail import Settings, Unsure, connect, message, settings
from foveate.errors import FoveateError

LEAST = {"FOVEATE_SMTP_HOST": "smtp.example.org", "FOVEATE_SMTP_FROM": "papers@example.org"}
PASSWORD = "open sesame"
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")  # TLS is there from the start


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("pem"))


def of(port: int, pem: tuple[Path, Path], security: str = "starttls", **other: str) -> Settings:
    given = environment(port, pem, security)
    given |= {f"FOVEATE_SMTP_{key.upper()}": value for key, value in other.items()}
    return settings(given, Path("/nowhere"))


def letter(to: str = "ann@example.org") -> Any:
    return message("papers@example.org", to, "Hello", "plain", "<p>page</p>")


# --- settings


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "smtp.toml"
    file.write_text(
        'host = "a.org"\nfrom = "p@a.org"\nuser = "u"\npassword = "s3cret"\nport = 99\n'
    )
    file.chmod(0o600)
    found = settings({"FOVEATE_SMTP_HOST": "b.org"}, file)
    assert (found.host, found.sender, found.user, found.port) == ("b.org", "p@a.org", "u", 99)
    assert found.password == "s3cret" and "s3cret" not in repr(found)


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_each_security_has_its_port(security: str, port: int, tmp_path: Path) -> None:
    found = settings({**LEAST, "FOVEATE_SMTP_SECURITY": security}, tmp_path / "none")
    assert found.port == port and found.security == security


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"HOST": ""}, "FOVEATE_SMTP_HOST"),
        ({"FROM": ""}, "FOVEATE_SMTP_FROM"),
        ({"FROM": "x"}, "from='x' is no address"),
        ({"FROM": "a@b.org\nBcc: c@d.org"}, "no address"),
        ({"SECURITY": "maybe"}, "starttls, tls, none"),
        ({"PORT": "many"}, "port="),
        ({"PORT": "70000"}, "port="),
        ({"USER": "ann"}, "both user and password"),
        ({"PASSWORD": PASSWORD}, "both user and password"),
        ({"USER": "ann", "PASSWORD": PASSWORD, "SECURITY": "none"}, "in the open"),
    ],
)
def test_bad_settings(changed: dict[str, str], sentence: str, tmp_path: Path) -> None:
    given = {**LEAST, **{f"FOVEATE_SMTP_{key}": value for key, value in changed.items()}}
    with pytest.raises(FoveateError, match=sentence) as told:
        settings(given, tmp_path / "none")
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ('password = "open sesame"', 0o644, "chmod 600"),
        ('password = "open sesame', 0o600, "no TOML"),
        ('pasword = "open sesame"', 0o600, "pasword unknown"),
        ('host = "a"\nfrom = "a@b.org"\nuser = "u"\npassword = 17', 0o600, "text in quotes"),
    ],
)
def test_bad_files(text: str, mode: int, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "smtp.toml"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(FoveateError, match=sentence) as told:
        settings({}, file)
    assert "sesame" not in str(told.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "smtp.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FoveateError, match="cannot be read"):
        settings({}, tmp_path / "smtp.toml")


def test_what_the_sentences_and_the_guide_say_to_write_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "smtp.toml"
    file.write_text("host = smtp.example.org\n")
    with pytest.raises(FoveateError, match="quotes") as told:
        settings({}, file)
    lines = [str(told.value).split("`")[1]]
    file.write_text(lines[0])
    with pytest.raises(FoveateError, match="mail needs 'from'") as told:
        settings({}, file)
    file.write_text("\n".join([*lines, str(told.value).split("`")[1]]))
    assert settings({}, file).host == "smtp.example.org"
    guide = Path(__file__).parents[2] / "docs" / "following.md"
    file.write_text(guide.read_text("utf-8").split("```toml\n")[1].split("```")[0])
    file.chmod(0o600)
    assert settings({}, file).port == 587


# --- the message


def test_a_subject_cannot_smuggle_headers() -> None:
    made = message("a@b.org", "c@d.org", "x\r\nBcc: e@f.org\0\u2028y", "t", "h")
    assert made["Subject"] == "x Bcc: e@f.org y" and made["Bcc"] is None
    assert b"\nBcc" not in made.as_bytes()


def test_addresses_cannot_either() -> None:
    with pytest.raises(ValueError):
        message("a@b.org", "c@d.org\nBcc: e@f.org", "x", "t", "h")


# --- the way out


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
def test_mail_arrives(pem: tuple[Path, Path], security: str) -> None:
    box = Box()
    with serve(box, pem, security) as port, connect(of(port, pem, security)) as server:
        server.send(letter())
        server.send(letter("bob@example.org"))
    assert len(box.mails) == 2 and b"plain" in box.mails[0]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_nobody_vouches_for_is_refused(pem: tuple[Path, Path], security: str) -> None:
    box = Box()
    with serve(box, pem, security) as port:
        given = of(port, pem, security)
        strange = Settings(**{**vars(given), "ca": None})
        with pytest.raises(FoveateError, match="certificate of localhost"), connect(strange):
            pytest.fail("let in")
        elsewhere = Settings(**{**vars(given), "host": "127.0.0.1"})  # not what it vouches for
        with pytest.raises(FoveateError, match="certificate of 127"), connect(elsewhere):
            pytest.fail("let in")


def test_a_wrong_password_is_told_and_never_shown(pem: tuple[Path, Path]) -> None:
    with serve(Box(), pem, "starttls") as port:
        given = of(port, pem, password="pale moon")
        with pytest.raises(FoveateError, match="password of 'ann'") as told, connect(given):
            pytest.fail("let in")
    assert "pale" not in str(told.value) and told.value.__cause__ is None


def test_a_server_that_says_the_password_back() -> None:
    given = Settings("localhost", "a@b.org", "ann", PASSWORD, "none")
    told = mail_module._why(
        smtplib.SMTPAuthenticationError(535, f"{PASSWORD} is wrong".encode()), "x:1", given
    )
    assert PASSWORD not in told and "535" in told


def test_starttls_where_there_is_none_sends_nothing(pem: tuple[Path, Path]) -> None:
    box = Box()
    with serve(box, pem, "none") as port:
        with pytest.raises(FoveateError, match="does not speak"), connect(of(port, pem)):
            pytest.fail("fell back to the open")
    assert box.mails == []


def test_tls_to_a_plain_port(pem: tuple[Path, Path]) -> None:
    with serve(Box(), pem, "none") as port:
        with pytest.raises(FoveateError, match=r"does not speak|cannot be reached"):
            with connect(of(port, pem, "tls")):
                pytest.fail("let in")


def test_no_server_and_no_host(pem: tuple[Path, Path]) -> None:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    with pytest.raises(FoveateError, match="cannot be reached"), connect(of(port, pem)):
        pytest.fail("let in")
    with pytest.raises(FoveateError, match="cannot be"), connect(of(port, pem, ca="/nowhere.pem")):
        pytest.fail("let in")


@pytest.mark.parametrize("answer", [b"", b"220 hello\r\n", b"hello\r\n", b"554 go away\r\n"])
def test_a_server_that_hangs_up(
    answer: bytes, pem: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_module, "TIMEOUT", 5.0)
    with socket.create_server(("localhost", 0)) as listening:

        def hang_up() -> None:
            there, _ = listening.accept()
            there.sendall(answer)
            there.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(FoveateError, match=r"did not let us in|cannot be reached"):
            with connect(of(listening.getsockname()[1], pem)):
                pytest.fail("let in")
        thread.join()


def test_refusals_are_no_broken_lines(pem: tuple[Path, Path]) -> None:
    box = Box()
    with serve(box, pem, "starttls") as port, connect(of(port, pem)) as server:
        box.refuse = "552 too much"
        with pytest.raises(FoveateError, match=r"refused the mail.*552 too much") as told:
            server.send(letter())
        assert not isinstance(told.value, Unsure)
        box.refuse, box.refuse_recipient = None, "550 nobody"
        with pytest.raises(FoveateError, match=r"does not take mail for.*550 nobody") as told:
            server.send(letter())
        assert not isinstance(told.value, Unsure)
        with pytest.raises(FoveateError, match="cannot be sent") as told:
            server.send(letter("ännä@example.org"))  # this server knows ASCII addresses alone
        assert not isinstance(told.value, Unsure)
    assert box.mails == []


@pytest.mark.parametrize("error", [smtplib.SMTPServerDisconnected("gone"), TimeoutError("late")])
def test_a_line_that_breaks_while_the_mail_is_taken(
    error: Exception, pem: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtplib.SMTP, "data", _raising(error))
    with serve(Box(), pem, "starttls") as port, connect(of(port, pem)) as server:
        with pytest.raises(Unsure, match="may have it or not"):
            server.send(letter())


def _raising(error: Exception) -> Any:
    def data(*args: Any) -> None:
        raise error

    return data


def test_the_settings_come_from_the_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in list(os.environ):
        if key.startswith("FOVEATE_SMTP_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("FOVEATE_HOME", str(tmp_path))
    with pytest.raises(FoveateError, match=str(tmp_path / "smtp.toml")):
        settings()
    (tmp_path / "smtp.toml").write_text('host = "a.org"\nfrom = "p@a.org"')
    assert settings() == Settings("a.org", "p@a.org")
