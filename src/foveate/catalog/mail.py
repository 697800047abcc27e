"""Mail: the settings of a server, a message, and its way out.

Settings come from ``smtp.toml`` in ``data_folder()`` and from the environment, which wins::

    host = "smtp.example.org"       # FOVEATE_SMTP_HOST
    from = "papers@example.org"     # FOVEATE_SMTP_FROM
    user = "papers"                 # FOVEATE_SMTP_USER, if the server wants one
    password = "…"                  # FOVEATE_SMTP_PASSWORD
    security = "starttls"           # FOVEATE_SMTP_SECURITY: "starttls", "tls" or "none"
    port = 587                      # FOVEATE_SMTP_PORT; default 587, 465 with "tls", 25 with "none"
    ca = "/etc/ssl/own-ca.pem"      # FOVEATE_SMTP_CA: a certificate of your own to trust
"""

from __future__ import annotations

import base64
import os
import smtplib
import ssl
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Any

from ..errors import FoveateError
from .database import data_folder
from .follow import check_address, now

__all__ = ["Settings", "Unsure", "connect", "message", "settings"]

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_KEYS = ("host", "from", "user", "password", "security", "port", "ca")
_HERE = ("localhost", "127.0.0.1", "::1")
TIMEOUT = 30.0  # seconds a server may keep silent


class Unsure(FoveateError):
    """The connection broke where the server may or may not have taken the mail."""


@dataclass(frozen=True)
class Settings:
    """How mail is sent.

    Attributes
    ----------
    host : str
    sender : str
        The address it comes from.
    user, password : str or None
        The password is not part of the repr.
    security : {"starttls", "tls", "none"}
        A server that does not offer what is asked for gets no mail. ``"none"`` goes with a
        password only on this machine.
    port : int
    ca : str or None
        A file of certificates to trust in place of the system's.
    """

    host: str
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    security: str = "starttls"
    port: int = 587
    ca: str | None = None


def settings(environ: Mapping[str, str] | None = None, path: Path | None = None) -> Settings:
    """Read the settings, the environment before the file.

    Parameters
    ----------
    environ : mapping of str to str, optional
        Default: the process's.
    path : Path, optional
        Default: ``smtp.toml`` in ``data_folder()``; it need not exist.

    Returns
    -------
    Settings

    Raises
    ------
    FoveateError
        If there are none, one is missing or no good, or others may read the file's password.
    """
    given = os.environ if environ is None else environ
    where = data_folder() / "smtp.toml" if path is None else path
    found: dict[str, Any] = _read(where)
    for key in _KEYS:
        if value := given.get(f"FOVEATE_SMTP_{key.upper()}"):
            found[key] = value
    for key, sample in (("host", "smtp.example.org"), ("from", "papers@example.org")):
        if not found.get(key):
            raise FoveateError(
                f'mail needs {key!r}: write `{key} = "{sample}"` into {where}, or set '
                f"FOVEATE_SMTP_{key.upper()}"
            )
    for key in _KEYS:
        if key != "port" and not isinstance(found.get(key, ""), str):
            raise FoveateError(f"{where}: {key} has to be text in quotes")
    security = found.get("security", "starttls")
    if security not in _PORTS:
        raise FoveateError(f"security={security!r} is unknown; it is one of {', '.join(_PORTS)}")
    try:
        port = int(found.get("port", _PORTS[security]))
    except (TypeError, ValueError):
        port = 0
    if not 0 < port < 65536:
        raise FoveateError(f"port={found['port']!r} was given; a number up to 65535 was wanted")
    user, password = found.get("user"), found.get("password")
    if (user is None) != (password is None):
        raise FoveateError("mail takes both user and password, or neither; one of them is set")
    if password is not None and security == "none" and found["host"] not in _HERE:
        raise FoveateError(
            "security='none' would send the password in the open; use 'starttls' or 'tls'"
        )
    sender = check_address(found["from"], "from")
    return Settings(found["host"], sender, user, password, security, port, found.get("ca"))


def message(sender: str, to: str, subject: str, text: str, html: str) -> EmailMessage:
    """Make a mail of a plain text and a page.

    Parameters
    ----------
    sender, to : str
        Addresses.
    subject : str
        Line breaks and control characters are taken out: nothing in it becomes a header.
    text, html : str
        The two forms; readers show one of them.

    Returns
    -------
    email.message.EmailMessage
    """
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, to
    mail["Subject"] = " ".join("".join(c if c.isprintable() else " " for c in subject).split())
    mail["Date"] = format_datetime(now())
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"
    # Seven bits and short lines: every server takes them.
    mail.set_content(text, cte="quoted-printable")
    mail.add_alternative(html, subtype="html", cte="quoted-printable")
    return mail


class Connection:
    """An open way to a server; made by `connect`."""

    def __init__(self, server: smtplib.SMTP, given: Settings) -> None:
        self._server = server
        self._given = given

    def send(self, mail: EmailMessage) -> None:
        """Hand one mail over.

        Raises
        ------
        Unsure
            If the connection broke meanwhile: the server may have taken it.
        FoveateError
            If the server refused it: it was not sent.
        """
        to = mail["To"]
        try:
            self._server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            replies = "; ".join(_reply(*reply) for reply in error.recipients.values())
            raise FoveateError(f"{self._where} does not take mail for {to} ({replies})") from None
        except smtplib.SMTPServerDisconnected as error:
            raise Unsure(self._broken(error)) from None
        except smtplib.SMTPResponseException as error:
            told = _reply(error.smtp_code, error.smtp_error)
            raise FoveateError(f"{self._where} refused the mail for {to} ({told})") from None
        except (smtplib.SMTPException, ValueError) as error:
            raise FoveateError(f"the mail for {to} cannot be sent: {error}") from None
        except OSError as error:
            raise Unsure(self._broken(error)) from None

    @property
    def _where(self) -> str:
        return f"{self._given.host}:{self._given.port}"

    def _broken(self, error: Exception) -> str:
        return (
            f"{self._where} broke off while it took the mail ({error}); it may have it or not, so "
            "it is not sent again"
        )


@contextmanager
def connect(given: Settings) -> Iterator[Connection]:
    """Open the way to a server, encrypted and logged in as the settings say.

    Parameters
    ----------
    given : Settings

    Yields
    ------
    Connection

    Raises
    ------
    FoveateError
        If the server cannot be reached, its certificate does not hold, it lacks what the settings
        ask for, or the password is wrong. Nothing was sent then.
    """
    server = _open(given)
    try:
        yield Connection(server, given)
        with suppress(OSError, smtplib.SMTPException):  # what was taken was taken
            server.quit()
    finally:
        server.close()


def _open(given: Settings) -> smtplib.SMTP:
    where = f"{given.host}:{given.port}"
    server: smtplib.SMTP | None = None
    try:
        if given.security == "tls":
            server = smtplib.SMTP_SSL(
                given.host, given.port, timeout=TIMEOUT, context=_context(given)
            )
        else:
            server = smtplib.SMTP(given.host, given.port, timeout=TIMEOUT)
        if given.security == "starttls":
            server.starttls(context=_context(given))
        if given.user is not None and given.password is not None:
            server.login(given.user, given.password)
        return server
    except Exception as error:
        if server is not None:
            server.close()
        raise FoveateError(_why(error, where, given)) from None


def _why(error: Exception, where: str, given: Settings) -> str:
    """A sentence for what went wrong before any mail was handed over; never the password."""
    if isinstance(error, FoveateError):
        return str(error)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        told = _hidden(_reply(error.smtp_code, error.smtp_error), given)
        return f"{where} does not take the password of {given.user!r} ({told}); see smtp.toml"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {where} does not hold ({error.verify_message}); give the right "
            "host, or ca= with the certificate that it is signed by"
        )
    if isinstance(error, (ssl.SSLError, smtplib.SMTPNotSupportedError)):
        return (
            f"{where} does not speak security={given.security!r} ({_hidden(str(error), given)}); "
            "'tls' goes with port 465, 'starttls' with 587"
        )
    if isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException):
        return f"{where} cannot be reached ({error}); is the server right, and is it up?"
    return f"{where} did not let us in ({_hidden(str(error), given)})"


def _context(given: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=given.ca)
    except OSError as error:
        raise FoveateError(f"ca={given.ca!r} cannot be read as certificates ({error})") from None


def _reply(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return " ".join(f"{code} {words}".split())[:200]


def _hidden(text: str, given: Settings) -> str:
    """A server's words without the password, should it have said it back."""
    for secret in (given.password, _base64(given.password or "")):
        text = text.replace(secret, "…") if secret else text
    return text


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        mode = path.stat().st_mode
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise FoveateError(f"{path} cannot be read ({error})") from None
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib quotes at most the place: "(at line 3, column 1)"
        raise FoveateError(
            f'{path} is no TOML: {error}; text stands in quotes there: `host = "smtp.example.org"`'
        ) from None
    unknown = sorted(set(found) - set(_KEYS))
    if unknown:
        raise FoveateError(f"{path}: {', '.join(unknown)} unknown; it takes {', '.join(_KEYS)}")
    if "password" in found and os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FoveateError(f"{path} holds a password that others may read; run: chmod 600 {path}")
    return found
