"""What `deploy/` promises: no root, no right too many, one way out, versions that stay."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from fedcohort.experiments import commands

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ROLES = ("site", "coordinator")
CONTAINER = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text(encoding="utf-8"))
MOST_EXPOSED = 2.0  # of 10, as systemd counts; 1.5 when this was written

HARDENED = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "UMask": "0077",
    "LimitCORE": "0",
    "Environment": "PYTHONSAFEPATH=1",
    "StateDirectoryMode": "0700",
    "KillSignal": "SIGTERM",
    "TimeoutStopSec": "40",
    "Restart": "always",
    "RestartSec": "10",
}


def path_of(role: str) -> Path:
    return DEPLOY / "systemd" / f"fedcohort-{role}.service"


def unit(role: str) -> dict[str, list[str]]:
    """Return the values of each key of a unit's [Service], in order."""
    found: dict[str, list[str]] = {}

    class Lists(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if isinstance(value, list):
                found.setdefault(key, []).extend(value)
            super().__setitem__(key, value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Lists, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path_of(role).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_gives_its_process_no_right_too_many(role: str) -> None:
    keys = unit(role)
    assert {name: keys.get(name, ["(missing)"])[-1] for name in HARDENED} == HARDENED
    assert keys["SystemCallFilter"][0] == "@system-service"
    assert keys["User"] == [f"fedcohort-{role}"]
    assert keys["ReadWritePaths"] == [f"/var/lib/{keys['StateDirectory'][0]}"]


def test_a_node_cannot_write_its_extract() -> None:
    assert unit("site")["ReadOnlyPaths"] == ["/var/lib/fedcohort-site/data"]


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_honours_the_proxy_of_its_machine(role: str) -> None:
    assert unit(role)["EnvironmentFile"] == [f"-/etc/fedcohort/{role}.env"]


def known(words: list[str]) -> None:
    """Hold a command and its options against what `fedcohort` has."""
    tool: Any = typer.main.get_command(commands.app)
    while words and hasattr(tool, "commands"):
        assert words[0] in tool.commands, words
        tool = tool.commands[words.pop(0)]
    options = {name for parameter in tool.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_starts_what_there_is(role: str) -> None:
    (line,) = unit(role)["ExecStart"]
    program, *words = shlex.split(line)
    assert program == "/opt/fedcohort/bin/fedcohort"
    assert words == [role, "start", "--folder", f"/var/lib/fedcohort-{role}"]
    known(words)


# ---- systemd's own judgement, where it is installed

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="there is no systemd-analyze here")


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ANALYZE), *words], capture_output=True, text=True, check=False, timeout=60
    )


@needs_systemd
@pytest.mark.parametrize("role", ROLES)
def test_systemd_understands_every_line(role: str, tmp_path: Path) -> None:
    text = (
        path_of(role)
        .read_text(encoding="utf-8")
        .replace("/opt/fedcohort/bin/fedcohort", "/bin/true")
    )
    copy = tmp_path / path_of(role).name
    copy.write_text(text, encoding="utf-8")
    done = analyze("verify", str(copy))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("role", ROLES)
def test_systemd_finds_little_exposed(role: str) -> None:
    done = analyze("security", "--offline=true", str(path_of(role)))
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= MOST_EXPOSED


# ---- the container


def instructions(name: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", CONTAINER)
    return re.findall(rf"^{name} (.+)$", joined, flags=re.MULTILINE)


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert instructions("USER") == ["10001:10001"]
    last = CONTAINER.rindex("\nUSER")
    assert not re.findall(r"^(RUN|COPY|ADD) ", CONTAINER[last:], flags=re.MULTILINE)


def test_the_image_names_its_base_and_its_versions() -> None:
    bases = instructions("FROM")
    assert bases
    for base in bases:
        assert re.match(r"\S+/python:3\.11\.\d+-slim-\w+( AS \w+)?$", base)
    assert "latest" not in CONTAINER
    assert any("-c /build/constraints.txt" in line for line in instructions("RUN"))
    assert not re.search(r"curl|wget|git clone|ADD http", CONTAINER)


def test_the_image_starts_and_asks_after_itself_with_commands_that_exist() -> None:
    assert instructions("ENTRYPOINT") == ['["fedcohort"]']
    known(yaml.safe_load(instructions("CMD")[-1]))
    (health,) = instructions("HEALTHCHECK")
    program, *words = yaml.safe_load(health.partition("CMD ")[2])
    assert program == "fedcohort"
    known(words)


@pytest.mark.parametrize("role", ROLES)
def test_a_container_has_no_right_too_many(role: str) -> None:
    service = COMPOSE["services"][role]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert not {"privileged", "network_mode", "cap_add", "devices", "pid"} & set(service)
    assert "latest" not in service["image"]
    known(list(service["command"]))


def test_a_node_has_no_port_and_a_coordinator_one() -> None:
    assert "ports" not in COMPOSE["services"]["site"]
    assert COMPOSE["services"]["coordinator"]["ports"] == ["443:9092"]
    known(COMPOSE["services"]["coordinator"]["healthcheck"]["test"][2:])


def test_a_container_cannot_write_the_extract() -> None:
    volumes = COMPOSE["services"]["site"]["volumes"]
    assert volumes[0] == "site:/site"
    assert (volumes[1]["target"], volumes[1]["read_only"]) == ("/site/data", True)
