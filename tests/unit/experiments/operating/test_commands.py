"""What people type wrong at a node: one refusal with a code, and nothing is made or signed."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
import typer
from rich.console import Console

from fedcohort.experiments import commands
from fedcohort.experiments.operating import plan_words
from fedcohort.fl_client.governance.policy import Policy
from fedcohort.privacy.errors import FedCohortError

CLI = typer.main.get_command(commands.app)


def run(*words: object) -> None:
    CLI.main([str(word) for word in words], standalone_mode=False)


def refused(*words: object) -> str:
    with pytest.raises(FedCohortError) as error:
        run(*words)
    assert error.value.hint
    return error.value.code


@pytest.mark.parametrize(
    "words", ["start", "start --detach", "stop", "status", "studies", "results", "dry-run x"]
)
def test_a_folder_that_is_no_nodes_is_no_node_that_is_down(words: str, tmp_path: Path) -> None:
    assert refused("site", *words.split(), "--folder", tmp_path / "none") == "site_missing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["start", "start --detach", "stop", "status", "logs"])
def test_nor_does_a_wrong_folder_become_a_coordinators(words: str, tmp_path: Path) -> None:
    words_ = ("coordinator", *words.split(), "--folder", tmp_path / "none")
    assert refused(*words_) == "file_missing"
    assert list(tmp_path.iterdir()) == []


def test_people_hand_over_the_public_half_of_their_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in ("zhang", "li"):
        run("site", "approver-key", tmp_path / person)
    told = json.loads(capsys.readouterr().out.partition("}\n")[0] + "}")
    half = tmp_path / "zhang.pub"
    assert half.read_text(encoding="utf-8").strip() == told["public_key"]
    assert stat.S_IMODE((tmp_path / "zhang").stat().st_mode) == 0o600
    people = ["--owner", f"z={half}", "--officer", f"l={tmp_path / 'li.pub'}"]
    run("site", "init", "--folder", tmp_path / "site", "--site", "h03", *people)
    made = Policy.read(tmp_path / "site" / "policy.yaml")
    assert {person.name: person.key for person in made.approvers}["z"] == told["public_key"]


@pytest.mark.parametrize(
    "owner", ["", "z", "z=", "z=abc", f"z={'G' * 64}", f"={'0' * 64}", "z=zhang"]
)
def test_who_approves_is_a_name_and_a_key(owner: str, tmp_path: Path) -> None:
    officer = f"l={'1' * 64}"
    words = ("site", "init", "--folder", tmp_path / "site", "--site", "h03")
    assert refused(*words, "--owner", owner, "--officer", officer) == "approver_option"
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("said", ["", "n\n"])
def test_where_nobody_says_yes_nothing_is_signed(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    for person in ("zhang", "li"):
        run("site", "approver-key", tmp_path / person)
    people = ["--owner", f"z={tmp_path / 'zhang.pub'}", "--officer", f"l={tmp_path / 'li.pub'}"]
    site = tmp_path / "site"
    run("site", "init", "--folder", site, "--site", "h03", *people)
    words = ("site", "sign-policy", "--folder", site, "--as", "z", "--key", tmp_path / "zhang")
    assert refused(*words) == "not_confirmed"
    assert not (site / "policy.signatures.json").exists()


def test_an_invitation_names_an_address_that_a_node_can_use(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    words = ("coordinator", "invite", "a", "--folder", tmp_path, "--out", out)
    assert refused(*words, "--address", "nonsense") == "address_invalid"
    assert not out.exists()


def test_the_table_of_plans_fits_a_terminal() -> None:
    row = {
        "plan_sha256": "2bfd2096da7b" + "0" * 52,
        "study": "heart-disease",
        "analysis": "whitened",
        "sums": 10,
        "bytes": 856,
        "epsilon": 3.0,
        "cost_share": 0.195,
        "state": "one_approval",
        "stopped_by": "",
    }
    shown = io.StringIO()
    plan_words.show_studies([row], Console(file=shown, width=80))
    text = shown.getvalue()
    assert "1 plan came in" in text
    for word in ("2bfd2096da7b", "whitened", "one_approval", "19.5%"):
        assert word in text
