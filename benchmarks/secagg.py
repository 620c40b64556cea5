"""What masked sums cost: CPU seconds of clients and coordinator, against Flower's SecAgg+.

    python benchmarks/secagg.py [--quick]

For n sites and vectors of length d, one after the other in the same run:

    client       ours: encode and `report` (n - 1 agreements, n masks, digest, signature);
                 Flower's: `_collect_masked_vectors`, its counterpart
    coordinator  ours: `survivors`, `commits` and `open_sum`, with no drop-outs and with 10 %;
                 Flower's: what its `unmask_stage` does with the shares that came
    unmasking    the part of ours that Flower's lines have: recover the secrets, make their masks
                 again, take them off. They verify no signature and read no message, so this is
                 like for like; the bar of 1,000 (n = 50, d = 1e4, no drop-outs) is on this
                 part, that of 10 on both

All sites are real, set up for 100 rounds; every sum that is opened is compared with the exact
one. Words have 64 bits up to d = 100,000 and 32 bits above. Vectors are encoded block by block
into their own memory. Flower's figures come from its own functions, in a process of their own
(`_secagg_flower.py`) with flwr 1.41: this environment's, or build/bench-flower, made from PyPI;
where that fails it is left out with a reason. Times are CPU clocks of the process, medians; with
50 sites Flower's coordinator takes half a minute a cell and runs once.

Prints and writes docs/reference/secagg-speed.md and benchmarks/results/secagg.json; `--quick`
(no d = 1e7, no Flower coordinator with 50 sites, few rounds) writes nothing. The bars were set
before; exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import benchmarks._common as bench
    import benchmarks._secagg_ours as ours
    import benchmarks._secagg_page as page
else:  # a script's own folder is on its path
    import _common as bench
    import _secagg_ours as ours
    import _secagg_page as page

SITES, SIZES = (5, 10, 50), (10**4, 10**6, 10**7)
ROUNDS = 100  # of an epoch: what its set-up is shared over
REPEATS = {10**4: 7, 10**6: 5, 10**7: 3}
HERE = Path(__file__).resolve().parent
FLOWER_VENV = bench.ROOT / "build" / "bench-flower"
FLOWER = "flwr==1.41.0"


@dataclass(slots=True, kw_only=True)
class Cell:
    """The figures of one (n, d): CPU seconds, medians unless said otherwise.

    Attributes:
        sites: n.
        size: d.
        client: Ours.
        flower_client: Flower's; None where it was not measured.
        server: Ours by number of drop-outs: (everything, unmasking alone).
        flower_server: Flower's by number of drop-outs.
        masks: Our masks over the time in which AES-256-CTR writes as many bytes.
        keystream: That bandwidth, bytes a second.
        up_bytes: What a site sent beside its vector.
        vector_bytes: Bytes of its masked vector.
        extra_bytes: Peak memory of the client beyond its vector.
    """

    sites: int
    size: int
    client: float = 0.0
    flower_client: float | None = None
    server: dict[int, tuple[float, float]] = field(default_factory=dict)
    flower_server: dict[int, float] = field(default_factory=dict)
    masks: float = 0.0
    keystream: float = 0.0
    up_bytes: int = 0
    vector_bytes: int = 0
    extra_bytes: int = 0


class Flower:
    """The process that runs Flower's functions.

    Raises:
        RuntimeError: There is no flwr 1.41 here, and it cannot be installed.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [flower_python(), str(HERE / "_secagg_flower.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def ask(self, do: str, **asked: int) -> float:
        """Return the answer to one request."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("Flower's process has no pipes")
        self._process.stdin.write(json.dumps({"do": do, **asked}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"Flower's process ended: {self._errors.read()[-300:]}")
        return float(line)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()


def flower_python() -> str:
    """Return a Python that has flwr 1.41: this one, or one that is made.

    Raises:
        RuntimeError: It cannot be made here.
    """
    here = util.find_spec("flwr") and util.find_spec("Crypto")
    if here and metadata.version("flwr").startswith("1.41."):
        return sys.executable
    python = FLOWER_VENV / "bin" / "python"
    ready = [str(python), "-c", "import flwr, Crypto"]
    if not python.exists() or subprocess.run(ready, capture_output=True).returncode:  # noqa: S603
        bench.console.print(f"installing {FLOWER} into {FLOWER_VENV} ...", style="dim")
        install = [str(python), "-m", "pip", "install", "-qq", FLOWER]
        for command in ([sys.executable, "-m", "venv", str(FLOWER_VENV)], install):
            done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
            if done.returncode:
                raise RuntimeError(f"{FLOWER} cannot be installed: {done.stderr.strip()[-200:]}")
    return str(python)


def lost_of(sites: int) -> tuple[int, int]:
    """Return the numbers of drop-outs that are tried: none, and a tenth."""
    return 0, max(1, sites // 10)


def measure(federation: ours.Federation, size: int, flower: Flower | None, *, quick: bool) -> Cell:
    """Measure one (n, d), ours and Flower's in turn."""
    sites = federation.sites
    cell = Cell(sites=sites, size=size)
    values = np.random.default_rng(0).uniform(-1, 1, size)
    repeats = 2 if quick else 1 if sites == 50 and size == 10**7 else REPEATS[size]
    clients, theirs = list[float](), list[float]()
    opened: dict[int, list[tuple[float, float]]] = {lost: [] for lost in lost_of(sites)}
    unmasking: dict[int, list[float]] = {lost: [] for lost in lost_of(sites)}
    for repeat in range(repeats):
        for lost in lost_of(sites):
            done = federation.round(values, lost=lost, repeats=1 if quick else 3)
            clients += done.clock.seconds["R1 encode, report"]
            opened[lost] += done.coordinator_seconds
            cell.up_bytes = max(cell.up_bytes, done.up_bytes)
            cell.vector_bytes = done.vector_bytes
            cell.extra_bytes = max(cell.extra_bytes, done.extra_bytes)
            if flower and not (sites == 50 and (quick or repeat)):
                asked = flower.ask("server", sites=sites, size=size, lost=lost)
                unmasking[lost].append(asked)
        if flower:
            theirs.append(flower.ask("client", sites=sites, size=size))
    cell.client = statistics.median(clients)
    cell.flower_client = statistics.median(theirs) if theirs else None
    for lost, seconds in opened.items():
        whole, alone = zip(*seconds, strict=True)
        cell.server[lost] = statistics.median(whole), statistics.median(alone)
    cell.flower_server = {n: statistics.median(times) for n, times in unmasking.items() if times}
    if size >= 10**6:
        cell.masks, cell.keystream = masks_over_limit(size, sites)
    return cell


def masks_over_limit(size: int, streams: int, repeats: int = 5) -> tuple[float, float]:
    """Return how much longer masks take than their keystream alone, and its bytes a second."""
    total = size * streams * ours.word_bits(size) // 8
    masks, limit = list[float](), list[float]()
    for _ in range(repeats):
        limit.append(ours.keystream_seconds(total))
        masks.append(ours.mask_seconds(size, streams))
    fastest = statistics.median(limit)
    return statistics.median(masks) / fastest, total / fastest


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, and nothing is written")
    quick = parser.parse_args(arguments).quick
    flower, skipped = None, ""
    try:
        flower = Flower()
        flower.ask("client", sites=3, size=10)
    except RuntimeError as error:
        flower, skipped = None, str(error)
    cells: list[Cell] = []
    extra: dict[str, Any] = {"share_keys": {}, "set_up": {}, "set_up_bytes": {}}
    for sites in SITES:
        bench.console.print(f"{sites} sites: set-up for {ROUNDS} rounds ...", style="dim")
        federation = ours.Federation(sites, ROUNDS)
        phases = federation.clock.medians()
        extra["set_up"][sites] = sum(phases[name] for name in page.SET_UP)
        extra["set_up_bytes"][sites] = federation.set_up_bytes
        if flower:
            extra["share_keys"][sites] = flower.ask("share_keys", sites=sites)
        for size in SIZES[:2] if quick else SIZES:
            cells.append(measure(federation, size, flower, quick=quick))
            bench.console.print(f"{sites} sites, d = {size:,}: done", style="dim")
        if sites == SITES[-1]:
            values = np.random.default_rng(0).uniform(-1, 1, 20)
            last = federation.round(values, lost=lost_of(sites)[1], repeats=5)
            extra["phases"] = phases | last.clock.medians()
    if flower:
        extra["memory"] = flower.ask("memory", sites=5, size=10**6) / 10**6
        flower.close()
    return page.report(cells, extra, skipped, written=not quick)


if __name__ == "__main__":
    sys.exit(main())
