"""What a hospital says on refusing is text of its own choosing: it is a code, or it is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedcohort.experiments.simulation.flower_compat import new_run
from fedcohort.fl_server.exchange import Refusal, exchange
from fedcohort.fl_server.sites import raise_refusal
from fedcohort.privacy.errors import FedCohortError


def refused(said: dict[str, Any]) -> Refusal:
    """One site's refusal, as the coordinator takes it."""
    new_run()
    reply = SimpleNamespace(
        metadata=SimpleNamespace(reply_to_message_id="m"),
        has_error=lambda: False,
        content=RecordDict({"refused": ConfigRecord(said)}),
    )
    grid: Any = SimpleNamespace(push_messages=lambda _: ["m"], pull_messages=lambda _: [reply])
    content = RecordDict()
    return exchange(grid, {"h01": 1}, "query.hello", content, group="g", timeout_s=1).refused["h01"]


@pytest.mark.parametrize("exit_code", [3, 4])
def test_a_code_is_taken_without_what_it_was_filled_up_with(exit_code: int) -> None:
    said = refused({"code": "cohort_too_small".ljust(48), "exit": exit_code})
    assert said == Refusal(code="cohort_too_small", broken=exit_code == 4)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"exit": 3},
        {"code": "", "exit": 3},
        {"code": 7},
        {"code": ["a"]},
        {"code": b"a"},
        {"code": "[/b]", "exit": 3},
        {"code": "\x1b[2J", "exit": 3},
        {"code": "ok\n", "exit": 3},
        {"code": "a" * 49},
        {"code": "Zhang San"},
        {"code": "п"},
    ],
)
def test_what_is_no_code_is_an_unreadable_reply(said: dict[str, Any]) -> None:
    found = refused(said)
    assert found == Refusal(code="reply_unreadable", broken=True)
    with pytest.raises(FedCohortError) as error:
        raise_refusal({"h01": found})
    assert str(error.value).isprintable()


def test_an_exit_status_that_is_none_is_a_rule_that_said_no() -> None:
    assert refused({"code": "ok", "exit": [4]}) == Refusal(code="ok", broken=False)
