"""The coalition game: masked sums against a coordinator and a hospital that collude.

Three hospitals mask their sums and share the noise out. The coordinator and one of them collude
against one patient of another. The coordinator chooses every state; the coalition knows all other
records, and subtracts them and the colluding hospital's own vector from each opened sum. What
remains is noise of deviation z C, and the patient. Keys, masks, messages, doors and ledgers are
those of a simulation: real Flower apps, coordinator and nodes.

The score of a run is the log-likelihood ratio of its sums, up to a constant. For Gaussian noise
no score is better. A lower bound on epsilon above the claim proves a defect. Two planted defects
must be found: half of the noise, and a colluder's share that is counted.

`make test` plays 27 games; `make test-audit` plays 500 with the patient and 500 without, for each
analysis that shares noise out.
"""

from __future__ import annotations

import dataclasses
import math
import os
import secrets
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcohort.experiments.simulation.federate import ceremony, simulated_node
from fedcohort.experiments.simulation.local_grid import InProcessGrid
from fedcohort.fl_client import door
from fedcohort.fl_client.app import client_app
from fedcohort.fl_client.door import NoDisclosureRules, SiteTerms
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.fl_client.round_memory import NoRoundMemory, Remembered
from fedcohort.fl_server.masked import MaskedSums
from fedcohort.fl_server.sites import Patience, Sites
from fedcohort.privacy import noise
from fedcohort.privacy.accounting import BOUND, calibrate
from fedcohort.privacy.audit import Audit, epsilon_of_mu
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.privacy.secagg.site import SiteSession
from fedcohort.study.analysis import State, Vector
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import terms_for

GAMES = max(int(os.environ.get("FEDCOHORT_AUDIT_RUNS", "500")) // 8, 100)  # a side
FEW = 15
CLAIM, DELTA, CLIP = 3.0, 1e-5, 1.0
SITES = ("a", "b", "c")  # c colludes
FEATURES, STEPS = 24, 3
MULTIPLIER = calibrate(CLAIM, DELTA, STEPS + 1)
SIGMA = MULTIPLIER * CLIP
Bounds = Callable[..., tuple[Audit, Audit]]
Measured = Callable[..., tuple[float, bool]]
ANALYSES = ("gradient", "whitened", "newton_gram")
SCHEMA = Schema(
    name="game",
    task="risk",
    features=tuple(f"x{number}" for number in range(FEATURES)),
    bound=3.0,
    outcome="y",
    codebook_sha256="0" * 64,
)


def plan_of(analysis: str) -> Plan:
    model = {"name": "logistic", "features": FEATURES, "bound": SCHEMA.bound}
    scale = {} if analysis == "gradient" else {"noise_scale": MULTIPLIER}
    return Plan(
        study="game",
        purpose="See whether one patient took part.",
        analysis=analysis,
        parameters={"model": model, "steps": STEPS, "clip": CLIP, **scale},
        schema_sha256=SCHEMA.sha256,
        sites=SITES,
        privacy=PrivacyTerms(
            epsilon=CLAIM,
            delta=DELTA,
            noise_multiplier=MULTIPLIER,
            releases=STEPS + 1,
            clip=CLIP,
            sharing="sum",
            min_survivors=3,
            colluders=1,
            bound=BOUND,
        ),
        max_rounds=STEPS + 1,
        max_patients_per_site=1000,
        min_sites=3,
        secagg="masked",
        colluders=1,
        roster="simulation",
        expires="9999-12-31",
    )


def cohort_of(site: str) -> Cohort:
    draw = np.random.default_rng(ord(site))
    patients = 20
    return Cohort(
        site=site,
        schema=SCHEMA,
        features=draw.normal(size=(patients, FEATURES)).clip(-3, 3).astype(np.float32),
        patient=np.arange(patients, dtype=np.uint64),
        label=(draw.random(patients) < 0.5).astype(np.float64),
    )


def with_patient(cohort: Cohort) -> Cohort:
    """Add a patient of five rows, as far out as rows may be, with an outcome that surprises."""
    assert cohort.label is not None
    rows = 5
    return dataclasses.replace(
        cohort,
        features=np.vstack([cohort.features, np.full((rows, FEATURES), 3.0, dtype=np.float32)]),
        patient=np.append(cohort.patient, np.full(rows, 10**9, dtype=np.uint64)),
        label=np.append(cohort.label, np.zeros(rows)),
    )


def steered(analysis: str, number: int) -> State:
    """Return the state that the coordinator makes up for a round."""
    size = FEATURES + 1
    theta = np.full(size, 1.0 if number else 0.0)
    if analysis == "gradient":
        arrays = {"theta": theta, "mean": np.zeros(size), "count": np.full(1, 20.0)}
    elif number == 0:
        arrays = {"theta": theta}
    else:  # the largest map that a node takes
        identity = np.eye(size).ravel()
        arrays = {"theta": theta, "mean": theta, "map": 1e4 * identity, "back": identity}
    return State(round=number, arrays=arrays)


class Notebook(NoRoundMemory):
    """What the colluding hospital keeps of its own vector: all of it, before the mask."""

    def __init__(self) -> None:
        self.vector = np.zeros(0, dtype=np.int64)

    def keep(self, known: Remembered) -> None:
        assert known.vector is not None
        self.vector = known.vector


def colluder(cohort: Cohort, plan: Plan, session: SiteSession, notebook: Notebook) -> Node:
    """Return an ordinary node that also tells its own vectors."""
    opening = Opening(
        hospital=cohort.site,
        population=SCHEMA.name,
        kind="simulation",
        budget=Budget(epsilon=CLAIM, delta=DELTA),
        unnoised=False,
    )
    return Node(
        site=cohort.site,
        cohort=lambda asked: cohort,
        terms=lambda asked: SiteTerms(
            ledger=MemoryLedger(opening), disclosure=NoDisclosureRules(), session=session
        ),
        gate=PlanGate(lambda asked: asked.sha256 == plan.sha256),
        memory=lambda asked: notebook,
    )


class CoalitionGame:
    """The same federation over and over, with fresh keys, masks, ledgers and noise."""

    def __init__(self, analysis: str) -> None:
        self.plan = plan_of(analysis)
        self.analysis = analysis_of(self.plan)
        self.cohorts = {site: cohort_of(site) for site in self.plan.sites}
        self.present = with_patient(self.cohorts["a"])
        self.states = [steered(analysis, number) for number in range(STEPS + 1)]
        self.known = [self._sum("a", state) + self._sum("b", state) for state in self.states]
        self.moves = [
            self.analysis.contribution(self.present, state).total - self._sum("a", state)
            for state in self.states
        ]

    def _sum(self, site: str, state: State) -> Vector:
        return self.analysis.contribution(self.cohorts[site], state).total

    def play(self, *, present: bool) -> list[Vector]:
        """Run the plan, and return what the coalition cannot explain of each opened sum."""
        masking, sessions = ceremony(self.plan)
        notebook = Notebook()
        cohorts = self.cohorts | ({"a": self.present} if present else {})
        nodes = {site: simulated_node(cohorts[site], self.plan, sessions[site]) for site in "ab"}
        nodes["c"] = colluder(cohorts["c"], self.plan, sessions["c"], notebook)
        app = client_app(lambda context: nodes[str(context.node_config["site"])])
        grid = InProcessGrid(app, self.plan.sites)
        sites = Sites(grid=grid, nodes=grid.nodes, plan=self.plan, patience=Patience())
        sites.propose(sites.nodes)
        sums, attempt, unexplained = MaskedSums(sites, masking), secrets.token_hex(16), []
        for state, known in zip(self.states, self.known, strict=True):
            terms = terms_for(self.plan, self.analysis, state, attempt)
            opened = sums.collect(terms, state).total
            assert opened.sites == self.plan.sites
            own = terms.encoding.decode(notebook.vector)
            unexplained.append(opened.vector - own - known)
        return unexplained

    def noise_in(self, games: Sequence[list[Vector]], measured: Measured) -> tuple[float, bool]:
        """Measure the noise of games, the patient taken out."""
        draws = np.concatenate([vector for game in games for vector in game])
        grid = max(self._grid(state) for state in self.states)
        return measured(f"coalition, {self.plan.analysis}", draws, planned=SIGMA, grid=grid)

    def _grid(self, state: State) -> float:
        """Return by what share noise may be larger, for the rounding of sums to a grid."""
        terms = terms_for(self.plan, self.analysis, state, "00" * 16)
        return math.sqrt(terms.size) / (CLIP * terms.encoding.scale) + 1e-5


def score(sums: Sequence[Vector], moves: Sequence[Vector]) -> float:
    """Return the log-likelihood ratio of a run's sums, up to a factor and a constant."""
    return sum(float(seen @ move) for seen, move in zip(sums, moves, strict=True))


@pytest.mark.parametrize("analysis", ANALYSES)
def test_a_patient_weighs_the_clip_norm_in_every_masked_sum(analysis: str) -> None:
    weights = [float(np.linalg.norm(move)) / CLIP for move in CoalitionGame(analysis).moves]
    assert max(weights) <= 1 + 1e-6
    assert min(weights) > 0.999  # the coordinator's states waste nothing
    exact = epsilon_of_mu(math.sqrt(sum(weight**2 for weight in weights)) / MULTIPLIER, DELTA)
    assert 0.8 * CLAIM < exact < CLAIM


def test_what_a_coalition_cannot_subtract_is_the_planned_noise(measured: Measured) -> None:
    """Fails once in a million runs. A tenth too little noise passes less than once in 10^8."""
    game = CoalitionGame("whitened")
    _, is_planned = game.noise_in([game.play(present=False) for _ in range(FEW)], measured)
    assert is_planned


def half_the_noise(size: int, sigma: float) -> NDArray[np.int64]:
    return noise.discrete_gaussian(size, sigma / 2)


def the_colluders_share_counted(size: int, sigma: float) -> NDArray[np.int64]:
    return noise.discrete_gaussian(size, sigma * math.sqrt(2 / 3))


@pytest.mark.parametrize("defect", [half_the_noise, the_colluders_share_counted])
def test_too_little_noise_in_masked_sums_is_noticed(
    defect: Callable[[int, float], NDArray[np.int64]],
    monkeypatch: pytest.MonkeyPatch,
    measured: Measured,
) -> None:
    """Six games: the deviation is 12 standard errors off or more."""
    monkeypatch.setattr(door, "discrete_gaussian", defect)
    game = CoalitionGame("whitened")
    ratio, is_planned = game.noise_in([game.play(present=False) for _ in range(6)], measured)
    assert not is_planned
    assert ratio < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("analysis", ANALYSES)
def test_a_coalition_learns_no_more_than_the_claim(
    analysis: str, bounds: Bounds, measured: Measured
) -> None:
    """Fails less than once in 10^5 runs. At 500 games 2 % is 7 standard errors or more."""
    game = CoalitionGame(analysis)
    games = {here: [game.play(present=here) for _ in range(GAMES)] for here in (False, True)}
    explained = [
        [seen - move for seen, move in zip(sums, game.moves, strict=True)] for sums in games[True]
    ]
    _, is_planned = game.noise_in(games[False] + explained, measured)
    assert is_planned
    scores = [np.array([score(sums, game.moves) for sums in games[here]]) for here in (False, True)]
    assert scores[0].mean() < scores[1].mean()  # the patient is in the sums
    printed, sure = bounds(f"coalition, {analysis}", *scores, claim=CLAIM, delta=DELTA)
    assert not printed.refutes(CLAIM, "clopper_pearson")
    assert not sure.refutes(CLAIM, "gdp")
    assert not sure.refutes(CLAIM)
