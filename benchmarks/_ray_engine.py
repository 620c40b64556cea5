"""One vector up from every site, by Flower's Ray engine; run in a venv of its own.

    python benchmarks/_ray_engine.py SITES SIZE ROUNDS

Prints one JSON line: seconds of each round, and what passed before the first one began. No
import of ours: its environment holds Flower, Ray and numpy only.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from itertools import pairwise

_STARTED = time.monotonic()
# Telemetry of both is switched off by `federation.py`, in this process' environment.


def main() -> None:
    """Measure and print."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    sites, size, rounds = (int(text) for text in sys.argv[1:4])
    logging.getLogger("flwr").setLevel(logging.ERROR)
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        received = message.content.array_records["vector"]["sum"].numpy()
        answer = RecordDict({"vector": ArrayRecord({"sum": Array(received + 1.0)})})
        return Message(answer, reply_to=message)

    server = ServerApp()
    ends: list[float] = []

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < sites:
            time.sleep(0.05)
        ends.append(time.monotonic())
        vector = np.zeros(size)
        for _ in range(rounds):
            content = RecordDict({"vector": ArrayRecord({"sum": Array(vector)})})
            messages = [Message(content, node, "train") for node in grid.get_node_ids()]
            replies = list(grid.send_and_receive(messages, timeout=120))
            if len(replies) != sites or any(reply.has_error() for reply in replies):
                raise RuntimeError(f"{len(replies)} of {sites} nodes answered")
            parts = [reply.content.array_records["vector"]["sum"].numpy() for reply in replies]
            vector = np.sum(parts, axis=0) / sites
            ends.append(time.monotonic())
        if not np.array_equal(vector, np.full(size, float(rounds))):
            raise RuntimeError("the sum is wrong")

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=sites,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    answer = {
        "before_first_round": ends[0] - _STARTED,
        "rounds": [after - before for before, after in pairwise(ends)],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
