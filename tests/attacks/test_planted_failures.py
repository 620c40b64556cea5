"""Sixty ways to break a hospital, each with a patient in it; what leaves is a code and no more.

A real site, from its folder, answers through the worker as it does over the wire. The failures are
planted in tables, codebooks, mappings, lists, policies, approvals, ledgers and in the analysis
itself, with names, numbers and paths in values, in columns and in the texts of exceptions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto, recorddict_to_proto

from fedcohort.experiments.simulation.flower_compat import new_run, stamped
from fedcohort.fl_client import app as app_module
from fedcohort.fl_client import door
from fedcohort.fl_client.app import DATA_REFUSED
from fedcohort.fl_client.site import open_site
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.privacy.errors import FedCohortError
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.plan import Plan

NAME, NUMBER, PHONE, WARD = "张三", "110101195003077755", "13912345678", "secret-ward-7"
WHISPER = f"{NAME} {NUMBER} {PHONE} died in {WARD}"
CANARIES = [
    *(text.encode(code) for text in (NAME,) for code in ("utf-8", "gb18030", "utf-16-le")),
    *(text.encode() for text in (NUMBER, PHONE, WARD, ascii(NAME)[1:-1])),
]
# A class of exceptions, or a place in a file, tells what became of the data.
ERRORS = re.compile(
    rb"[A-Za-z]*(?:Error|Exception|Warning)\b|Traceback|\.py\b|/tmp|/work|/home|\.csv"
)
KEYS = {"answer": {"plan_sha256", "policy", "report", "site", "roster", "plan"},
        "refused": {"code", "exit", "policy"}}  # fmt: skip


def found_in(data: bytes) -> list[bytes]:
    """What stands in captured bytes and must not."""
    return [text for text in CANARIES if text in data] + ERRORS.findall(data)


def sizes_of_refusals(replies: list[Message]) -> set[int]:
    """Bytes of each no; Flower's own envelope holds random ids of varying length."""
    return {
        len(recorddict_to_proto(reply.content).SerializeToString())
        for reply in replies
        if "refused" in reply.content
    }


def check_nothing_but_codes(line: Any, root: Path) -> None:
    """No canary, no exception, no path, no key but the known ones; every no of one size."""
    for reply in line.replies:
        data = bytes(message_to_proto(reply).SerializeToString())
        assert not found_in(data), found_in(data)
        assert str(root).encode() not in data
        assert not reply.has_error()
        for name, record in reply.content.config_records.items():
            assert set(record) <= KEYS[name]
        assert not reply.content.metric_records
        if "refused" in reply.content:
            code = str(reply.content.config_records["refused"]["code"])
            assert len(code) == 48
            assert re.fullmatch(r"[a-z][a-z0-9_]*", code.strip()), code
            assert set(reply.content) == {"refused"}
    assert sizes_of_refusals(line.replies) <= {SIZE}


SIZE = len(
    recorddict_to_proto(
        RecordDict({"refused": ConfigRecord({"code": " " * 48, "exit": 3, "policy": "0" * 64})})
    ).SerializeToString()
)

# ---- what is planted

Plant = Callable[[Any], None]
DATA = "before the plan came"
AFTER = "after it was approved"
READ = "nothing: such a cell counts as missing, and people are told at the site"
SMALL = "nothing with noise, where no rule may look; without, what every data refusal says"
LATER = "between the plan and its first round"


def table(edit: Callable[[bytes], bytes]) -> Plant:
    def plant(hospital: Any) -> None:
        path = hospital.folder.root / "data" / "extract.csv"
        path.write_bytes(edit(path.read_bytes()))

    return plant


def cell(column: str, value: str, *, every: bool = False) -> Plant:
    """Put a value into the column's third row, or into every row."""

    def edit(raw: bytes) -> bytes:
        lines = [line.split(",") for line in raw.decode().splitlines()]
        at = lines[0].index(column)
        for row in lines[1:] if every else lines[3:4]:
            row[at] = value
        return "\n".join(",".join(line) for line in lines).encode()

    return table(edit)


def swap(old: bytes, new: bytes) -> Plant:
    return table(lambda raw: raw.replace(old, new))


def rows(keep: int) -> Plant:
    return table(lambda raw: b"\n".join(raw.splitlines()[: keep + 1]) + b"\n")


def text(name: str, edit: Callable[[str], str]) -> Plant:
    def plant(hospital: Any) -> None:
        path = hospital.folder.root / name
        path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")

    return plant


def raw(name: str, content: bytes) -> Plant:
    def plant(hospital: Any) -> None:
        path = hospital.folder.root / name
        path.write_bytes(content)
        path.chmod(0o600)

    return plant


def gone(name: str) -> Plant:
    return lambda hospital: (hospital.folder.root / name).unlink()


def folder(name: str) -> Plant:
    def plant(hospital: Any) -> None:
        (hospital.folder.root / name).unlink()
        (hospital.folder.root / name / NAME).mkdir(parents=True)

    return plant


def renamed(hospital: Any) -> None:
    """A table that is no Parquet, and whose name says who is in it."""
    text("mapping.yaml", lambda t: t.replace("data/extract.csv", f"data/{NAME}-{NUMBER}.parquet"))(
        hospital
    )
    raw(f"data/{NAME}-{NUMBER}.parquet", WHISPER.encode())(hospital)


def a_column_of(column: str) -> Plant:
    def plant(hospital: Any) -> None:
        swap(b"patient_id", column.encode())(hospital)
        text("mapping.yaml", lambda t: t.replace("patient_id", f'"{column}"'))(hospital)
        cell(column, NUMBER, every=True)(hospital)

    return plant


def signed_again(*changes: tuple[str, str]) -> Plant:
    def plant(hospital: Any) -> None:
        hospital.edit_policy(*changes)
        hospital.sign()

    return plant


MAPPING, CODEBOOK, OPT_OUT = "mapping.yaml", "data/codebook.yaml", "opt-out.txt"
PLANTED: dict[str, tuple[str, Plant, str]] = {
    # the table
    "a column is a name": (DATA, swap(b"chol", NAME.encode()), DATA_REFUSED),
    "a column stands twice": (DATA, swap(b"chol", b"age"), DATA_REFUSED),
    "the patients' column is gone": (DATA, swap(b"patient_id", NUMBER.encode()), DATA_REFUSED),
    "the outcome is a name": (DATA, cell("disease", NAME), SMALL),
    "the outcome is a number": (DATA, cell("disease", NUMBER), SMALL),
    "the outcome is missing": (DATA, cell("disease", "", every=True), SMALL),
    "an age is a name": (DATA, cell("age", NAME), READ),
    "an age is a phone number's text": (DATA, cell("age", f"tel {PHONE}"), READ),
    "an age is infinite": (DATA, cell("age", "1e999"), READ),
    "a category is nobody's": (DATA, cell("sex", NAME), READ),
    "a yes is a number": (DATA, cell("fbs", PHONE), READ),
    "a patient has no token": (DATA, cell("patient_id", ""), SMALL),
    "a formula": (DATA, cell("age", f"=cmd|{NAME}"), READ),
    "a huge cell": (DATA, cell("age", NUMBER * 20_000), READ),
    "a row is too long": (DATA, table(lambda r: r + f"9,{NAME},{NUMBER}\n".encode() * 3
                                      + b"1," * 90 + NAME.encode()), SMALL),
    "a quote is never closed": (DATA, table(lambda r: r + f'"{NAME},'.encode()), SMALL),
    "an empty table": (DATA, table(lambda r: b""), DATA_REFUSED),
    "a header alone": (DATA, rows(0), SMALL),
    "a name and nothing else": (DATA, table(lambda r: WHISPER.encode()), DATA_REFUSED),
    "another encoding": (DATA, table(lambda r: r.replace(b"asymptomatic", NAME.encode("gb18030"))),
                         READ),
    "sixteen bits": (DATA, table(lambda r: (r.decode() + NAME).encode("utf-16")), DATA_REFUSED),
    "zero bytes": (DATA, swap(b"asymptomatic", b"\0" + NAME.encode()), READ),
    "no table": (DATA, gone("data/extract.csv"), DATA_REFUSED),
    "a folder for a table": (DATA, folder("data/extract.csv"), DATA_REFUSED),
    "a name for a file": (DATA, renamed, DATA_REFUSED),
    "one patient, by name": (DATA, a_column_of(NAME), SMALL),
    # the codebook and the mapping
    "no codebook": (DATA, gone(CODEBOOK), DATA_REFUSED),
    "a codebook with an unknown key": (DATA, text(CODEBOOK, lambda t: f"{t}\n{NAME}: 1\n"),
                                       DATA_REFUSED),
    "a codebook with an unknown type": (DATA, text(CODEBOOK, lambda t: t.replace(
        "type: number", f"type: {NAME}", 1)), DATA_REFUSED),
    "a codebook that is a list of names": (DATA, raw(CODEBOOK, f"[{NAME}, {NUMBER}".encode()),
                                           DATA_REFUSED),
    "a codebook of another encoding": (DATA, raw(CODEBOOK, NAME.encode("gb18030")), DATA_REFUSED),
    "a codebook with a patient's range": (DATA, text(CODEBOOK, lambda t: t.replace(
        "[15, 95]", f"[95, {NAME}]")), DATA_REFUSED),
    "another study's codebook": (DATA, text(CODEBOOK, lambda t: t.replace("[15, 95]", "[16, 95]")),
                                 "schema_mismatch"),
    "a mapping with an unknown key": (DATA, text(MAPPING, lambda t: f"{t}{WARD}: {NAME}\n"),
                                      "yaml_unknown_key"),
    "a mapping that is broken": (DATA, text(MAPPING, lambda t: f"{t}[{NAME}: '"), "yaml_syntax"),
    "a mapping that points elsewhere": (DATA, text(MAPPING, lambda t: t.replace(
        "data/extract.csv", f"../../{NAME}.csv")), "path_outside"),
    "a mapping to a column that is no more": (DATA, text(MAPPING, lambda t: t.replace(
        "patient_id", NUMBER)), DATA_REFUSED),
    "a mapping with a feature of nobody's": (DATA, text(MAPPING, lambda t: t.replace(
        "[age,", f"[{WARD},")), "policy_column"),
    "no mapping": (DATA, gone(MAPPING), "yaml_unreadable"),
    # after two people said yes
    "the table changed": (AFTER, cell("age", "44"), "approval_other_data"),
    "an approval by another hand": (AFTER, text("approvals.jsonl", lambda t: t.replace(
        "approve", NAME)), "log_broken"),
    "an audit log that was cut": (AFTER, text("audit.jsonl", lambda t: t[: len(t) // 2]),
                                  "log_"),
    "a policy with a name in it": (AFTER, text("policy.yaml", lambda t: t.replace(
        "to be filled in", WHISPER)),
                                   "policy_unsigned"),
    "a policy that is broken": (AFTER, text("policy.yaml", lambda t: t + f"{NAME}: ["), "yaml_"),
    "no policy": (AFTER, gone("policy.yaml"), "policy_missing"),
    "signatures by nobody": (AFTER, raw("policy.signatures.json", WHISPER.encode()),
                             "policy_unsigned"),
    "a roster by nobody": (AFTER, raw("roster.json", WHISPER.encode()), "roster_unreadable"),
    "a ledger that is a letter": (AFTER, raw("ledger.sqlite", WHISPER.encode() * 999), ""),
    "a list of no-sayers that is gone": (LATER, gone(OPT_OUT), "opt_out_unreadable"),
    "a list in another encoding": (LATER, raw(OPT_OUT, NAME.encode("gb18030")),
                                   "opt_out_unreadable"),
    "a list with a letter in it": (LATER, raw(OPT_OUT, (WHISPER * 99).encode()),
                                   "opt_out_unreadable"),
    "a list with control characters": (LATER, raw(OPT_OUT, f"{NAME}\x1b[2J\n".encode()),
                                       "opt_out_unreadable"),
    "a list that is a folder": (LATER, folder(OPT_OUT), "opt_out_unreadable"),
    "a policy that changed": (LATER, signed_again(("max_rounds: 200", "max_rounds: 201")),
                              "approval_other_policy"),
    "a policy that ended": (LATER, signed_again(('expires: "2099-12-31"', 'expires: "2001-01-01"')),
                            "policy_expired"),
    "a rehearsal": (LATER, signed_again(("mode: enforce", "mode: dry_run")), "policy_dry_run"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["noisy", "exact"])
@pytest.mark.parametrize("name", PLANTED)
def test_a_failure_leaves_as_a_code_and_nothing_else(
    name: str,
    kind: str,
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
) -> None:
    when, plant, code = PLANTED[name]
    plan = two_plans[kind]
    line = line_to(a_coordinator, open_site(a_hospital.folder))
    if when == DATA:
        plant(a_hospital)
    try:
        a_hospital.approve(plan)
    except (FedCohortError, OSError, ValueError):
        assert when == DATA  # people cannot look at it either
    if when == AFTER:
        plant(a_hospital)
    codes = [line.propose(plan)]
    if when == LATER:
        assert codes == [""]
        plant(a_hospital)
    codes += [line.report(plan), line.close(plan), line.hello(plan)]
    said = [found for found in codes if found and found != "plan_unknown"]
    if code == READ or (code == SMALL and kind == "noisy"):
        assert codes == ["", "", "", ""]
    else:
        assert said, "nothing failed"
        assert said[0].startswith(DATA_REFUSED if code == SMALL else code), codes
    check_nothing_but_codes(line, a_hospital.folder.root)


FAILURES: list[Exception] = [
    ValueError(WHISPER),
    KeyError(NAME),
    MemoryError(WHISPER),
    FileNotFoundError(2, "no such file", f"/data/{WARD}/{NAME}.csv"),
    UnicodeDecodeError("gb18030", NAME.encode(), 0, 1, PHONE),
    FedCohortError("out_of_range", WHISPER, hint=WHISPER),
]
PLACES = [
    ("the analysis", "noisy"),
    ("the analysis", "exact"),
    ("the noise", "noisy"),
    ("the ledger", "noisy"),
    ("the cohort", "exact"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("place", "kind"), PLACES)
def test_an_exception_anywhere_leaves_as_a_code(
    place: str,
    failure: Exception,
    kind: str,
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise failure

    plan = two_plans[kind]
    line = line_to(a_coordinator, open_site(a_hospital.folder), hold_s=0.0)
    a_hospital.approve(plan)
    if place == "the cohort":
        monkeypatch.setattr(SiteData, "check", fail)
    else:
        assert line.propose(plan) == ""
    if place == "the analysis":
        monkeypatch.setattr(Gradient, "contribution", fail)
    if place == "the noise":
        monkeypatch.setattr(door, "discrete_gaussian", fail)
    if place == "the ledger":
        monkeypatch.setattr(line.site.ledger, "charge", fail)
    code = line.propose(plan) if place == "the cohort" else line.report(plan)
    assert code == getattr(failure, "code", "site_error")
    check_nothing_but_codes(line, a_hospital.folder.root)


class Clock:
    """Stands still but for what is said to be worked, and what is slept."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def slow(self, act: Callable[..., str], work_s: float) -> Callable[..., str]:
        def acted(*given: Any) -> str:
            self.now += work_s
            return act(*given)

        return acted


def test_refusals_by_data_are_one_code_and_leave_at_whole_multiples_of_the_hold(
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slow and quick reasons leave alike, whatever the size of the table."""
    hold_s, clock = 0.6, Clock()
    monkeypatch.setattr(app_module, "time", clock)
    reasons: list[Plant] = [gone(CODEBOOK), cell("disease", NAME), rows(0)]
    kept = a_hospital.folder.root.parent / "kept"
    shutil.copytree(a_hospital.folder.root, kept)
    for reason, work_s in zip(reasons, (0.01, 0.59, 1.3), strict=True):
        shutil.rmtree(a_hospital.folder.root)
        shutil.copytree(kept, a_hospital.folder.root)
        line = line_to(a_coordinator, open_site(a_hospital.folder), hold_s=hold_s)
        monkeypatch.setattr(line.site.node, "propose", clock.slow(line.site.node.propose, work_s))
        reason(a_hospital)
        with contextlib.suppress(FedCohortError):
            a_hospital.approve(two_plans["exact"])
        began = clock.now
        assert line.propose(two_plans["exact"]) == DATA_REFUSED
        holds = (clock.now - began) / hold_s
        assert holds == pytest.approx(math.ceil(work_s / hold_s), abs=1e-9)
        check_nothing_but_codes(line, a_hospital.folder.root)


def test_a_gates_no_is_as_long_as_the_nodes(
    a_hospital: Any, a_coordinator: CoordinatorSetup, two_plans: dict[str, Plan], line_to: Any
) -> None:
    site, plan = open_site(a_hospital.folder), two_plans["noisy"]
    line = line_to(a_coordinator, site)
    codes = [line.propose(plan), line.report(plan)]
    stranger = line_to(a_coordinator, site)
    stranger.coordinator = dataclasses.replace(a_coordinator, folder=a_hospital.folder.root)
    codes.append(stranger.propose(plan))
    assert codes == ["plan_not_approved", "plan_unknown", "run_unsigned"]
    line.replies += stranger.replies
    check_nothing_but_codes(line, a_hospital.folder.root)
    assert sizes_of_refusals(line.replies) == {SIZE}
    named = {str(r.content.config_records["refused"]["policy"]) for r in line.replies}
    assert named == {site.gate.known}


def test_a_site_that_tells_is_caught_by_the_same_search() -> None:  # the positive control
    for text in (WHISPER, f"KeyError({NAME!r})", repr(NAME), ascii(NAME), "at /tmp/x", "x.csv"):
        content = RecordDict({"refused": ConfigRecord({"code": text})})
        new_run()
        question = stamped(Message(RecordDict(), 7, "query.propose"))
        told = stamped(Message(content, reply_to=question))
        assert found_in(bytes(message_to_proto(told).SerializeToString())), text
    assert found_in(NAME.encode("gb18030"))
    assert found_in(NAME.encode("utf-16-le"))
