"""The engines that `federation.py` starts, each in a fresh process of its own.

    python benchmarks/_engines.py numpy|messages|study SITES SIZE ROUNDS

Prints one JSON line: seconds of each round, and what passed before the first one began.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise

STARTED = time.monotonic()
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before anything imports Flower, which reads it once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"


Moment = tuple[float, float]  # seconds of wall and of this process' CPU


def now() -> Moment:
    """Return this moment."""
    return time.monotonic(), time.process_time()


def numpy_rounds(sites: int, size: int, rounds: int) -> list[Moment]:
    """Add vectors, round after round; return when each round ended, and the start."""
    import numpy as np

    vector, ends = np.zeros(size), [now()]
    for _ in range(rounds):
        vector = np.sum([vector + 1.0 for _ in range(sites)], axis=0) / sites
        ends.append(now())
    return ends


def message_rounds(sites: int, size: int, rounds: int) -> list[Moment]:
    """Send a vector to a ClientApp that adds one and answers, through the wire format."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

    from fedcohort.experiments.simulation.local_grid import InProcessGrid, run_in_process
    from fedcohort.fl_server.app import server_app

    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        received = message.content.array_records["vector"]["sum"].numpy()
        answer = RecordDict({"vector": ArrayRecord({"sum": Array(received + 1.0)})})
        return Message(answer, reply_to=message)

    ends: list[Moment] = []

    def serve(grid: Grid, context: Context) -> None:
        ends.append(now())
        vector = np.zeros(size)
        for _ in range(rounds):
            content = RecordDict({"vector": ArrayRecord({"sum": Array(vector)})})
            messages = [Message(content, node, "train") for node in grid.get_node_ids()]
            replies = list(grid.send_and_receive(messages, timeout=60))
            parts = [reply.content.array_records["vector"]["sum"].numpy() for reply in replies]
            vector = np.sum(parts, axis=0) / sites
            ends.append(now())

    grid = InProcessGrid(client, [f"site{number:02d}" for number in range(sites)])
    run_in_process(server_app(serve), grid, {})
    return ends


def study_rounds(sites: int, size: int, rounds: int) -> list[Moment]:
    """Run a plan of gradient rounds over ten tiny cohorts: all that a real study does."""
    import numpy as np

    from fedcohort.experiments.simulation.federate import federate
    from fedcohort.study.cohort import Cohort, Schema
    from fedcohort.study.plan import Plan

    schema = Schema(
        name="uplink",
        task="risk",
        features=tuple(f"x{number}" for number in range(size - 1)),
        bound=1.0,
        outcome="y",
        codebook_sha256="0" * 64,
    )
    random = np.random.default_rng(0)
    cohorts = [
        Cohort(
            site=f"site{number:02d}",
            schema=schema,
            features=random.uniform(-1, 1, (2, size - 1)).astype(np.float32),
            patient=np.arange(2, dtype=np.uint64),
            label=np.array([0.0, 1.0]),
        )
        for number in range(sites)
    ]
    model = {"name": "logistic", "features": size - 1, "bound": 1.0}
    plan = Plan(
        study="uplink",
        purpose="Measure a round.",
        analysis="gradient",
        parameters={"model": model, "steps": rounds, "learning_rate": 0.1},
        schema_sha256=schema.sha256,
        sites=tuple(cohort.site for cohort in cohorts),
        privacy=None,
        max_rounds=rounds + 1,
        max_patients_per_site=2**17,
        min_sites=sites,
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires="2100-01-01",
    )
    ends: list[Moment] = []
    # The first round sums one count and is not counted: its end is the start.
    federate(plan, cohorts, on_round=lambda done: ends.append(now()))
    return ends


ENGINES = {"numpy": numpy_rounds, "messages": message_rounds, "study": study_rounds}


def main() -> None:
    """Run one engine and print its line."""
    sites, size, rounds = (int(text) for text in sys.argv[2:5])
    ends = ENGINES[sys.argv[1]](sites, size, rounds)
    answer = {
        "before_first_round": ends[0][0] - STARTED,
        "rounds": [after[0] - before[0] for before, after in pairwise(ends)],
        "cpu": ends[-1][1] - ends[0][1],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
