"""What the tests of following share: a store of one's own, a clock, papers, a mail server."""

from __future__ import annotations

import datetime
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from foveate.catalog import deliver, digest, follow, follow_command, mail, search
from foveate.catalog.database import database
from foveate.catalog.entry import title_key

DAY = datetime.datetime(2026, 3, 10, 8, 0, tzinfo=datetime.UTC)


class Clock:
    """The time, as the modules that ask for it see it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.time = DAY
        for module in (deliver, digest, follow, follow_command, mail):
            patch.setattr(module, "now", lambda: self.time)

    def forward(self, **how: int) -> None:
        self.time += datetime.timedelta(**how)


def prepare(tmp_path: Path, patch: pytest.MonkeyPatch) -> Clock:
    """A store in a folder, no mail settings, searches by words alone."""
    patch.setenv("FOVEATE_PAPERS", str(tmp_path / "papers.sqlite"))
    patch.setenv("FOVEATE_HOME", str(tmp_path / "home"))
    patch.setattr(search, "encoder", lambda: None)
    for key in ("HOST", "FROM", "USER", "PASSWORD", "SECURITY", "PORT", "CA"):
        patch.delenv(f"FOVEATE_SMTP_{key}", raising=False)
    return Clock(patch)


def put(title: str, **values: Any) -> int:
    """Put a paper of the user's into the store; its number."""
    row = {
        "slug": "-".join(title_key(word) for word in title.split() if title_key(word))[:60],
        "title": title,
        "title_key": title_key(title),
        "name": title,
        "source": "mine.bib",
        "added": DAY.date().isoformat(),
        "shipped": 0,
        "own": "{}",
        **values,
    }
    names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    with database().write() as db:
        done = db.execute(f"INSERT INTO papers({names}) VALUES ({marks})", tuple(row.values()))
        assert done.lastrowid is not None
        return done.lastrowid


class Box:
    """Takes mail and keeps it; ``refuse`` is what it answers to a mail instead."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []
        self.refuse: str | None = None
        self.refuse_recipient: str | None = None

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.refuse_recipient:
            return self.refuse_recipient
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse
        self.mails.append(envelope.content)
        return "250 taken"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*made.split(), *files], check=True, capture_output=True)
    return cert, key


@contextmanager
def serve(box: Box, pem: tuple[Path, Path], security: str) -> Iterator[int]:
    """A mail server on this machine that wants the password of ann; its port."""
    controller = pytest.importorskip("aiosmtpd.controller", reason="aiosmtpd is not installed")
    from aiosmtpd.smtp import AuthResult

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pem)

    def let_in(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        good = (data.login, data.password) == (b"ann", b"open sesame")
        return AuthResult(success=good, handled=False)

    ways = {
        "starttls": {"tls_context": context, "require_starttls": True, "auth_required": True},
        "tls": {"ssl_context": context, "auth_required": True, "auth_require_tls": False},
        "none": {},
    }

    class Local(controller.Controller):  # type: ignore[misc,name-defined]
        def _trigger_server(self) -> None:
            self.port = self.server.sockets[0].getsockname()[1]  # the one it was given for 0
            super()._trigger_server()

    given = {"authenticator": let_in, "enable_SMTPUTF8": False, **ways[security]}
    running = Local(box, hostname="127.0.0.1", port=0, **given)
    running.start()
    try:
        yield running.port
    finally:
        running.stop()


def environment(port: int, pem: tuple[Path, Path], security: str = "starttls") -> dict[str, str]:
    """Settings for such a server."""
    found = {
        "HOST": "localhost",
        "PORT": str(port),
        "FROM": "papers@example.org",
        "SECURITY": security,
        "CA": str(pem[0]),
    }
    if security != "none":
        found |= {"USER": "ann", "PASSWORD": "open sesame"}
    return {f"FOVEATE_SMTP_{key}": value for key, value in found.items()}
