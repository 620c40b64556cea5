"""The coordinator's processes die in the middle of a run, on real Flower: the run goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_server import submitting
from fedcohort.fl_server.run_folder import RunFolder, result_of
from fedcohort.hosting import running_state

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize("service", ["runner", "superlink"])
def test_a_run_outlives_the_death_of_the(
    service: str,
    federation: Any,
    ours: Any,
    wait_until: Callable[[Callable[[], bool], float, str], None],
) -> None:
    assert not ours.told, ours.told
    plan = replace(federation.plan, study=f"{service}-dies")
    federation.approve(plan)
    number = submitting.submit(federation.setup, plan)
    run = RunFolder(federation.setup.runs / str(number))
    wait_until(lambda: run.state().rounds >= 1 or run.state().ended, 120, "the first sum")
    state = running_state(federation.setup.logs)
    assert state is not None
    os.kill(state["services"][service]["pid"], signal.SIGKILL)
    ended = submitting.wait(federation.setup, number, timeout_s=240)
    assert ended.phase == "done", f"{ended}\n{federation.logs()}"
    assert result_of(run.folder).rounds == 3
    found, before = (result_of(f).result.arrays for f in (run.folder, ours.run))
    for name, array in before.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-9)
    resumed = [event for event in run.events() if event["event"] == "resumed"]
    assert len(resumed) == (1 if service == "runner" else 0)
