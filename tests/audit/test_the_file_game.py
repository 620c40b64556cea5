"""The file game: a hospital's folder with one patient's rows in its table, and without them.

The relation starts at the file: reading, naming of patients, hold-out and encoding are inside the
mechanism. The hospital's node adds all of the noise, and the adversary sees the vectors that
leave it. It knows both tables and takes the worst of several patients.

The score of a run is the log-likelihood ratio of its vectors, up to a constant. For Gaussian
noise no score is better. A lower bound on epsilon above the claim proves a defect. The planted
one, row numbers as tokens of patients, was once in this project and must be found.

`make test` plays 40 games against the planted defect; `make test-audit` plays 500 with the
patient and 500 without, for each reader, way of naming patients and hold-out.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import duckdb
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from fedcohort.datasets import rows
from fedcohort.datasets.extract import ONE_ROW_EACH
from fedcohort.datasets.one_hospital import write_extract
from fedcohort.datasets.patients import Persons
from fedcohort.experiments.simulation.federate import simulated_node
from fedcohort.fl_client.site_data import SiteData
from fedcohort.privacy.accounting import BOUND, calibrate, epsilon_of
from fedcohort.privacy.audit import Audit
from fedcohort.study.analysis import State, Vector
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import terms_for

GAMES = max(int(os.environ.get("FEDCOHORT_AUDIT_RUNS", "500")) // 8, 100)  # a side
CLAIM, DELTA, CLIP, STEPS = 1.0, 1e-5, 1.0, 8
PATIENTS = 6  # how many are tried
Bounds = Callable[..., tuple[Audit, Audit]]
Measured = Callable[..., tuple[float, bool]]
NAMED = "patient_id"
HOLDOUT = Holdout(key="00" * 32, test_fraction=0.3, histogram=True, bins=10)
MAPPING = """\
schema: fedcohort.mapping/1
table: data/{table}
codebook: data/codebook.yaml
patient: {patient}
outcome: disease
features: [age, sex, trestbps, chol, thalach, oldpeak, fbs, exang, cp, restecg]
"""
WORLDS = [
    pytest.param(reader, patient, holdout, id=f"{reader}; {patient}; {said}")
    for reader in ("csv", "parquet")
    for patient in (NAMED, ONE_ROW_EACH)
    for holdout, said in ((HOLDOUT, "held out"), (None, "all train"))
]


def plan_of(schema: Schema, holdout: Holdout | None) -> Plan:
    releases = STEPS + 1 + (holdout is not None)
    model = {"name": "logistic", "features": len(schema.features), "bound": schema.bound}
    return Plan(
        study="game",
        purpose="See whether one patient is in the file.",
        analysis="gradient",
        parameters={"model": model, "steps": STEPS, "clip": CLIP},
        schema_sha256=schema.sha256,
        sites=("a", "b"),
        privacy=PrivacyTerms(
            epsilon=CLAIM,
            delta=DELTA,
            noise_multiplier=calibrate(CLAIM, DELTA, releases),
            releases=releases,
            clip=CLIP,
            sharing="each",
            min_survivors=2,
            colluders=0,
            bound=BOUND,
        ),
        max_rounds=releases,
        max_patients_per_site=1000,
        min_sites=2,
        secagg="plain",
        colluders=0,
        roster="simulation",
        expires="9999-12-31",
        holdout=holdout,
    )


class FileGame:
    """One hospital's folder, with and without the patient who moves its sums most."""

    def __init__(self, folder: Path, reader: str, patient: str, holdout: Holdout | None) -> None:
        self.folder, self.reader, self.holdout = folder, reader, holdout
        self.csv = write_extract("heart-disease", "cleveland", folder / "data").table
        table = f"{self.csv.stem}.{reader}"
        (folder / "mapping.yaml").write_text(MAPPING.format(table=table, patient=patient))
        head, *people = self.csv.read_text().splitlines()
        often = 3 if patient == NAMED else 1  # rows that the patient has
        without = [[head, *people[:place], *people[place + 1 :]] for place in self._some(people)]
        added = [people[place] for place in self._some(people)]
        schema = self._cohort([head, *people]).schema
        self.plan = plan_of(schema, holdout)
        self.analysis = analysis_of(self.plan)
        size = len(schema.features) + 1
        arrays = {"theta": np.zeros(size), "mean": np.zeros(size), "count": np.full(1, 200.0)}
        self.states = [
            State(round=number, arrays=arrays) for number in range(self.analysis.most_rounds)
        ]
        worst = -1.0
        for rest, line in zip(without, added, strict=True):
            # The patient's lines come first: whatever hangs on a row's place moves.
            cohorts = [self._cohort(rest), self._cohort([head, *[line] * often, *rest[1:]])]
            sums = [self._sums(cohort) for cohort in cohorts]
            moves = [there - here for here, there in zip(*sums, strict=True)]
            squares = sum(float(move @ move) for move in moves)
            if squares > worst:
                worst, self.cohorts, self.without, self.moves = squares, cohorts, sums[0], moves
        self.shift = math.sqrt(worst) / CLIP

    @staticmethod
    def _some(people: Sequence[str]) -> range:
        return range(0, len(people), len(people) // PATIENTS)

    def _cohort(self, lines: Sequence[str]) -> Cohort:
        """Return what a node makes of a table of these lines."""
        self.csv.write_text("\n".join(lines) + "\n")
        if self.reader == "parquet":
            with duckdb.connect() as connection:
                table = connection.read_csv(str(self.csv), all_varchar=True)
                table.write_parquet(str(self.csv.with_suffix(".parquet")))
        return SiteData.read(self.folder, "a").cohort(holdout=self.holdout)[0]

    def _sums(self, cohort: Cohort) -> list[Vector]:
        return [self.analysis.contribution(cohort, state).total for state in self.states]

    def play(self, *, present: bool) -> list[Vector]:
        """Run the plan at the node; return its vectors less the sums without the patient."""
        node, attempt = simulated_node(self.cohorts[present], self.plan), secrets.token_hex(16)
        node.propose(self.plan.to_json())
        unexplained = []
        for state, known in zip(self.states, self.without, strict=True):
            terms = terms_for(self.plan, self.analysis, state, attempt)
            left = node.report(terms.to_json(), dict(state.arrays)).vector
            unexplained.append(terms.encoding.decode(left.astype(np.int64)) - known)
        return unexplained

    def games(self, number: int) -> tuple[list[list[Vector]], list[list[Vector]]]:
        """Play so many games without the patient, and as many with."""
        without, present = (
            [self.play(present=here) for _ in range(number)] for here in (False, True)
        )
        return without, present

    def scores(self, games: Sequence[Sequence[list[Vector]]]) -> list[NDArray[np.float64]]:
        """Return the log-likelihood ratios of games, up to a factor and a constant."""
        return [np.array([self._score(vectors) for vectors in side]) for side in games]

    def _score(self, vectors: Sequence[Vector]) -> float:
        return sum(float(seen @ move) for seen, move in zip(vectors, self.moves, strict=True))

    @property
    def multiplier(self) -> float:
        """The plan's z."""
        assert self.plan.privacy is not None
        return self.plan.privacy.noise_multiplier

    @property
    def grid(self) -> float:
        """By what share noise may be larger, for the rounding of sums to a grid."""
        terms = [terms_for(self.plan, self.analysis, state, "00" * 16) for state in self.states]
        return max(math.sqrt(one.size) / (CLIP * one.encoding.scale) for one in terms) + 1e-5

    @property
    def epsilon(self) -> float:
        """What our own accountant says of this pair of files."""
        return epsilon_of(self.multiplier / self.shift, 1, DELTA)


def check_weight(game: FileGame) -> None:
    """Check that the patient weighs the clip norm in every sum that trains, and no more in any."""
    assert max(float(np.linalg.norm(move)) for move in game.moves) <= CLIP * (1 + 1e-6)
    assert game.shift > 0.999 * math.sqrt(STEPS + 1)
    assert game.epsilon <= CLAIM


def test_the_worst_of_several_patients_of_a_file_weighs_the_clip_norm(tmp_path: Path) -> None:
    check_weight(FileGame(tmp_path, "csv", ONE_ROW_EACH, HOLDOUT))


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "patient", "holdout"), WORLDS)
def test_who_is_in_a_file_shows_no_more_than_the_claim(
    reader: str,
    patient: str,
    holdout: Holdout | None,
    tmp_path: Path,
    bounds: Bounds,
    measured: Measured,
) -> None:
    """Fails less than once in 10^5 runs of all eight."""
    game = FileGame(tmp_path, reader, patient, holdout)
    check_weight(game)
    name = f"file, {reader}, {patient}, {'held out' if holdout else 'all train'}"
    games = game.games(GAMES)
    explained = [
        [seen - move for seen, move in zip(vectors, game.moves, strict=True)]
        for vectors in games[1]
    ]
    draws = np.concatenate([vector for vectors in games[0] + explained for vector in vectors])
    _, is_planned = measured(name, draws, planned=game.multiplier * CLIP, grid=game.grid)
    assert is_planned
    printed, sure = bounds(name, *game.scores(games), claim=CLAIM, delta=DELTA)
    print(f"the pair by the accountant: {game.epsilon:.2f}")  # noqa: T201
    assert not printed.refutes(CLAIM, "clopper_pearson")
    assert not sure.refutes(CLAIM, "gdp")
    assert not sure.refutes(CLAIM)


def numbered(frame: pd.DataFrame, patient: str | None, columns: Sequence[str]) -> Persons:
    """Return what this project once took for persons: the numbers of rows."""
    numbers = pd.Series([f"row {number}" for number in range(len(frame))], dtype="str")
    return Persons(token=numbers, side=numbers)


@pytest.mark.parametrize(
    ("number", "bound"),
    [
        pytest.param(40, "gaussian", id="few games"),
        pytest.param(600, "clopper_pearson", id="many games", marks=pytest.mark.slow),
    ],
)
def test_row_numbers_as_tokens_are_found(
    number: int, bound: str, tmp_path: Path, bounds: Bounds
) -> None:
    """Missed less than once in a million runs."""
    with patch.object(rows, "persons_of", numbered):
        game = FileGame(tmp_path, "csv", ONE_ROW_EACH, HOLDOUT)
    assert max(float(np.linalg.norm(move)) for move in game.moves) > 2 * CLIP
    assert game.epsilon > CLAIM
    _, sure = bounds("row numbers", *game.scores(game.games(number)), claim=CLAIM, delta=DELTA)
    print(f"the pair by the accountant: {game.epsilon:.2f}")  # noqa: T201
    assert getattr(sure, bound) > CLAIM
