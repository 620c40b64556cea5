"""The picture of a deployed study draws what there is, the same bytes each time."""

from __future__ import annotations

import numpy as np
import pytest

from fedcohort.experiments.reporting.deployed_plots import DrawnArm, deployed_svg


def drawn(arm: str = "dp_sum", *, features: int = 3, judged: bool = True) -> DrawnArm:
    table = [[40.0, 20.0, -1.5, 5.0], [4.0, 9.0, 18.0, 30.0]]
    return DrawnArm(
        arm=arm,
        epsilon=3.0 if arm.startswith("dp") else None,
        coefficients={f"<b>{n}": float(np.sin(n + 1)) for n in range(features)} or None,
        histogram=table if judged else None,
    )


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("features", [0, 3, 60])
def test_it_draws_what_there_is(judged: bool, features: int) -> None:
    arms = [drawn("federated", features=features, judged=judged), drawn(features=features)]
    arms = arms if judged else arms[:1]
    svg = deployed_svg(arms)
    if not judged and not features:
        assert svg is None
        return
    assert svg is not None
    assert ("Held-out patients" in svg) is judged
    assert ("What the model weighs" in svg) is bool(features)
    assert svg.count("&lt;b&gt;") == min(features, 24)
    assert deployed_svg(arms) == svg


def test_a_table_of_survival_is_no_roc() -> None:
    arm = DrawnArm(arm="dp_sum", epsilon=1.0, coefficients=None, histogram=[[1.0]] * 21)
    assert deployed_svg([arm]) is None
