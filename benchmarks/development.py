"""Which private method is each model family's default: measured on development data only.

    python benchmarks/development.py [--repeats 12] [--quick]

For each method that a family can be trained by, its preset (conf/model/*.yaml) is fitted at
epsilon 1 and 3 on splits into 70 % training and 30 % test patients, and compared with the fit
without noise: the loss of AUROC or C-index, and of log-likelihood per patient. The default should
be the method with the smallest mean loss of AUROC or C-index; a default that is not ends with exit
code 1. None of the shipped studies is looked at. `--quick` (2 repeats) writes and judges nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    import benchmarks._common as bench
    from benchmarks._development_data import RISK, SURVIVAL, Table
    from benchmarks._private_fit import noise_scale, private_fit
    from benchmarks._quality import Loss, quality
else:  # a script's own folder is on its path
    import _common as bench
    from _development_data import RISK, SURVIVAL, Table
    from _private_fit import noise_scale, private_fit
    from _quality import Loss, quality

from fedcohort.experiments.methods import PrivateMethod
from fedcohort.privacy.accounting import calibrate
from fedcohort.study import analyses
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Vector, solve
from fedcohort.study.cohort import Cohort
from fedcohort.study.model import Model
from fedcohort.study.models.hazard import Hazard
from fedcohort.study.models.logistic import Logistic
from fedcohort.study.registry import build

EPSILONS = (1.0, 3.0)
REPEATS, QUICK = 12, 2
FAMILIES = {"logistic": RISK, "hazard": SURVIVAL}
Losses = Mapping[tuple[str, str, float], Sequence[Loss]]  # by method, table, epsilon


def model_for(family: str, cohort: Cohort) -> Model:
    """Return the family's model for a table."""
    width, horizon = len(cohort.schema.features), cohort.schema.horizon_days
    if family == "logistic" or horizon is None:
        return Logistic(features=width, bound=cohort.schema.bound)
    return Hazard(features=width, bound=cohort.schema.bound, horizon_days=horizon)


def presets_of(family: str) -> tuple[str, dict[str, PrivateMethod]]:
    """Return a family's default, and the preset of each of its methods."""
    text = (bench.ROOT / "conf" / "model" / f"{family}.yaml").read_text(encoding="utf-8")
    private: Mapping[str, Any] = yaml.safe_load(text)["private"]
    methods = {
        name: PrivateMethod(name=name, **numbers) for name, numbers in private["presets"].items()
    }
    return private["method"], methods


def private_theta(model: Model, method: PrivateMethod, train: Cohort, terms: Loss) -> Vector:
    """Fit one method with the noise of (epsilon, delta)."""
    multiplier = calibrate(*terms, method.releases)
    fields = method.parameters(method.clip, noise_scale(multiplier))
    analysis = build(analyses, "analysis", method.name, {"model": model, **fields})
    return private_fit(analysis, train, clip=method.clip, noise_multiplier=multiplier)


def losses_on(
    family: str, methods: Mapping[str, PrivateMethod], table: Table, repeats: int
) -> dict[tuple[str, str, float], list[Loss]]:
    """Return what each method loses on one table, split by split."""
    cohort, found = table.cohort, defaultdict(list)
    model = model_for(family, cohort)
    for repeat in range(repeats):
        order = np.random.default_rng(100 + repeat).permutation(cohort.rows)
        cut = round(0.7 * cohort.rows)
        train, test = cohort.take(np.sort(order[:cut])), cohort.take(np.sort(order[cut:]))
        exact = quality(model, solve(Newton(model=model), [train]).arrays["theta"], test)
        for epsilon in EPSILONS:
            for name, method in methods.items():
                theta = private_theta(model, method, train, (epsilon, table.delta))
                said = quality(model, theta, test)
                lost = exact[0] - said[0], exact[1] - said[1]
                found[name, cohort.schema.name, epsilon].append(lost)
    return found


def mean_loss(losses: Losses, method: str, epsilon: float | None = None) -> Loss:
    """Return a method's loss, averaged over repeats, then tables (and epsilons)."""
    per_table = [
        np.mean(found, axis=0)
        for (name, _, asked), found in losses.items()
        if name == method and epsilon in (None, asked)
    ]
    ranking, likelihood = np.mean(per_table, axis=0)
    return float(ranking), float(likelihood)


def rows_of(losses: Losses, methods: Sequence[str]) -> list[list[str]]:
    """Return the lines of the table: one per epsilon and data set, then the means."""
    tables = list(dict.fromkeys(table for _, table, _ in losses))
    lines = []
    for epsilon in EPSILONS:
        for table in tables:
            cells = [np.mean(losses[method, table, epsilon], axis=0) for method in methods]
            lines.append([f"eps {epsilon:g}: {table}", *(f"{a:+.4f} / {b:+.4f}" for a, b in cells)])
        cells = [np.array(mean_loss(losses, method, epsilon)) for method in methods]
        lines.append([f"eps {epsilon:g}: mean", *(f"{a:+.4f} / {b:+.4f}" for a, b in cells)])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where a family's default is not its best method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="splits of each table")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} repeats, nothing written")
    asked = parser.parse_args(arguments)
    repeats = QUICK if asked.quick else asked.repeats
    document: dict[str, Any] = {}
    parts, right = [], True
    for family, tables in FAMILIES.items():
        default, methods = presets_of(family)
        losses: dict[tuple[str, str, float], list[Loss]] = {}
        for make in tables:
            losses |= losses_on(family, methods, make(), repeats)
        best = min(methods, key=lambda name, found=losses: mean_loss(found, name)[0])  # type: ignore[misc]
        right = right and best == default
        head, lines = ["loss of ranking / log-likelihood", *methods], rows_of(losses, [*methods])
        said = f"{family}: the default is {default}, the smallest mean loss has {best}"
        bench.show(said, head, lines)
        document[family] = {"default": default, "best": best, "lines": [head, *lines]}
        parts += [f"## `{family}`", f"{said}.", bench.markdown_table(head, lines)]
    if asked.quick:
        return 0
    command = "make bench-development" if repeats == REPEATS else f"... --repeats {repeats}"
    made = bench.facts(command)
    bench.write_json("development", {**made, "repeats": repeats, **document})
    bench.page("development", made, "\n\n".join([_INTRODUCTION, *parts]))
    return 0 if right else 1


_INTRODUCTION = """# How the private methods were chosen

What each method loses against the fit without noise, by its preset, on tables that are no shipped
study: AUROC or C-index, then log-likelihood per patient. Means over splits into 70 % training and
30 % test patients; noise of five hospitals of which one may collude. A negative loss is a gain.
The presets' numbers were tried on these same tables, so that these figures flatter them; what they
are worth elsewhere is on the page [accuracy](accuracy.md)."""


if __name__ == "__main__":
    sys.exit(main())
