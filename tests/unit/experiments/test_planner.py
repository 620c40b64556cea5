"""What a plan promises is what a study asked for: noise for its colluders, rounds for its model."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from fedcohort.conf.schema import register
from fedcohort.datasets import Extract, LoadOptions, load_catalogue
from fedcohort.experiments.arms import Fit
from fedcohort.experiments.compare import _sizes
from fedcohort.experiments.planning import Planner
from fedcohort.experiments.scores import evaluate
from fedcohort.experiments.settings import Settings
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import ConfigError
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import analysis_of

Asked = Callable[..., Planner]


@pytest.fixture(scope="module")
def heart() -> Extract:
    return load_catalogue("heart-disease", LoadOptions())


@pytest.fixture
def planner(heart: Extract) -> Asked:
    """Plan the heart study with some keys changed."""

    def make(*overrides: str) -> Planner:
        register()
        try:
            with initialize_config_module("fedcohort.conf", version_base="1.3"):
                config = compose("config", ["study=heart-disease", *overrides])
        finally:
            GlobalHydra.instance().clear()
        settings = Settings.of(config)
        return Planner(
            settings=settings,
            schema=heart.schema,
            sites=tuple(cohort.site for cohort in heart.cohorts),
            today=dt.date(2026, 11, 21),
            masked=settings.secagg.mode == "masked",
        )

    return make


@pytest.mark.parametrize("colluders", [0, 1])
def test_the_noise_of_a_sum_stands_the_colluders_that_were_asked_for(
    planner: Asked, colluders: int
) -> None:
    terms = planner(f"secagg.colluders={colluders}").private("dp_sum", 3.0).privacy
    assert terms is not None
    assert terms.colluders == colluders
    noise = terms.noise()
    assert noise is not None
    # Whoever is left when the colluders take their shares off carries all of it.
    left = terms.min_survivors - colluders
    assert noise.share_sigma(1.0) ** 2 * left == pytest.approx(terms.noise_multiplier**2)


def test_noise_that_is_whole_at_each_site_fears_no_colluder(planner: Asked) -> None:
    for arm in ("dp_each", "dp_fedavg"):
        terms = planner().private(arm, 3.0).privacy
        assert terms is not None
        assert terms.colluders == 0


@pytest.mark.parametrize(
    ("overrides", "analysis", "releases", "clip"),
    [
        ([], "whitened", 9, 0.6),
        (["model.private.method=whitened"], "whitened", 9, 0.6),
        (["model.private.method=newton_gram"], "newton_gram", 5, 1.5),
        (["model.private.method=gradient"], "gradient", 26, 1.5),
        (["model.private.method=gradient", "model.private.steps=9"], "gradient", 10, 1.5),
        (["privacy.clip=0.5"], "whitened", 9, 0.5),
        (["model.private.clip=0.4"], "whitened", 9, 0.4),
        (["model=mlp"], "gradient", 41, 1.5),
    ],
)
def test_the_method_that_was_asked_for_comes_with_its_own_numbers(
    planner: Asked, overrides: list[str], analysis: str, releases: int, clip: float
) -> None:
    if "model=mlp" in overrides:
        pytest.importorskip("opacus")
    for arm in ("dp_sum", "dp_each"):
        plan = planner(*overrides).private(arm, 3.0)
        assert plan.privacy is not None
        assert (plan.analysis, plan.privacy.releases, plan.privacy.clip) == (
            analysis, releases, clip,
        )  # fmt: skip
        assert analysis_of(plan).releases == releases
        assert plan.parameters["clip"] == clip
        assert plan.privacy.bound == "rdp"


def test_the_floor_under_a_noisy_metric_is_the_noise_of_the_opened_sum(planner: Asked) -> None:
    for arm, factor in (("dp_sum", np.sqrt(4 / 3)), ("dp_each", 2.0)):
        plan = planner().private(arm, 3.0)
        assert plan.privacy is not None
        expected = plan.privacy.noise_multiplier * factor
        assert plan.parameters["noise_scale"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("model.private.method=sgd", "model_private_method_invalid"),
        ("model.private.steps=0", "model_private_steps_invalid"),
        ("model.private.learning_rate=nan", "model_private_learning_rate_invalid"),
        ("model.private.clip=-1", "model_private_clip_invalid"),
        ("model.private.l2=-1", "model_private_l2_invalid"),
        ("model.private.presets.whitened.clip=word", "model_private_clip_invalid"),
        ("model.private.presets.whitened.steps=1.5", "model_private_steps_invalid"),
    ],
)
def test_a_method_that_is_none_is_refused(planner: Asked, override: str, code: str) -> None:
    with pytest.raises(ConfigError) as refused:
        planner(override)
    assert refused.value.code == code


def test_a_family_without_a_preset_for_a_method_says_which_it_has(planner: Asked) -> None:
    with pytest.raises(ConfigError) as refused:
        planner("model=mlp", "model.private.method=whitened")
    assert refused.value.code == "model_private_method_invalid"
    assert refused.value.hint == "Choose from: gradient."


def test_the_baseline_samples_patients_and_is_priced_so(planner: Asked) -> None:
    plan = planner().private("dp_fedavg", 1.0)
    terms = plan.privacy
    assert terms is not None
    assert terms.sampling_probability == plan.parameters["sampling_probability"] == 0.2
    assert terms.noise_multiplier == plan.parameters["noise_multiplier"]
    assert terms.releases == analysis_of(plan).releases == 101
    assert terms.bound == "pld"
    assert terms.noise_multiplier < 0.25 * calibrate(1.0, terms.delta, 101)
    paid = terms.releases * terms.mechanism.rdp(Budget(epsilon=1.0, delta=terms.delta).order)
    assert paid <= Budget(epsilon=1.0, delta=terms.delta).limit


def test_a_plan_allows_the_rounds_of_its_analysis_and_no_more(planner: Asked) -> None:
    asked = planner()
    for plan in (asked.federated(), asked.private("dp_sum", 1.0), asked.private("dp_fedavg", 1.0)):
        assert plan.max_rounds == analysis_of(plan).most_rounds < 100


def test_without_noise_nobody_may_be_left_out_unless_it_is_asked_for(planner: Asked) -> None:
    assert planner().federated().min_sites == 4
    assert planner("secagg.min_survivors=3").federated().min_sites == 3


def test_every_place_is_corrected_for_the_overlap_of_its_splits(heart: Extract) -> None:
    sizes = _sizes(heart, 0.3)
    for place in ("cleveland", "switzerland", "all", "mean_of_sites", "a site set aside"):
        trained, tested = sizes[place]
        assert tested / trained == pytest.approx(0.3 / 0.7, rel=0.03)


def test_censoring_weights_are_of_the_right_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's own training part for its test part; an external cohort's own follow-up for it."""
    extract = load_catalogue("breast-recurrence", LoadOptions(site="centre", test_sites=("gbsg",)))
    (rotterdam,), (gbsg,) = extract.cohorts, extract.external
    rows = np.arange(rotterdam.rows)
    train, test = rotterdam.take(rows % 3 > 0), rotterdam.take(rows % 3 == 0)
    used: list[tuple[int, int]] = []

    def spy(train_time: np.ndarray, _: object, time: np.ndarray, *rest: object, **more: object):  # type: ignore[no-untyped-def]
        used.append((train_time.size, time.size))
        return {}

    monkeypatch.setattr(evaluate, "survival_metrics", spy)
    from fedcohort.study.models.hazard import Hazard

    model = Hazard(
        features=len(extract.schema.features), bound=4.0, horizon_days=2555.0, intervals=7
    )
    fit = Fit(arm="federated", algorithm="newton", parameters={None: model.initial()}, seconds=0.0)
    evaluate.score(fit, model, [(train, test)], [gbsg], repeat=0, delta=None)
    assert used == [(train.rows, test.rows), (train.rows, test.rows), (gbsg.rows, gbsg.rows)]


def test_a_plan_that_holds_patients_out_pays_for_their_histogram(planner: Asked) -> None:
    holdout = Holdout(key="ab" * 32, test_fraction=0.3, histogram=True, bins=10)
    asked = dataclasses.replace(planner(), holdout=holdout)
    plan = asked.private("dp_sum", 3.0)
    assert plan.privacy is not None
    assert plan.privacy.releases == analysis_of(plan).releases == 10
    assert plan.privacy.noise_multiplier == calibrate(3.0, plan.privacy.delta, 10)
    assert plan.max_rounds == 10
    assert asked.federated().max_rounds == 61
    with pytest.raises(ConfigError) as caught:
        asked.private("dp_fedavg", 3.0)
    assert caught.value.code == "holdout_local_noise"
    without = dataclasses.replace(asked, holdout=dataclasses.replace(holdout, histogram=False))
    assert without.private("dp_fedavg", 3.0).holdout == without.holdout
    # A baseline trains no model that could score anybody.
    baseline = dataclasses.replace(asked.schema, horizon_days=365.0)
    cox = dataclasses.replace(asked, schema=baseline).baseline_hazard((0.0,))
    assert cox.holdout is not None
    assert not cox.holdout.histogram
