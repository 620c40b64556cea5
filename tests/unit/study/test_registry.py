"""Names in a plan reach the modules of this release and nothing else."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fedcohort.privacy.errors import ConfigError
from fedcohort.study import analyses, models
from fedcohort.study.plan import model_of
from fedcohort.study.registry import build, names

LOGISTIC = {"features": 3, "bound": 1.0}


def test_these_are_the_analyses_and_models_of_this_release() -> None:
    assert names(analyses) == (
        "averaging",
        "breslow",
        "counts",
        "gradient",
        "kaplan_meier",
        "newton",
        "newton_gram",
        "whitened",
    )
    assert names(models) == ("cox", "hazard", "hazard_mlp", "logistic", "mlp")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "../registry",
        "_network",
        "__init__",
        "logistic ",
        "Logistic",
        "logistic.design",
        "logistic\x00",
        "models.logistic",
        "fedcohort.study.models.logistic",
        "os",
        "antigravity",
        "this",
    ],
)
def test_a_name_that_is_not_on_the_list_is_never_imported(name: str) -> None:
    before = set(sys.modules)
    for package, kind in ((models, "model"), (analyses, "analysis")):
        with pytest.raises(ConfigError) as refused:
            build(package, kind, name, LOGISTIC)
        assert refused.value.code == f"unknown_{kind}"
        assert names(package)[0] in refused.value.hint
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "field", ["../x", "_network", "__class__", "self", "task", "convex", "", "Features"]
)
def test_a_parameter_that_is_no_field_is_refused(field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build(models, "model", "logistic", {**LOGISTIC, field: 1})
    assert refused.value.code == "unknown_parameter"
    assert "bound, features" in refused.value.hint


@pytest.mark.parametrize(
    ("package", "kind", "name", "fields"),
    [
        (models, "model", "logistic", {"features": 3}),
        (analyses, "analysis", "newton", {}),
        (analyses, "analysis", "newton", {"model": "logistic"}),
        (analyses, "analysis", "kaplan_meier", {"horizon_days": "long"}),
        (analyses, "analysis", "kaplan_meier", {"horizon_days": None}),
    ],
)
def test_a_missing_or_mistyped_parameter_is_a_refusal_not_a_crash(
    package: Any, kind: str, name: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as refused:
        build(package, kind, name, fields)
    assert refused.value.code == "bad_parameter"


@pytest.mark.parametrize("parameters", ["logistic", None, 3, ["logistic"]])
def test_a_model_that_is_no_mapping_is_refused(parameters: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        model_of(parameters)
    assert refused.value.code == "unknown_model"


def test_a_refusal_of_the_analysis_itself_keeps_its_code() -> None:
    with pytest.raises(ConfigError) as refused:
        build(analyses, "analysis", "kaplan_meier", {"horizon_days": -1.0})
    assert refused.value.code == "horizon_range"


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("fedcohort.study.models.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError) as refused:
        build(models, "model", "mlp", LOGISTIC)
    assert refused.value.code == "missing_extra"
    assert "torch" in str(refused.value)
    assert "fedcohort[deep]" in refused.value.hint
