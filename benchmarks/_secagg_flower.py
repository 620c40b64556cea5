"""Flower's side of `secagg.py`: its own SecAgg+ functions, called directly.

    python benchmarks/_secagg_flower.py        reads requests, one JSON line each, and answers

It runs in a process of its own (Flower may need another environment than ours) and imports
nothing of fedcohort. The client is `_collect_masked_vectors` as Flower's mod calls it: open the
neighbours' ciphertexts, quantise, agree on keys, mask, serialise. The coordinator is what the
workflow's `unmask_stage` does with the shares that came (flwr 1.41.0, secaggplus_workflow.py,
lines 603-651): combine each secret's shares, make its masks again, dequantise. Its lines are
repeated here, because the method also talks to a grid and a strategy; every call in them is
Flower's. What does not change its time is not made for real: a neighbour's share is one of the
right length, and the masked sum is random.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import sys
import time
import tracemalloc
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import numpy as np
from flwr.common import ConfigRecord, ndarrays_to_parameters
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation import secaggplus_utils as utils
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

# Its package hides the module behind the function of the same name.
mod: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
# The workflow's defaults.
CLIP, LEVELS, MODULUS, MAX_WEIGHT = 8.0, 4194304, 4294967296, 1000.0
FIRST = 1  # the node that is timed


def threshold(sites: int) -> int:
    """Return two thirds of the sites, rounded as the workflow does."""
    return max(round(2 / 3 * sites), 2)


@functools.lru_cache(maxsize=1)
def nodes(sites: int) -> dict[int, Any]:
    """Return every node's state after the set-up stage."""
    config: Any = {
        Key.SAMPLE_NUMBER: sites,
        Key.SHARE_NUMBER: sites,
        Key.THRESHOLD: threshold(sites),
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: LEVELS,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: MAX_WEIGHT,
    }
    states = {}
    for place in range(FIRST, sites + 1):
        states[place] = mod.SecAggPlusState()
        states[place].nid = place
        mod._setup(states[place], ConfigRecord(config))
    return states


@functools.lru_cache(maxsize=1)
def after_sharing(sites: int) -> tuple[Any, ConfigRecord, float]:
    """Return the first node after it shared its keys, what it is sent next, and its CPU time."""
    states = nodes(sites)
    first = states[FIRST]
    keys: Any = {str(place): (state.pk1, state.pk2) for place, state in states.items()}
    started = time.process_time()
    mod._share_keys(first, keys)
    seconds = time.process_time() - started
    share = (bytes(first.rd_seed_share_dict[FIRST]), bytes(first.sk1_share_dict[FIRST]))
    sources = [place for place in states if place != FIRST]
    sealed = [
        encrypt(first.ss2_dict[place], utils.share_keys_plaintext_concat(place, FIRST, *share))
        for place in sources
    ]
    return first, ConfigRecord({Key.SOURCE_LIST: sources, Key.CIPHERTEXT_LIST: sealed}), seconds


def client(sites: int, size: int, *, memory: bool = False) -> float:
    """Return the CPU seconds, or the peak extra bytes, of one masked vector."""
    state, config, _ = after_sharing(sites)
    vector = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    parameters = ndarrays_to_parameters([vector])
    if memory:
        tracemalloc.start()
    started = time.process_time()
    mod._collect_masked_vectors(state, config, 100, parameters)
    seconds = time.process_time() - started
    if memory:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return float(peak)
    return seconds


@functools.lru_cache(maxsize=1)
def shares(sites: int) -> dict[int, tuple[list[bytes], list[bytes]]]:
    """Return the shares of every node's mask seed and, where it may be lost, of its key."""
    found = {}
    for place, state in nodes(sites).items():
        seed = create_shares(os.urandom(32), threshold(sites), sites)
        may_be_lost = place > sites - max(1, sites // 10)
        key = create_shares(state.sk1, threshold(sites), sites) if may_be_lost else []
        found[place] = (seed, key)
    return found


def server(sites: int, size: int, lost: int) -> float:
    """Return the CPU seconds of unmasking a sum of which the last `lost` nodes are missing."""
    states = nodes(sites)
    active = set(range(FIRST, sites - lost + 1))
    answers = {
        place: [both[0 if place in active else 1][holder - 1] for holder in sorted(active)]
        for place, both in shares(sites).items()
    }
    generator = np.random.default_rng(0)
    masked = [
        generator.integers(1, MODULUS, 1, dtype=np.int64),
        generator.integers(0, MODULUS, size, dtype=np.int64),
    ]
    public_keys = {place: (state.pk1, state.pk2) for place, state in states.items()}
    started = time.process_time()
    for place, share_list in answers.items():
        secret = combine_shares(share_list)
        shape = arithmetic.get_parameters_shape(masked)
        if place in active:
            mask = utils.pseudo_rand_gen(secret, MODULUS, shape)
            masked = arithmetic.parameters_subtraction(masked, mask)
            continue
        for other in set(states) - {place}:
            shared_key = generate_shared_key(
                bytes_to_private_key(secret), bytes_to_public_key(public_keys[other][0])
            )
            mask = utils.pseudo_rand_gen(shared_key, MODULUS, shape)
            if place > other:
                masked = arithmetic.parameters_addition(masked, mask)
            else:
                masked = arithmetic.parameters_subtraction(masked, mask)
    masked = arithmetic.parameters_mod(masked, MODULUS)
    total_ratio, masked = arithmetic.factor_extract(masked)
    result = dequantize(masked, CLIP, LEVELS)
    for vector in result:
        vector += -(len(active) - 1) * CLIP
        vector *= LEVELS / total_ratio
    return time.process_time() - started


def answer(asked: dict[str, Any]) -> float:
    """Answer one request."""
    sites, size = int(asked["sites"]), int(asked.get("size", 0))
    kind = asked["do"]
    if kind == "share_keys":
        return after_sharing(sites)[2]
    if kind in ("client", "memory"):
        return client(sites, size, memory=kind == "memory")
    if kind == "server":
        return server(sites, size, int(asked["lost"]))
    raise ValueError(f"an unknown request: {kind}")


def main() -> None:
    """Answer requests until there are no more."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - Flower's rounding draws from the global generator
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
