"""What one plain uplink costs: 10 sites send 1,000 numbers each, in one process.

    python benchmarks/federation.py [--repeats 3] [--no-ray] [--quick]

Four engines do the same sum, each in a fresh process of its own:

    numpy     a bare loop over arrays: what the arithmetic alone costs
    messages  our in-process Grid, a ClientApp that answers at once: what Flower's wire costs
    study     a whole round of ours: state hash, terms, gradient, integers, ledger, sum, step
    ray       Flower's own simulation engine, the same ClientApp as `messages`

Ray is optional: it runs in build/bench-ray, which is made from PyPI when it is not there, and
is left out with a reason where that fails. Prints and writes docs/reference/federation-speed.md
and benchmarks/results/federation.json. Exit code 1 when `study` is not 5 times faster than
`ray` per round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import benchmarks._common as bench
else:
    import _common as bench

SITES, SIZE, BAR = 10, 1000, 5.0
ENGINES = ("numpy", "messages", "study")
ROUNDS = {"numpy": 200, "messages": 200, "study": 200, "ray": 30}
WORDS = {
    "numpy": "bare numpy loop",
    "messages": "in-process Grid, messages only",
    "study": "in-process Grid, a whole study's round",
    "ray": "Flower's Ray engine, messages only",
}
RAY_VENV = bench.ROOT / "build" / "bench-ray"
RAY_PACKAGES = ("flwr==1.41.0", "ray==2.55.1", "numpy")
HERE = Path(__file__).resolve().parent


def measure(command: Sequence[str]) -> dict[str, Any]:
    """Run an engine in a fresh process and return its line.

    Raises:
        RuntimeError: It failed or took more than five minutes.
    """
    quiet = dict.fromkeys(("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"), "0")
    quiet |= {"FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own scripts, our own arguments
            command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[1]} took more than five minutes") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"{command[1]} failed: {(done.stderr or done.stdout)[-400:]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def ray_python() -> str:
    """Return the Python of Ray's environment, made when it is not there.

    Raises:
        RuntimeError: It cannot be made here.
    """
    python = RAY_VENV / "bin" / "python"
    ready = [str(python), "-c", "import flwr, ray"]
    if not python.exists() or subprocess.run(ready, capture_output=True).returncode:  # noqa: S603
        bench.console.print(f"installing Ray into {RAY_VENV} ...", style="dim")
        install = [str(python), "-m", "pip", "install", "-qq", *RAY_PACKAGES]
        for command in ([sys.executable, "-m", "venv", str(RAY_VENV)], install):
            done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
            if done.returncode:
                raise RuntimeError(f"Ray cannot be installed here: {done.stderr.strip()[-200:]}")
    return str(python)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return an engine's figures over its runs, in seconds.

    The first round of a run is counted with the start-up, not among the steady ones.
    """
    steady = [seconds for run in runs for seconds in run["rounds"][1:]]
    cpu = [run["cpu"] / len(run["rounds"]) for run in runs if "cpu" in run]
    found = {
        "first_sum_s": statistics.median(
            run["before_first_round"] + run["rounds"][0] for run in runs
        ),
        "round_s": statistics.median(steady),
        "fastest_round_s": min(steady),
    }
    return found | ({"cpu_round_s": statistics.median(cpu)} if cpu else {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where the bar was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes an engine")
    parser.add_argument("--no-ray", action="store_true", help="leave Flower's Ray engine out")
    parser.add_argument("--quick", action="store_true", help="few rounds, no Ray, nothing written")
    asked = parser.parse_args(arguments)
    repeats = 1 if asked.quick else asked.repeats
    found: dict[str, dict[str, float]] = {}
    for name in ENGINES:
        rounds = 5 if asked.quick else ROUNDS[name]
        sizes = [str(SITES), str(SIZE), str(rounds)]
        command = [sys.executable, str(HERE / "_engines.py"), name, *sizes]
        found[name] = summary([measure(command) for _ in range(repeats)])
    skipped = "left out by --no-ray" if asked.no_ray or asked.quick else ""
    if not skipped:
        try:
            engine = [ray_python(), str(HERE / "_ray_engine.py")]
            sizes = [str(SITES), str(SIZE), str(ROUNDS["ray"])]
            found["ray"] = summary([measure([*engine, *sizes]) for _ in range(repeats)])
        except RuntimeError as error:
            skipped = str(error)
    return report(found, skipped, repeats, written=not asked.quick)


def report(
    found: Mapping[str, Mapping[str, float]], skipped: str, repeats: int, *, written: bool
) -> int:
    """Print and write the figures; 1 where the bar was missed."""
    head = ["engine", "first sum", "round, median", "round, fastest", "CPU a round"]
    rows = [[WORDS[name], *_cells(figures)] for name, figures in found.items()]
    bench.show(f"{SITES} sites x {SIZE:,} numbers up, one process", head, rows)
    ratios = _ratios(found)
    for line in ratios or [f"Ray: {skipped}"]:
        bench.console.print(line, markup=False)
    reached = not ratios or found["ray"]["round_s"] / found["study"]["round_s"] >= BAR
    if written:
        made = bench.facts("make bench-federation")
        facts = {**made, "repeats": repeats, "engines": dict(found), "ray_skipped": skipped}
        bench.write_json("federation", facts)
        table = bench.markdown_table(head, rows)
        said = "\n".join(f"- {line}" for line in ratios) or f"Ray was not measured: {skipped}."
        bench.page("federation-speed", made, _TEXT.format(table=table, said=said, runs=repeats))
    return 0 if reached else 1


_TEXT = f"""# Speed of a round

Ten sites send {SIZE:,} numbers each to a coordinator, all on one machine, and get the mean back;
again and again. Each engine runs in {{runs}} fresh processes. *First sum* is everything from
the start of Python to the first answer, imports included; the other columns leave the first
round out.

{{table}}

{{said}}

The two lines *messages only* do the same work: a ClientApp that answers at once. The line
*a whole study's round* also hashes the state, checks the terms against the approved plan,
computes a gradient, encodes integers, charges the ledger, sums and steps. Most of a steady
round of Ray's is waiting: Flower 1.41 looks for messages every 0.1 s. Ray has its place where
each client needs a process or a GPU; these do not."""


def _cells(figures: Mapping[str, float]) -> list[str]:
    cpu = figures.get("cpu_round_s")
    return [
        f"{figures['first_sum_s']:.2f} s",
        f"{1e3 * figures['round_s']:.3g} ms",
        f"{1e3 * figures['fastest_round_s']:.3g} ms",
        "-" if cpu is None else f"{1e3 * cpu:.3g} ms",
    ]


def _ratios(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    if "ray" not in found:
        return []
    ray, lines = found["ray"], []
    for name in ("messages", "study"):
        steady = ray["round_s"] / found[name]["round_s"]
        first = ray["first_sum_s"] / found[name]["first_sum_s"]
        bar = f" (bar: {BAR:g})" if name == "study" else ""
        lines.append(
            f"{WORDS[name]}: {steady:.1f} times as fast as Ray a round{bar}, "
            f"{first:.1f} times to the first sum"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
