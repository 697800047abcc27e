"""The page is served to this machine alone, under a policy, and says what is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from foveate.cli import ui as command
from foveate.errors import FoveateError
from foveate.ui import app
from foveate.ui.serve import listenable, loopback


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.0.0.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, own: bool) -> None:
    assert loopback(host) is own


def get(address: str, **headers: str) -> Any:
    request = urllib.request.Request(address, headers=headers)
    return urllib.request.urlopen(request, timeout=10)


def test_the_policy_forbids_what_is_elsewhere(address: str) -> None:
    policy = get(address).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_a_foreign_name_for_this_machine_is_refused(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address, Host="evil.example")
    assert caught.value.code == 400


def test_nothing_but_the_page_can_be_fetched(address: str) -> None:
    for path in ("gradio_api/file=/etc/passwd", "gradio_api/file=pyproject.toml", "docs"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(address + path)
        assert caught.value.code in (403, 404)


def test_nothing_can_be_uploaded(address: str) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc\r\n--x--\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{address}gradio_api/upload", data=form, headers=kind)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 413


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FoveateError, match=f"{port}.*--port"):
            listenable("127.0.0.1", port)


@pytest.mark.parametrize("host", ["not-a-host.invalid", "203.0.113.9", "x" * 300, ""])
def test_a_host_that_is_not_this_machine_is_named(host: str) -> None:
    with pytest.raises(FoveateError, match="--host"):
        listenable(host)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(FoveateError, match=r"foveate\[ui\]"):
        app.gradio()


def test_gradio_is_imported_when_a_page_is_built_and_not_before() -> None:
    code = "import sys, foveate.ui, foveate.cli.ui; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_command_warns_where_others_can_reach_the_page(
    monkeypatch: pytest.MonkeyPatch, host: str, warned: bool
) -> None:
    pytest.importorskip("gradio")
    asked: dict[str, Any] = {}

    class Page:
        def close(self, verbose: bool) -> None:
            asked["closed"] = True

    def served(*given: Any, policy: Any) -> tuple[Page, str]:
        asked["given"] = (*given, policy)
        return Page(), "http://127.0.0.1:7860/"

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    import importlib

    # the package's name `serve` is the function; the command imports from the module
    monkeypatch.setattr(importlib.import_module("foveate.ui.serve"), "serve", served)
    monkeypatch.setattr(importlib.import_module("foveate.ui.serve"), "listenable", print)
    monkeypatch.setattr(command.common, "load_model", lambda name: ("model", "tokenizer"))
    monkeypatch.setattr(command.time, "sleep", interrupted)
    app_ = typer.Typer()
    app_.command()(command.ui)
    result = CliRunner().invoke(app_, ["--host", host, "--port", "7861"])
    assert result.exit_code == 0, result.output
    assert asked == {"given": ("model", "tokenizer", "smollm2", host, 7861, None), "closed": True}
    assert ("warning" in result.stderr) is warned
    assert "http://127.0.0.1:7860/" in result.stdout
