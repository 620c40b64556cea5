"""`fedcohort privacy`: numbers that hold, refusals in one line, one JSON document."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event, pld

Command = Callable[..., Any]

YEAR = [
    {
        "class_name": "SelfComposedDpEvent",
        "count": count,
        "event": {
            "class_name": "PoissonSampledDpEvent",
            "sampling_probability": share,
            "event": {"class_name": "GaussianDpEvent", "noise_multiplier": noise},
        },
    }
    for count, share, noise in ((400, 0.05, 2.0), (200, 0.1, 3.0), (20, 1.0, 25.0), (40, 1, 20))
]


def told(answer: Any) -> dict[str, Any]:
    """Return the one document of a command that was answered, and check that it is only that."""
    assert answer.code == 0, answer.err
    assert answer.err == ""
    document: dict[str, Any] = json.loads(answer.out, parse_constant=pytest.fail)
    return document


def refusal(answer: Any) -> tuple[int, str, str]:
    """Return exit code, code, and both lines of a refusal."""
    assert answer.out == ""
    assert "Traceback" not in answer.err
    lines = answer.err.rstrip("\n").split("\n")
    assert len(lines) == 2, answer.err
    found = re.fullmatch(r"refused \((\w+)\): (.+)", lines[0])
    assert found, answer.err
    return answer.code, found[1], answer.err


def words(**options: object) -> list[str]:
    return [
        word
        for key, value in options.items()
        for word in (f"--{key.replace('_', '-')}", str(value))
    ]


# ---- epsilon


@pytest.mark.parametrize(
    ("q", "z", "steps", "delta", "known", "renyi"),
    # Measured beforehand: privacy loss distribution and Renyi DP of dp-accounting 0.6.0
    [
        (0.1, 2, 300, 1e-4, 3.5965, 3.9919),
        (1, 20, 20, 1e-6, 0.9405, 1.0142),
    ],
)
def test_epsilon_is_the_references(
    command: Command, q: float, z: float, steps: int, delta: float, known: float, renyi: float
) -> None:
    asked = words(noise_multiplier=z, steps=steps, delta=delta, sampling_probability=q)
    document = told(command("privacy", "epsilon", *asked, "--json"))
    assert known * 0.998 <= document["epsilon"] <= known * 1.01
    assert document["pld_epsilon"] == document["epsilon"]
    assert document["rdp_epsilon"] == pytest.approx(renyi, rel=0.02)


def test_every_epsilon_says_what_it_means(command: Command) -> None:
    asked = words(noise_multiplier=20, steps=20, delta=1e-6)
    document = told(command("privacy", "epsilon", *asked, "--json"))
    assert document["noise_multiplier"] == 20
    assert document["steps"] == 20
    assert document["delta"] == 1e-6
    assert document["sampling_probability"] == 1
    assert document["relation"] == "add-remove"
    assert document["bound"] == "pld"
    assert document["unit"] == "patient"
    assert document["accountant"] == "dp-accounting"
    assert document["accountant_version"] == version("dp-accounting")
    assert "integer noise in a sum" in " ".join(document["notes"])
    several = {row["hospitals"]: row["epsilon"] for row in document["hospitals_per_person"]}
    assert several[1] == document["epsilon"]
    for hospitals in (2, 3):  # noise in the sum: one patient, so many clip norms
        less = words(noise_multiplier=20 / hospitals, steps=20, delta=1e-6)
        alone = told(command("privacy", "epsilon", *less, "--json"))
        assert several[hospitals] == pytest.approx(alone["epsilon"], rel=1e-9)


def test_the_relation_is_heeded_and_named(command: Command) -> None:
    asked = words(noise_multiplier=20, steps=20, delta=1e-6, relation="replace-one")
    document = told(command("privacy", "epsilon", *asked, "--json"))
    assert document["relation"] == "replace-one"
    assert document["epsilon"] == pytest.approx(1.9945, rel=1e-3)
    assert document["rdp_epsilon"] > document["epsilon"]


def test_without_json_people_get_a_table_with_both_bounds(command: Command) -> None:
    answer = command("privacy", "epsilon", *words(noise_multiplier=20, steps=20, delta=1e-6))
    assert answer.code == 0
    assert answer.err == ""
    assert "\x1b" not in answer.out
    for part in (
        "0.9406",
        "1.0142",
        "1.9946",
        "3 hospitals",
        "PLD is proved for integer noise in a sum",
    ):
        assert part in answer.out


@pytest.mark.parametrize(("z", "proved"), [(0.12, False), (0.125, True), (20, True)])
@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
def test_the_tighter_bound_is_called_proved_from_an_eighth_of_a_clip_norm(
    command: Command, z: float, proved: bool, relation: str
) -> None:
    asked = words(noise_multiplier=z, steps=1, delta=1e-6, relation=relation)
    (first, _) = told(command("privacy", "epsilon", *asked, "--json"))["notes"]
    assert first.startswith("PLD is proved") == proved
    assert first.startswith("RDP is the bound that holds") != proved


@pytest.mark.parametrize(
    ("z", "steps", "q", "known"),
    [(0, 1, 1, "Infinity"), (0, 5, 0.1, "Infinity"), (0, 0, 1, 0), (2, 0, 1, 0), (0, 5, 0, 0)],
)
def test_no_noise_is_infinite_in_valid_json_and_no_release_is_nothing(
    command: Command, z: float, steps: int, q: float, known: object
) -> None:
    asked = words(noise_multiplier=z, steps=steps, delta=1e-5, sampling_probability=q)
    document = told(command("privacy", "epsilon", *asked, "--json"))
    assert document["epsilon"] == document["rdp_epsilon"] == known
    assert math.isinf(float(document["epsilon"])) == (known == "Infinity")


# ---- calibrate


@pytest.mark.parametrize(
    ("epsilon", "steps", "q", "known"),
    [(3, 400, 0.05, 1.6208), (1, 20, 1, 16.684), (8, 20, 1, 2.6843)],
)
def test_calibrated_noise_is_the_references_and_never_too_little(
    command: Command, epsilon: float, steps: int, q: float, known: float
) -> None:
    asked = words(epsilon=epsilon, delta=1e-5, steps=steps, sampling_probability=q)
    document = told(command("privacy", "calibrate", *asked, "--json"))
    z = document["noise_multiplier"]
    assert z == pytest.approx(known, rel=0.01)
    assert epsilon * 0.999 <= document["epsilon"] <= epsilon == document["target_epsilon"]
    gaussian = dp_event.GaussianDpEvent(z)
    single = gaussian if q == 1 else dp_event.PoissonSampledDpEvent(q, gaussian)
    assert pld.PLDAccountant().compose(single, steps).get_epsilon(1e-5) <= epsilon
    assert not document["ledger"]["pays"]


@pytest.mark.parametrize(("q", "more"), [(1, (1.07, 1.11)), (0.3, (1.0, 1.2))])
def test_noise_for_a_ledger_is_what_its_budget_can_pay(
    command: Command, q: float, more: tuple[float, float]
) -> None:
    from fedcohort.privacy.budget import Budget
    from fedcohort.privacy.mechanism import Mechanism

    asked = words(epsilon=3, delta=1e-5, steps=20, sampling_probability=q)
    plain = told(command("privacy", "calibrate", *asked, "--json"))
    document = told(command("privacy", "calibrate", *asked, "--for-ledger", "--json"))
    z = document["noise_multiplier"]
    assert more[0] * plain["noise_multiplier"] < z < more[1] * plain["noise_multiplier"]
    budget = Budget(epsilon=3, delta=1e-5)
    mechanism = Mechanism(noise_multiplier=z, sampling_probability=q)
    assert budget.holds(20 * mechanism.rdp(budget.order))
    assert document["ledger"]["pays"]
    assert document["ledger"]["noise_multiplier"] == plain["ledger"]["noise_multiplier"] == z
    assert document["ledger"]["order"] == budget.order
    assert document["bound"] == "rdp"
    assert document["epsilon"] <= 3 * (1 + 1e-9)
    assert document["pld_epsilon"] < document["epsilon"]


def test_what_is_printed_can_be_typed_again(command: Command) -> None:
    asked = words(epsilon=1, delta=1e-5, steps=20)
    answer = command("privacy", "calibrate", *asked)
    z = re.search(r"noise multiplier ([\d.]+)", answer.out)
    assert z
    again = words(noise_multiplier=z[1], delta=1e-5, steps=20)
    assert told(command("privacy", "epsilon", *again, "--json"))["epsilon"] <= 1
    assert "order 18" in answer.out


# ---- compose


def test_a_year_of_mixed_releases_is_added_up_in_any_order(
    command: Command, tmp_path: Path
) -> None:
    found = []
    for name, events in (("a.json", YEAR), ("b.json", YEAR[::-1])):
        (tmp_path / name).write_text(json.dumps(events), encoding="utf-8")
        found.append(told(command("privacy", "compose", name, "--delta", "1e-5", "--json")))
    assert found[0] == found[1]
    document = found[0]
    assert document["epsilon"] == pytest.approx(3.4956, rel=0.01)  # measured beforehand
    assert document["rdp_epsilon"] == pytest.approx(3.7988, rel=0.01)
    assert document["bound"] == "pld"
    assert document["releases"] == 660
    assert [row["count"] for row in document["mechanisms"]] == [40, 20, 400, 200]


def test_a_list_with_integer_noise_says_that_its_bound_is_renyi(
    command: Command, tmp_path: Path
) -> None:
    events = [*YEAR[2:], {"class_name": "ZCDpEvent", "rho": 0.005}]
    (tmp_path / "events.json").write_text(json.dumps(events), encoding="utf-8")
    document = told(command("privacy", "compose", "events.json", "--delta", "1e-5", "--json"))
    assert document["bound"] == "rdp"
    assert document["pld_epsilon"] is None
    assert document["epsilon"] == document["rdp_epsilon"]
    answer = command("privacy", "compose", "events.json", "--delta", "1e-5")
    assert "RDP is the bound" in answer.out
    assert "zCDP, rho 0.005" in answer.out


def test_nothing_released_costs_nothing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "events.json").write_text("[]", encoding="utf-8")
    document = told(command("privacy", "compose", "events.json", "--delta", "1e-5", "--json"))
    assert document["epsilon"] == document["rdp_epsilon"] == document["releases"] == 0


@pytest.mark.parametrize(
    ("text", "code", "exit_code"),
    [
        ('[{"class_name": "NonPrivateDpEvent"}]', "event_unknown", 3),
        ('[{"class_name": "GaussianDpEvent", "noise_multiplier": NaN}]', "event_unreadable", 1),
        ('[{"class_name": "GaussianDpEvent", "noise_multiplier": 0}]', "event_unreadable", 1),
        ("not json", "event_unreadable", 1),
        (" " * (2**20 + 1), "event_unreadable", 1),
    ],
)
def test_a_list_that_cannot_be_trusted_is_refused(
    command: Command, tmp_path: Path, text: str, code: str, exit_code: int
) -> None:
    (tmp_path / "events.json").write_text(text, encoding="utf-8")
    for more in ([], ["--json"]):
        answer = command("privacy", "compose", "events.json", "--delta", "1e-5", *more)
        assert refusal(answer)[:2] == (exit_code, code)


def test_a_sum_that_nobody_can_bound_is_refused(command: Command, tmp_path: Path) -> None:
    events = [YEAR[0], {"class_name": "ZCDpEvent", "rho": 0.005}]
    (tmp_path / "events.json").write_text(json.dumps(events), encoding="utf-8")
    asked = ("privacy", "compose", "events.json", "--delta", "1e-5")
    assert told(command(*asked, "--json"))["bound"] == "rdp"
    assert refusal(command(*asked, "--relation", "replace-one"))[:2] == (3, "event_unsupported")


def test_a_list_that_is_not_there_is_one_line(command: Command) -> None:
    answer = command("privacy", "compose", "nowhere.json", "--delta", "1e-5")
    assert refusal(answer)[:2] == (1, "file_error")


# ---- what is refused

GOOD = {"noise_multiplier": "2", "steps": "10", "delta": "1e-5"}


@pytest.mark.parametrize("bad", ["nan", "-1", "inf", "-inf", "1e-9", "1e12", "two", "", "1e400"])
def test_noise_that_is_none_is_refused(command: Command, bad: str) -> None:
    answer = command("privacy", "epsilon", *words(**(GOOD | {"noise_multiplier": bad})), "--json")
    code, name, said = refusal(answer)
    assert (code, name) == (1, "noise_multiplier_invalid")
    assert f"got {bad}" in said
    assert "0 or a number in" in said


@pytest.mark.parametrize("bad", ["0", "1", "-1e-5", "1.5", "nan", "inf", "small"])
def test_a_delta_outside_zero_and_one_is_refused(
    command: Command, bad: str, tmp_path: Path
) -> None:
    (tmp_path / "events.json").write_text(json.dumps(YEAR), encoding="utf-8")
    for asked in (
        ["epsilon", *words(**(GOOD | {"delta": bad}))],
        ["calibrate", *words(epsilon=1, steps=10, delta=bad)],
        ["compose", "events.json", "--delta", bad],
    ):
        code, name, said = refusal(command("privacy", *asked))
        assert (code, name) == (1, "delta_invalid")
        assert f"got {bad}" in said
        assert "(0, 1)" in said


@pytest.mark.parametrize("bad", ["-0.1", "1.01", "nan", "inf", "half"])
def test_a_share_that_is_none_is_refused(command: Command, bad: str) -> None:
    for asked in (
        ["epsilon", *words(**GOOD, sampling_probability=bad)],
        ["calibrate", *words(epsilon=1, steps=10, delta=1e-5, sampling_probability=bad)],
    ):
        assert refusal(command("privacy", *asked))[:2] == (1, "sampling_probability_invalid")


@pytest.mark.parametrize("bad", ["-1", "2.5", "1e3", "nan", "inf", "ten", "10000000000", "³"])
def test_steps_that_are_none_are_refused(command: Command, bad: str) -> None:
    for asked in (
        ["epsilon", *words(**(GOOD | {"steps": bad}))],
        ["calibrate", *words(epsilon=1, steps=bad, delta=1e-5)],
    ):
        assert refusal(command("privacy", *asked))[:2] == (1, "steps_invalid")


@pytest.mark.parametrize("bad", ["0", "-1", "nan", "inf", "1e9", "three"])
def test_an_epsilon_that_is_none_is_refused(command: Command, bad: str) -> None:
    answer = command("privacy", "calibrate", *words(epsilon=bad, steps=10, delta=1e-5))
    assert refusal(answer)[:2] == (1, "epsilon_invalid")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"epsilon": 1, "steps": 0, "delta": 1e-5}, "steps_invalid"),
        (
            {"epsilon": 1, "steps": 10, "delta": 1e-5, "sampling_probability": 0},
            "sampling_probability_invalid",
        ),
        ({"epsilon": 1e-6, "steps": 100, "delta": 1e-30}, "epsilon_invalid"),
    ],
)
def test_noise_for_what_needs_none_or_too_much_is_refused(
    command: Command, options: dict[str, object], code: str
) -> None:
    assert refusal(command("privacy", "calibrate", *words(**options)))[:2] == (1, code)


def test_a_relation_that_is_none_is_refused_and_a_ledger_knows_only_one(command: Command) -> None:
    answer = command("privacy", "epsilon", *words(**GOOD, relation="replace"))
    code, name, said = refusal(answer)
    assert (code, name) == (1, "relation_invalid")
    assert "add-remove or replace-one" in said
    asked = words(epsilon=1, steps=10, delta=1e-5, relation="replace-one")
    answer = command("privacy", "calibrate", *asked, "--for-ledger")
    assert refusal(answer)[:2] == (1, "relation_invalid")


def test_a_ledger_that_cannot_hold_the_epsilon_is_refused(command: Command) -> None:
    asked = words(epsilon=1e-5, steps=1, delta=1e-5)
    assert told(command("privacy", "calibrate", *asked, "--json"))["ledger"] is None
    answer = command("privacy", "calibrate", *asked, "--for-ledger")
    assert refusal(answer)[:2] == (1, "epsilon_invalid")


# ---- as people start it


def test_the_calculator_starts_as_a_process_and_leaves_nothing(
    fedcohort: Command, tmp_path: Path
) -> None:
    asked = words(noise_multiplier=9, steps=20, delta=1e-5, sampling_probability=0.5)
    answer = fedcohort("privacy", "epsilon", *asked, "--json", cwd=tmp_path)
    assert 0 < told(answer)["epsilon"] < told(answer)["rdp_epsilon"]
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_three_commands_without_the_accountant(
    fedcohort: Command, tmp_path: Path
) -> None:
    answer = fedcohort("privacy", "--help", cwd=tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert answer.code == 0
    for name in ("epsilon", "calibrate", "compose"):
        assert name in answer.out
    assert "typer" in answer.err
    assert "dp_accounting" not in answer.err
