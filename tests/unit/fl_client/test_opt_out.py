"""Patients who said no are in no sum from the next read on, and nothing tells how many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.datasets.patients import keyed_ids
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.governance.opt_out import OptOut
from fedcohort.privacy.errors import PolicyError
from fedcohort.study.cohort import Cohort, Schema

SCHEMA = Schema(
    name="s", task="risk", features=("x",), bound=1.0, outcome="y", codebook_sha256="0" * 64
)


def cohort_of(ids: list[str]) -> Cohort:
    """A cohort whose feature is the row's number."""
    rows = len(ids)
    return Cohort(
        site="h03",
        schema=SCHEMA,
        features=np.linspace(0, 1, max(rows, 1), dtype=np.float32)[:rows, None],
        patient=keyed_ids(pd.Series(ids, dtype="str")),
        label=np.zeros(rows),
    )


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as error:
        act()
    return error.value.code


def test_all_rows_of_a_listed_patient_go_whatever_the_spelling(tmp_path: Path) -> None:
    path = tmp_path / "opt-out.txt"
    path.write_text("# said no on paper\n\n p 2 \nP-3\n张 三\n", encoding="utf-8")
    cohort = cohort_of(["P1", "P2", "p2", "P-3", "P3", "张三", "P4"])
    assert OptOut(path).tokens() == {"p2", "p-3", "张三"}
    left = OptOut(path).left(cohort)
    assert np.array_equal(left.patient, cohort.patient[[0, 4, 6]])
    assert np.array_equal(left.features, cohort.features[[0, 4, 6]])


def test_a_token_may_begin_with_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "opt-out.txt"
    path.write_text("#\n # said no\n#\tin May\n#A12\n", encoding="utf-8")
    assert OptOut(path).tokens() == {"#a12"}
    cohort = cohort_of(["#A12", "A12", "in May"])
    assert np.array_equal(OptOut(path).left(cohort).patient, cohort.patient[[1, 2]])


def test_without_a_list_or_with_an_empty_one_everybody_stays(tmp_path: Path) -> None:
    cohort = cohort_of(["a", "b"])
    (tmp_path / "empty").write_text("# nobody\n")
    assert OptOut(None).left(cohort) is cohort
    assert OptOut(tmp_path / "empty").left(cohort) is cohort


def test_a_withdrawal_holds_from_the_next_read_and_is_logged_without_a_number(
    tmp_path: Path,
) -> None:
    path, audit = tmp_path / "opt-out.txt", AuditLog(tmp_path / "audit.jsonl")
    path.write_text("a\n")
    list_ = OptOut(path, audit=audit, policy_sha256="ab" * 32)
    cohort = cohort_of(["a", "b", "c", "d"])
    assert list_.left(cohort).patients == 3
    assert list_.left(cohort).patients == 3
    assert audit.entries() == ()
    path.write_text("a\nb\nc\n")
    assert list_.left(cohort).patients == 1
    (entry,) = audit.entries()
    assert (entry.event, entry.facts, entry.policy_sha256) == ("opt_out_changed", {}, "ab" * 32)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"\xff\xfea\n",
        b"x" * 201,
        b"a\x00b\n",
        "a\u202eb\n".encode(),
        b"#" * (17 * 2**20),
        b"a  # withdrew in May\n",  # nobody has that token, and somebody was meant
        b"a,2026-05-01\n",
        b"##\n",
        b'"a"\n',
    ],
)
def test_a_list_that_is_gone_or_unreadable_stops_the_site(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "opt-out.txt"
    if content is not None:
        path.write_bytes(content)
    assert code_of(lambda: OptOut(path).left(cohort_of(["a"]))) == "opt_out_unreadable"


TOKEN = st.text("aAbB1 ", min_size=1, max_size=4).filter(lambda text: text.strip() != "")


@given(ids=st.lists(TOKEN, min_size=1, max_size=20), out=st.lists(TOKEN, max_size=8))
def test_nobody_on_the_list_is_left_and_nobody_else_goes(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], out: list[str]
) -> None:
    path = tmp_path_factory.mktemp("o") / "opt-out.txt"
    path.write_text("\n".join(out))

    def same(text: str) -> str:
        return "".join(text.casefold().split())

    stay = [n for n, one in enumerate(ids) if same(one) not in {same(token) for token in out}]
    cohort = cohort_of(ids)
    assert np.array_equal(OptOut(path).left(cohort).patient, cohort.patient[stay])
