"""Leave one patient out of the FILE: every sum that noise may protect moves by the clip at most.

The neighbouring relation starts at the extract. So does this property: bytes on a disk, read,
decoded, given to patients, split, encoded and summed by the code that a node runs. One patient's
lines, whatever is in them, are there or not; the bound is C (1 + 1e-6), and nothing that is said
of the table (schema, size, refusal) may differ.

Readers, mappings and hold-outs are crossed with every analysis and model of the registry that may
carry noise. `make test` draws 544 tables, `make test-all` 20,400 more.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedcohort.datasets import patients, readers, rows
from fedcohort.datasets.extract import ONE_ROW_EACH
from fedcohort.datasets.patients import Persons
from fedcohort.fl_client import site_data
from fedcohort.fl_client.site_data import SiteData
from fedcohort.privacy import clipping
from fedcohort.privacy.errors import ConfigError, DataError, PolicyError
from fedcohort.study import analyses, models
from fedcohort.study.analyses import averaging
from fedcohort.study.analyses.averaging import Averaging
from fedcohort.study.analysis import Analysis, Result, State, Total, Vector
from fedcohort.study.cohort import Cohort, Schema, Task
from fedcohort.study.evaluated import HeldOut
from fedcohort.study.holdout import Holdout
from fedcohort.study.model import Model
from fedcohort.study.registry import build, names

BOUND = 1 + 1e-6
CLIP, HORIZON = 0.7, 365.0
COLUMNS = ("pid", "age", "sex", "ward", "smoker", "died", "days", "remark")
CODEBOOK = """\
name: left-out
outcome: died
horizon_days: 365
columns:
  age: {type: number, range: [20, 90], centre: 55, scale: 10, missing: ["999"], indicator: true}
  sex: {type: category, values: [female, male], other: false}
  ward: {type: category, values: [男士, 女士], other: true}
  smoker: {type: boolean, true: ["Yes", "1"], false: ["No", "0"]}
"""
RISK, SURVIVAL = "outcome: died\n", "time: days\nevent: died\n"
POSITIVE = RISK + 'positive: "1"\n'
OUTCOMES = (RISK, POSITIVE, SURVIVAL)
FEATURES = ("", "features: [ward, age]\n", "exclude: [smoker]\n")

# ---- every analysis and model that may carry noise, out of the registry

# Values by the name of the field: a new analysis or model whose field is not here fails loudly.
GIVEN: dict[str, Any] = {
    **{"clip": CLIP, "noise_scale": 1.0, "noise_multiplier": 4.0, "sampling_probability": 0.5},
    **{"private": True, "steps": 2, "rounds": 1, "local_steps": 1, "hidden": (3,), "intervals": 5},
    **{"horizon_days": HORIZON, "max_patients": 1000, "theta": (0.1, 0.1)},
}
TABLE = {
    "rows": "sex", "row_values": ("female", "male"),
    "columns": "outcome", "column_values": ("0", "1"),
}  # fmt: skip


def made(package: Any, kind: str, name: str, **fields: Any) -> Any:
    """Make an analysis or model of the registry out of the fields that it has."""
    module = __import__(f"{package.__name__}.{name}", fromlist=["x"])
    own = [field for field in dataclasses.fields(getattr(module, kind.upper())) if field.init]
    known = GIVEN | (TABLE if "row_values" in {f.name for f in own} else {}) | fields
    wanted = [f.name for f in own if f.name in known or f.default is dataclasses.MISSING]
    return build(package, kind, name, {name: known[name] for name in wanted})


@functools.cache
def noisy(task: Task, features: int, bound: float) -> dict[str, Analysis]:
    """Return whatever may carry noise on a task, by name."""
    shape = {"features": features, "bound": bound}
    found: dict[str, Analysis] = {}
    for name in names(analyses):
        for model in [made(models, "model", one, **shape) for one in names(models)]:
            try:
                one: Analysis = made(analyses, "analysis", name, model=model, **shape)
            except (ConfigError, PolicyError):
                continue  # it refuses noise, or this model
            of: Model | None = getattr(one, "model", None)
            if one.releases is None or (of is not None and of.task != task):
                continue
            if of is not None or _is_for(one, task):
                found[name if of is None else f"{name} of {type(of).__name__}"] = one
    return found


def _is_for(analysis: Analysis, task: Task) -> bool:
    """Return whether an analysis without a model is for outcomes of this kind."""
    survival = task == "survival"
    nothing = np.empty(0)
    nobody = Cohort(
        site="here",
        schema=Schema(
            name="nobody",
            task=task,
            features=("x",),
            bound=1.0,
            outcome="y",
            codebook_sha256="0" * 64,
            horizon_days=HORIZON if survival else None,
        ),
        features=np.empty((0, 1), dtype=np.float32),
        patient=np.empty(0, dtype=np.uint64),
        label=None if survival else nothing,
        time=nothing if survival else None,
        event=np.empty(0, dtype=bool) if survival else None,
        groups={"sex": np.empty(0, dtype="U1")},
    )
    try:
        analysis.contribution(nobody, analysis.initial())
    except ValueError:
        return False
    return True


# ---- a hospital's folder, a table in it, and what its node would sum


@dataclass(frozen=True, kw_only=True)
class World:
    """How a table is read: the part of a node that is not the table."""

    reader: str
    patient: str
    outcome: str
    features: str
    holdout: Holdout | None

    @property
    def encoding(self) -> str:
        return "gb18030" if self.reader == "csv, gb18030" else "utf-8"

    @property
    def is_parquet(self) -> bool:
        return self.reader.startswith("parquet")

    def columns(self) -> list[str]:
        return [name for name in COLUMNS if name != "pid" or self.patient != ONE_ROW_EACH]

    def file(self, folder: Path, table: Sequence[bytes]) -> Path:
        """Write a table of these lines."""
        path = folder / ("extract.parquet" if self.is_parquet else "extract.csv")
        head = ",".join(self.columns()).encode(self.encoding)
        if self.is_parquet:
            self._parquet(path, table)
        else:
            path.write_bytes(b"\n".join([head, *table]) + b"\n")
        return path

    def _parquet(self, path: Path, table: Sequence[bytes]) -> None:
        cells = [line.decode(errors="replace").split(",") for line in table]
        width = len(self.columns())
        kept = [[*row, *[""] * width][:width] for row in cells]
        frame = pd.DataFrame(kept, columns=self.columns(), dtype="str")
        with duckdb.connect() as connection:
            connection.register("rows", frame)
            typed = "TRY_CAST(age AS DOUBLE) AS age, TRY_CAST(days AS INTEGER) AS days"
            chosen = f"* REPLACE ({typed})" if self.reader == "parquet, typed" else "*"
            connection.sql("FROM rows").select(chosen).write_parquet(str(path))

    def cohort(self, folder: Path, table: Sequence[bytes]) -> Cohort:
        """Return what a node makes of a table of these lines."""
        path = self.file(folder, table)
        (folder / "mapping.yaml").write_text(
            f"schema: fedcohort.mapping/1\ntable: {path.name}\ncodebook: codebook.yaml\n"
            f"patient: {self.patient}\nencoding: {self.encoding}\n{self.outcome}{self.features}",
            encoding="utf-8",
        )
        (folder / "codebook.yaml").write_text(CODEBOOK, encoding="utf-8")
        data = SiteData.read(folder, "here")
        return data.cohort(("remark", "sex"), holdout=self.holdout)[0]


def states_of(analysis: Analysis, cohort: Cohort) -> Iterator[State]:
    """Yield the states of a run over a cohort, each round's once."""
    state = analysis.initial()
    for _ in range(analysis.most_rounds):
        yield state
        size = analysis.size(state)
        drawn = np.random.default_rng(state.round).normal(size=size)
        after = analysis.step(state, Total(vector=drawn + 5.0, sites=("here",)))
        if isinstance(after, Result):
            return
        state = after


def sums(analysis: Analysis, cohort: Cohort, state: State) -> list[tuple[Vector, float]]:
    """Return each sum that noise meets in a round, with the bound that is stated for it."""
    if getattr(analysis, "noise_multiplier", None) is None:
        made = analysis.contribution(cohort, state)
        assert made.sensitivity is not None
        return [(made.total, made.sensitivity)]
    seen: list[tuple[Vector, float]] = []

    def noted(self: Averaging, values: Vector, sensitivity: float) -> Vector:
        seen.append((values, sensitivity))
        return np.zeros_like(values)  # so that the next step starts alike

    with (
        patch.object(Averaging, "_noisy", noted),
        patch.object(averaging, "poisson_sample", lambda count, q: np.ones(count, dtype=bool)),
    ):
        analysis.contribution(cohort, state)
    return seen


def furthest(analysis: Analysis, one: Cohort, other: Cohort) -> float:
    """Return how far a sum of `one` is from that of `other`, over its bound: the worst round's."""
    worst = 0.0
    for state in states_of(analysis, one):
        pairs = zip(sums(analysis, one, state), sums(analysis, other, state), strict=True)
        for (left, bound), (right, same) in pairs:
            assert left.shape == right.shape == (analysis.size(state),) or bound == 1.0
            assert bound == same
            worst = max(worst, float(np.linalg.norm(left - right)) / bound)
    return worst


# ---- tables

NASTY = (
    *(
        "",
        " ",
        "NA",
        "?",
        "999",
        "nan",
        "inf",
        "-1",
        "1e999",
        "-0",
        "1e-320",
        "\uff10\uff11",
        "4\u0663",
        "1,5",
    ),
    *('"', '""', '"a', 'a"b', "\r", "\x00", "\x0b", "\u2028", "\ufeff", "男", "女士", "unknown"),
    *("Yes", "no", "2", "1.0", "true", "是", "p1", " P1 ", "p1.0", "\uff301", "p2", "x" * 300),
)
RAW = (b"\xff", b"\xd6\xd0", b"\x81", b"\xed\xb2\x80", b"\xc3", b'"', b',"', b"\r")
PLAIN = {
    "pid": st.sampled_from(["p1", "p2", "p3", "p4", "p5", "p6"]),
    "age": st.integers(20, 90).map(str),
    "sex": st.sampled_from(["female", "male"]),
    "ward": st.sampled_from(["男士", "女士", "no such ward"]),
    "smoker": st.sampled_from(["Yes", "No"]),
    "died": st.sampled_from(["0", "1"]),
    "days": st.integers(0, 500).map(str),
    "remark": st.sampled_from(["ok", "fine"]),
}


@st.composite
def lines(draw: st.DrawFn, world: World, *, wild: bool) -> bytes:
    """Draw a line: an ordinary record; or, wild, one of nasty cells, or bytes at random."""
    if wild and draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=40)).replace(b"\n", b"")
    cells = []
    for name in world.columns():
        one = PLAIN[name]
        text = draw(st.one_of(one, st.sampled_from(NASTY), st.text(max_size=6)) if wild else one)
        cells.append(text.replace("\n", "").encode(world.encoding, "replace"))
    if wild and draw(st.booleans()):
        cells[draw(st.integers(0, len(cells) - 1))] += draw(st.sampled_from(RAW))
    return b",".join(cells)


@st.composite
def tables(draw: st.DrawFn, world: World, folder: Path) -> tuple[list[bytes], list[bytes]]:
    """Draw a table, and the same table without one patient's lines."""
    ordinary = draw(st.lists(lines(world, wild=False), min_size=3, max_size=12))
    strange = draw(st.lists(lines(world, wild=True), min_size=1, max_size=3))
    table = draw(st.permutations([*ordinary, *strange]))
    gone = draw(st.sampled_from([*strange, ordinary[0]]))
    whose = person(world, folder, gone)
    if whose is None:  # one line is one person, or nobody
        place = table.index(gone)
        return table, table[:place] + table[place + 1 :]
    of = {line: person(world, folder, line) for line in {*strange, *ordinary}}
    return table, [line for line in table if of[line] != whose]


def person(world: World, folder: Path, line: bytes) -> str | None:
    """Return whose a line is, read as if it stood alone."""
    if world.patient == ONE_ROW_EACH:
        return None
    found = readers.read_rows(world.file(folder, [line]), world.encoding).frame
    return None if found["pid"].isna().all() else patients.normal_id(found["pid"][0])


READERS = ("csv, utf-8", "csv, gb18030", "parquet", "parquet, typed")
HOLDOUTS = (None, Holdout(key="5a" * 32, test_fraction=0.4, histogram=True, bins=4))
WORLDS = list(itertools.product(READERS, ("pid", ONE_ROW_EACH), HOLDOUTS))
IDS = [f"{reader}; {who}; {'held out' if out else 'all train'}" for reader, who, out in WORLDS]
FEW, MANY = 34, 1275  # tables for each of the 16 worlds


def with_holdout(analysis: Analysis, holdout: Holdout | None) -> Analysis:
    """Return the analysis as a plan of this hold-out runs it."""
    if holdout is None:
        return analysis
    try:
        return HeldOut(inner=analysis, holdout=holdout)
    except ConfigError:  # no model to score with, or noise that no histogram would meet
        return HeldOut(inner=analysis, holdout=dataclasses.replace(holdout, histogram=False))


def property_of(
    reader: str, patient: str, holdout: Holdout | None, examples: int
) -> Callable[[], None]:
    """Return the property for one way to read, as a test that draws so many tables."""
    reaching: list[str] = []

    @settings(
        max_examples=examples,
        phases=[Phase.generate],  # a table is small already, and shrinking writes files for minutes
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        world = World(
            reader=reader,
            patient=patient,
            outcome=data.draw(st.sampled_from(OUTCOMES)),
            features=data.draw(st.sampled_from(FEATURES)),
            holdout=holdout,
        )
        with tempfile.TemporaryDirectory() as named:
            folder = Path(named)
            table, rest = data.draw(tables(world, folder))
            one, other = world.cohort(folder, table), world.cohort(folder, rest)
        assert one.schema.sha256 == other.schema.sha256
        assert set(one.groups) == set(other.groups)
        schema = one.schema
        offered = noisy(schema.task, len(schema.features), schema.bound)
        name = data.draw(st.sampled_from(sorted(offered)))
        moved = furthest(with_holdout(offered[name], holdout), one, other)
        assert moved <= BOUND
        if moved > 0:
            reaching.append(name)

    def check() -> None:
        reaching.clear()
        holds()
        assert len(set(reaching)) > 2  # patients are not simply ignored

    return check


@pytest.mark.parametrize(("reader", "patient", "holdout"), WORLDS, ids=IDS)
def test_one_patient_of_the_file_moves_a_sum_by_the_clip_and_no_more(
    reader: str, patient: str, holdout: Holdout | None
) -> None:
    property_of(reader, patient, holdout, FEW)()


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "patient", "holdout"), WORLDS, ids=IDS)
def test_one_patient_of_the_file_moves_a_sum_by_the_clip_in_twenty_thousand_tables(
    reader: str, patient: str, holdout: Holdout | None
) -> None:
    property_of(reader, patient, holdout, MANY)()


# ---- positive controls: what main did before, and each is far outside


def moved_by(world: World, table: Sequence[bytes], rest: Sequence[bytes]) -> float:
    """Return how far a gradient moves between two tables, in clip norms."""
    with tempfile.TemporaryDirectory() as named:
        one, other = (world.cohort(Path(named), lines) for lines in (table, rest))
    schema = one.schema
    analysis = noisy("risk", len(schema.features), schema.bound)["gradient of Logistic"]
    return furthest(with_holdout(analysis, world.holdout), one, other)


def crowd(world: World, size: int = 40) -> list[bytes]:
    """Return the lines of so many persons, no two alike."""
    return [
        ",".join(
            {
                **{"pid": f"p{n}", "age": str(20 + n), "sex": "male", "ward": "女士"},
                **{"smoker": "Yes", "died": str(int(n % 3 > 0)), "days": "9", "remark": "ok"},
            }[name]
            for name in world.columns()
        ).encode()
        for n in range(size)
    ]


EACH = World(
    reader="csv, utf-8", patient=ONE_ROW_EACH, outcome=RISK, features="", holdout=HOLDOUTS[1]
)
NAMED = dataclasses.replace(EACH, patient="pid", holdout=None)


def test_row_numbers_as_tokens_move_everybody_behind() -> None:
    table = crowd(EACH)
    assert moved_by(EACH, table, table[1:]) <= BOUND

    def numbers(frame: pd.DataFrame, patient: str | None, columns: Sequence[str]) -> Persons:
        rows = pd.Series([f"row {row}" for row in range(len(frame))], dtype="str")
        return Persons(token=rows, side=rows)

    with patch.object(rows, "persons_of", numbers):
        assert moved_by(EACH, table, table[1:]) > 2


def test_an_encoding_guessed_from_the_file_reads_everybody_anew() -> None:
    others = crowd(NAMED)
    table = [*others, others[0].replace(b"p0", b"p99").replace(b"ok", b"\xd6\xd0")]
    assert moved_by(NAMED, table, others) <= BOUND

    def guess(path: Path, encoding: str, *, columns: Any) -> readers.RawTable:
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            encoding = "gb18030"
        return readers.read_rows(path, encoding, columns=columns)

    with patch.object(site_data, "read_rows", guess):
        assert moved_by(NAMED, table, others) > 2


def test_a_quote_that_outlives_its_line_swallows_others() -> None:
    others = crowd(NAMED)
    stray = others[0].replace(b"p0", b'p99,"').replace(b",ok", b"")
    table = [*others[:20], stray, *others[20:]]
    assert moved_by(NAMED, table, others) <= BOUND

    def whole(path: Path, encoding: str, *, columns: Any) -> readers.RawTable:
        with path.open(encoding=encoding, newline="") as file:
            header, *found = csv.reader(file)
        kept = [row for row in found if len(row) == len(header)]
        return readers.RawTable(frame=pd.DataFrame(kept, columns=header, dtype="str"))

    with patch.object(site_data, "read_rows", whole):
        assert moved_by(NAMED, table, others) > 2


def test_an_analysis_that_does_not_clip_is_found() -> None:
    table = crowd(NAMED)
    with patch.object(clipping, "clip_factors", lambda norms, clip: np.ones_like(norms)):
        assert moved_by(NAMED, table, table[1:]) > 1.5


# ---- people and nodes read alike


@settings(max_examples=150, phases=[Phase.generate])
@given(data=st.data())
def test_what_people_let_pass_a_node_reads_without_a_loss(data: st.DataObject) -> None:
    world = World(
        reader=data.draw(st.sampled_from(READERS)),
        patient=data.draw(st.sampled_from(["pid", ONE_ROW_EACH])),
        outcome=data.draw(st.sampled_from(OUTCOMES)),
        features=data.draw(st.sampled_from(FEATURES)),
        holdout=HOLDOUTS[1],
    )
    allowed = ("remark", "sex")
    with tempfile.TemporaryDirectory() as named:
        table = data.draw(st.lists(lines(world, wild=False), min_size=3, max_size=12))
        cohort = world.cohort(Path(named), table)
        site = SiteData.read(Path(named), "here")
        refused = ""
        try:
            checked = site.check(allowed, holdout=world.holdout)[0]
        except DataError as error:
            refused = error.code
        faults = [fault.code for fault in site.faults(allowed)]
    assert faults[:1] == ([refused] if refused else [])
    if refused:
        return
    assert cohort.schema == checked.schema
    for name in ("features", "patient", "draw", "label", "time", "event", "held_out"):
        np.testing.assert_array_equal(getattr(cohort, name), getattr(checked, name), err_msg=name)
