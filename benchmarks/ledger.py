"""What a hospital's ledger costs in time: reserving, charging, reading a long one, stating it.

    python benchmarks/ledger.py [--quick]      or: make bench-ledger

Bars: 210 entries of mixed mechanisms are read, run again and stated in under 3 s. Reserving and
charging are synced to disk; on a disk whose own fsync takes less than 5 ms, their medians are
under 20 ms. Writes docs/reference/ledger-speed.md and benchmarks/results/ledger.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import benchmarks._common as bench
else:
    import _common as bench

from fedcohort.privacy.budget import Budget
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation
from fedcohort.privacy.ledger.statement import statement
from fedcohort.privacy.ledger.store import SqliteLedger, read_entries
from fedcohort.privacy.mechanism import Mechanism

PRICED_S = 3.0
WRITTEN_MS = 20.0
IDLE_MS = 5.0  # of a bare fsync: above, the disk is what is measured
PLANS = (
    # noise multiplier, sampling probability, releases of a round, rounds
    (20.0, 1.0, 1, 20),
    (25.0, 1.0, 1, 60),
    (3.0, 0.1, 10, 40),
    (2.0, 0.05, 10, 20),
    (40.0, 1.0, 1, 60),
)

_INTRODUCTION = """# What a ledger costs in time

A year of one hospital: five plans of mixed mechanisms, 200 rounds, every entry synced to disk. The
first line is the disk alone: an entry takes a few such syncs.
"""


def milliseconds(work: Callable[[], object]) -> float:
    """Return how long one call took."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def bare_fsync(folder: Path, repeats: int = 50) -> float:
    """Return the median of writing and syncing a small file, in milliseconds."""
    with (folder / "probe").open("wb", buffering=0) as file:

        def sync() -> None:
            file.write(bytes(512))
            os.fsync(file.fileno())

        return statistics.median(milliseconds(sync) for _ in range(repeats))


def filled(path: Path) -> tuple[list[float], list[float]]:
    """Make a ledger of a year and return how long reserving and charging took."""
    opening = Opening(
        hospital="A",
        population="benchmark",
        kind="site",
        budget=Budget(epsilon=8.0, delta=1e-5),
        unnoised=False,
    )
    ledger = SqliteLedger.create(path, opening)
    reserved, charged = list[float](), list[float]()
    for number, (noise, probability, releases, rounds) in enumerate(PLANS):
        mechanism = Mechanism(noise_multiplier=noise, sampling_probability=probability)
        plan = Reservation(
            plan_sha256=f"{number:064x}",
            study="benchmark",
            purpose="",
            analysis="gradient",
            rounds=rounds,
            releases=rounds * releases,
            mechanism=mechanism,
            clip=1.0,
            sharing="sum" if probability == 1 else "local",
            min_survivors=4,
            colluders=1,
            masked=True,
        )
        reserved.append(milliseconds(lambda plan=plan: ledger.reserve(plan)))  # type: ignore[misc]
        for round_ in range(rounds):
            charge = Charge(
                plan_sha256=plan.plan_sha256, round=round_, releases=releases, mechanism=mechanism
            )
            charged.append(milliseconds(lambda charge=charge: ledger.charge(charge)))  # type: ignore[misc]
        ledger.close(plan.plan_sha256)
    ledger.dispose()
    return reserved, charged


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="nothing is written")
    quick = parser.parse_args(arguments).quick
    # Beside the repository: a temporary folder in memory would sync nothing.
    with tempfile.TemporaryDirectory(dir=bench.ROOT) as folder:
        path = Path(folder) / "a.ledger"
        reserved, charged = filled(path)
        sync = bare_fsync(Path(folder))
        entries = read_entries(path)
        stated = milliseconds(lambda: statement(read_entries(path)))
    median = {"reserve": statistics.median(reserved), "charge": statistics.median(charged)}
    idle = sync < IDLE_MS
    rows = [
        ["a bare fsync of 512 bytes", f"{sync:.1f} ms", "-"],
        *(
            [name, f"{took:.1f} ms", _answer(took < WRITTEN_MS) if idle else "disk too slow"]
            for name, took in median.items()
        ),
        [
            f"read, check and state {len(entries)} entries",
            f"{stated / 1e3:.2f} s",
            _answer(stated < PRICED_S * 1e3),
        ],
    ]
    head = ["what", "median", "bar"]
    bench.show("A hospital's ledger", head, rows)
    if not quick:
        document = {
            **bench.facts("make bench-ledger"),
            "fsync_ms": sync,
            **{f"{name}_ms": took for name, took in median.items()},
            "entries": len(entries),
            "statement_s": stated / 1e3,
        }
        bench.write_json("ledger", document)
        text = f"{bench.markdown_table(head, rows)}\n"
        bench.page("ledger-speed", document, f"{_INTRODUCTION}\n{text}")
    missed = any(row[-1] == "missed" for row in rows)
    return 1 if missed else 0


def _answer(reached: bool) -> str:
    return "reached" if reached else "missed"


if __name__ == "__main__":
    raise SystemExit(main())
