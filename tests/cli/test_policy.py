"""--policy: what it means to each command, and where it is refused with the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import foveate as fv
from families import build, inputs, llama_of
from foveate.check import exact
from foveate.check.subject import Failed, NotApplicable, Subject
from foveate.cli import app, check, common
from foveate.policy import Policy
from foveate.ui import compare as page

NOTES = (
    "The gate of the old house is red.\n\nThe door of the new house is blue.\n\n"
    "The roof of the small house is grey.\n\nWhich colour has the door?"
)
TURNED = fv.Policy([fv.Emphasize("closest passage", 9.0)], ["question twice"], name="turned")
WINDOW = fv.Policy([fv.SlidingWindow(8, sinks=1)], name="window")


@pytest.fixture(scope="module")
def tiny(smollm2: tuple[Any, Any]) -> Any:
    return llama_of(len(smollm2[1]))


@pytest.fixture
def run(smollm2: tuple[Any, Any], tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command on a tiny random model with the embedded tokenizer."""
    for module in (common, check):
        monkeypatch.setattr(module, "load", lambda name: (tiny, smollm2[1]))
    return lambda *given: CliRunner().invoke(app, list(map(str, given)))


def saved(policy: Policy, folder: Path) -> Path:
    return policy.save(folder / f"{policy.name}.toml")


def test_see_looks_at_what_the_policy_asks(run: Any, tmp_path: Path) -> None:
    path = saved(TURNED, tmp_path)
    plain = json.loads(run("see", NOTES, "--json").stdout)
    found = json.loads(run("see", NOTES, "--policy", path, "--ablate", "--json").stdout)
    assert found["tokens"] > plain["tokens"]  # the question stands twice
    shares = {one["region"]: one["last"] for one in found["regions"]}
    assert shares["closest passage"] > 0
    assert "closest passage" in [one["region"] for one in found["ablations"]]
    assert plain["policy"] is None and found["policy"] == "turned"
    page = tmp_path / "see.html"
    shown = run("see", NOTES, "--policy", path, "--ablate", "--report", page).stdout
    assert "Under the policy “turned”: rewrite 'question twice' + Emphasize(" in shown
    drawn = page.read_text("utf-8")
    assert "<h1>Where the model looked under “turned”</h1>" in drawn
    assert "<dt>Policy</dt><dd>turned</dd>" in drawn and "Tested under the policy “turned”" in drawn
    assert "as it is, without steering" not in drawn
    marked = run("see", NOTES, "--mark", "closest passage=The gate of", "--json")
    less = {one["region"]: one["last"] for one in json.loads(marked.stdout)["regions"]}
    steered = run(
        "see", NOTES, "--policy", saved(fv.Policy(TURNED.methods, name="gain"), tmp_path),
        "--mark", "closest passage=The gate of", "--json",
    )  # fmt: skip
    more = {one["region"]: one["last"] for one in json.loads(steered.stdout)["regions"]}
    assert more["closest passage"] > less["closest passage"]  # his own mark counts


def test_steer_shows_before_and_after(run: Any, tmp_path: Path) -> None:
    path = saved(TURNED, tmp_path)
    found = json.loads(
        run("steer", NOTES, "--policy", path, "--max-new-tokens", 4, "--json").stdout
    )
    plain = json.loads(
        run("steer", NOTES, "--emphasize", "red", "--max-new-tokens", 4, "--json").stdout
    )
    assert found["without"]["answer"] == plain["without"]["answer"]  # of the prompt as it was
    assert found["steered"]["answer"] != found["without"]["answer"]
    masses = [
        {one["region"]: one["last"] for one in found[key]["regions"]}
        for key in ("without", "steered")
    ]
    assert masses[0]["closest passage"] < masses[1]["closest passage"]
    assert "Policy('turned'" in found["methods"][0]
    shown = run("steer", NOTES, "--policy", path, "--emphasize", "red", "--max-new-tokens", 2)
    assert "with policy “turned”, gain 5 on “red”" in shown.stdout


def test_compare_asks_under_it_too(run: Any, tmp_path: Path) -> None:
    path, empty = saved(TURNED, tmp_path), saved(fv.Policy(name="empty"), tmp_path)
    given = ("--task", "distractors", "--n", 2, "--json")
    table = json.loads(run("compare", *given, "--policy", path, "--policy", empty).stdout)
    replies = {cell["method"]: cell["replies"] for cell in table["cells"]}
    assert list(replies) == ["dense", "turned", "empty"]
    assert replies["empty"] == replies["dense"] != replies["turned"]
    twice = run("compare", *given, "--policy", path, "--policy", path)
    assert twice.exit_code == 2 and "'turned' is taken already" in twice.stderr


@pytest.mark.parametrize("command", ["heads", "tune"])
def test_where_prompts_are_foveates_own(command: str, run: Any, tmp_path: Path) -> None:
    refused = run(command, "--policy", saved(TURNED, tmp_path))
    assert refused.exit_code == 2
    assert re.search(
        rf"foveate {command} asks with prompts of its own.*'turned'.*question twice, closest "
        "passage",
        refused.stderr,
    )


def test_heads_are_scored_under_it(run: Any, tmp_path: Path) -> None:
    given = ("heads", "--kind", "sink", "--n", 2, "--json")
    dense = json.loads(run(*given).stdout)
    window = json.loads(run(*given, "--policy", saved(WINDOW, tmp_path)).stdout)
    assert window["top"] != dense["top"]


def test_check_says_that_it_is_left(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = build("llama")
    monkeypatch.setattr(check, "load", lambda name: (tiny, None))
    path = saved(fv.Policy([*TURNED.methods, *WINDOW.methods], name="both"), tmp_path)
    found = json.loads(run("check", "tiny", "--policy", path, "--json").stdout)
    states = {one["test"]: one["state"] for one in found["outcomes"]}
    assert states["policy"] == "passed"
    subject = Subject(tiny, inputs("llama"))
    with pytest.raises(fv.FoveateError, match="layer 7"):
        exact.policy(subject, fv.Policy([fv.Emphasize("question", 2.0, layers=[7])]))
    with pytest.raises(NotApplicable, match="several calls"):
        exact.policy(subject, fv.Policy(fv.AutoPASTA()))
    restless = fv.Policy(Restless())
    with pytest.raises(Failed, match="after the policy"):
        exact.policy(subject, restless)


class Restless(fv.Emphasize):
    """A method that does not clean up."""

    def __init__(self) -> None:
        super().__init__("question", 2.0)

    def hooks(self, model: Any, sites: Any) -> Any:
        model.register_buffer("left", torch.zeros(1))
        return iter(())


@pytest.mark.slow
def test_demo_asks_the_questions_too(run: Any, tmp_path: Path) -> None:
    path = saved(fv.Policy(name="empty"), tmp_path)
    found = json.loads(run("demo", "--questions", 2, "--policy", path, "--json").stdout)
    told = found["policy"]
    assert told["name"] == "empty" and told["right"] == found["table"]["right_without"]
    assert told["replies"] == [one["without"] for one in found["outcomes"]]


def test_the_page_offers_it() -> None:
    desk: Any = SimpleNamespace(policy=TURNED)
    assert page.offered(desk)["policy turned"]() is TURNED
    page.compare(desk, ["policy turned"], "", list(page.TASKS)[:1], 2, 0)
    assert list(page.offered(SimpleNamespace(policy=None))) == list(page.METHODS)  # type: ignore[arg-type]


COMMANDS = ["see x", "steer x", "compare --task ioi", "heads", "tune", "demo", "ui", "check tiny"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_what_is_none(
    command: str, run: Any, tmp_path: Path, tiny: Any
) -> None:
    missing = run(*command.split(), "--policy", tmp_path / "none.toml")
    assert missing.exit_code == 2 and "no such file" in missing.stderr
    policy = fv.Policy(name="large", model=WINDOW.for_model(tiny).model, grid=(30, 9))
    other = run(*command.split(), "--policy", saved(policy, tmp_path))
    assert other.exit_code == 2
    assert "'large' was made for" in other.stderr and "of 30 × 9" in other.stderr


@pytest.mark.parametrize("command", [one.split()[0] for one in COMMANDS])
def test_every_command_says_what_it_means(command: str, run: Any) -> None:
    said = " ".join(run(command, "--help").stdout.split())
    assert "--policy FILE" in said.replace("│ ", "")


def test_other_weights_are_told_once(run: Any, tmp_path: Path, tiny: Any) -> None:
    path = saved(WINDOW.for_model(tiny), tmp_path)
    text = path.read_text("utf-8")
    path.write_text(re.sub('fingerprint = "[0-9a-f]+"', 'fingerprint = "0"', text), "utf-8")
    found = run("steer", "The gate is red.", "--policy", path, "--max-new-tokens", 2)
    assert found.exit_code == 0
    assert found.stderr.count("other weights") == 1 and "warning:" in found.stderr


def test_what_asks_by_itself_is_sent_to_compare(run: Any, tmp_path: Path) -> None:
    path = saved(fv.Policy(fv.AutoPASTA(by="likelihood"), name="auto"), tmp_path)
    for command in ("see", "steer"):
        refused = run(command, NOTES, "--policy", path)
        assert refused.exit_code == 2 and "foveate compare --policy" in refused.stderr
    asked = run("compare", "--task", "distractors(passages=2)", "--n", 1, "--policy", path)
    assert asked.exit_code == 0
