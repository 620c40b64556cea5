"""A whole epoch of four sites, byte for byte: another implementation can check itself with it.

`vectors/four_sites.json` holds every message of a set-up and two rounds: round 0 with 64-bit
words, where site-02 is lost after set-up; round 1 with 32-bit words, where nobody is. All
entropy is SHA-256(name || counter), in the order the sites ask for it; signatures are
deterministic; the randomness inside ML-KEM's encapsulation cannot be injected, so its results
are part of the file ("kem": sender>receiver -> [shared secret, ciphertext]).

To make the file anew, after a change of the wire format that the changelog names:

    python tests/unit/privacy/secagg/test_secagg_vectors.py
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedcohort.privacy.secagg.masking import pair_seed, self_seed
from fedcohort.privacy.secagg.suite import INTL, Suite

FILE = Path(__file__).parent / "vectors" / "four_sites.json"
LIMIT = 2**28
VECTORS = {place: [place, -place, 10**place, place - LIMIT, LIMIT, 7] for place in (1, 2, 3, 4)}


class Tape(Suite):
    """The suite, with encapsulations that are read from a tape, or written to one."""

    pending: list[tuple[bytes, bytes]]
    taken: list[tuple[bytes, bytes]]

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return what the tape holds next, or write down what the library gives."""
        if self.pending:
            return self.pending.pop(0)
        self.taken.append(super().encapsulate(public))
        return self.taken[-1]


def tape(pending: Iterable[tuple[bytes, bytes]]) -> Tape:
    suite = Tape(number=1, name="intl")
    object.__setattr__(suite, "pending", list(pending))  # the suite itself is frozen
    object.__setattr__(suite, "taken", [])
    return suite


def transcript(driver: Any, kem: dict[str, list[str]]) -> dict[str, Any]:
    """Run the epoch; `kem` is empty to record anew."""
    fed = driver.Federation.of(4, rounds=2, seed="four sites")
    tapes = {}
    for place, site in fed.sites.items():
        others = [other for other in fed.sites if other != place]
        held = [kem[f"{place}>{other}"] for other in others] if kem else []
        tapes[place] = site._suite = tape(
            (bytes.fromhex(secret), bytes.fromhex(ciphertext)) for secret, ciphertext in held
        )
    accepted = fed.set_up()
    found: dict[str, Any] = {
        "roster": fed.roster.to_bytes().hex(),
        "epoch": fed.coordinator.epoch.hex(),
        "advertises": [message.hex() for message in fed.advertises],
        "transcript": fed.coordinator._transcript.hex(),
        "kem": kem
        or {
            f"{place}>{other}": [part.hex() for part in taken]
            for place, suite in tapes.items()
            for other, taken in zip(
                (other for other in fed.sites if other != place), suite.taken, strict=True
            )
        },
        "shares": {str(place): message.hex() for place, message in fed.shares.items()},
        "deliveries_sha256": {
            str(place): INTL.hash(message).hex() for place, message in fed.deliveries.items()
        },
        "acknowledges": [message.hex() for message in fed.seen[8:12]],
        "participants": list(accepted),
        "rounds": [],
    }
    for number, (word_bits, lost) in enumerate(((64, (2,)), (32, ()))):
        secrets = {
            place: (bytes(site._epoch.masks[number]), bytes(site._epoch.selves[number]))
            for place, site in fed.sites.items()
        }
        fed.seen.clear()
        opened = fed.round(
            {place: np.array(row, dtype=np.int64) for place, row in VECTORS.items()},
            lost_before_report=lost,
            word_bits=word_bits,
            limit=LIMIT,
            label=f"round {number}",
        )
        plan = fed.decoded_plan().sha256(INTL)
        keys = {place: message.masks[number] for place, message in found_keys(fed).items()}
        there = len(fed.masked)
        found["rounds"].append(
            {
                "word_bits": word_bits,
                "lost": list(lost),
                "vectors": {str(place): row for place, row in VECTORS.items()},
                "plan": fed.plan.hex(),
                "plan_sha256": plan.hex(),
                "mask_keys": {str(place): pair[0].hex() for place, pair in secrets.items()},
                "self_masks": {str(place): pair[1].hex() for place, pair in secrets.items()},
                "pair_seeds": {
                    f"{one}-{two}": pair_seed(
                        INTL, secrets[one][0], keys[two], mine=one, other=two, plan=plan
                    ).hex()
                    for one in fed.sites
                    for two in fed.sites
                    if one < two
                },
                "self_seeds": {
                    str(place): self_seed(INTL, pair[1], plan).hex()
                    for place, pair in secrets.items()
                },
                "reports": {str(place): pair[0].hex() for place, pair in fed.masked.items()},
                "masked": {str(place): pair[1].hex() for place, pair in fed.masked.items()},
                "commits": [message.hex() for message in fed.seen[2 * there : 3 * there]],
                "unmasks": [message.hex() for message in fed.seen[3 * there :]],
                "total": opened.total.tolist(),
            }
        )
    return found


def found_keys(fed: Any) -> dict[int, Any]:
    keys: dict[int, Any] = fed.coordinator._advertised
    return keys


def test_the_epoch_of_the_file_is_reproduced_byte_for_byte(driver: Any) -> None:
    frozen = json.loads(FILE.read_text())
    made = transcript(driver, frozen["kem"])
    for name in frozen:
        assert made[name] == frozen[name], name
    assert set(made) == set(frozen)


def test_the_file_opens_by_arithmetic_on_its_own_numbers() -> None:
    """Without any of our protocol code: AES-CTR streams, added and taken off."""
    for round_ in json.loads(FILE.read_text())["rounds"]:
        bits, lost = round_["word_bits"], set(round_["lost"])
        size, modulus = len(round_["total"]), 2 ** round_["word_bits"]

        def words(seed: str, size: int = size, bits: int = bits) -> list[int]:
            stream = Cipher(algorithms.AES(bytes.fromhex(seed)), modes.CTR(bytes(16))).encryptor()
            data = stream.update(bytes(size * bits // 8))
            step = bits // 8
            return [
                int.from_bytes(data[at : at + step], "little") for at in range(0, len(data), step)
            ]

        masks = {place: words(seed) for place, seed in round_["self_seeds"].items()}
        pairs = {pair: words(seed) for pair, seed in round_["pair_seeds"].items()}
        total = [0] * size
        for place, row in round_["vectors"].items():
            data, step = bytes.fromhex(round_["masked"].get(place, "")), bits // 8
            expected = [(x + own) % modulus for x, own in zip(row, masks[place], strict=True)]
            for pair, mask in pairs.items():
                if place in pair.split("-"):
                    sign = 1 if pair.startswith(place + "-") else -1
                    expected = [
                        (x + sign * y) % modulus for x, y in zip(expected, mask, strict=True)
                    ]
            if int(place) not in lost:
                got = [
                    int.from_bytes(data[at : at + step], "little")
                    for at in range(0, len(data), step)
                ]
                assert got == expected
                total = [a + b for a, b in zip(total, row, strict=True)]
        assert total == round_["total"]


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location(
        "secagg_driver", Path(__file__).with_name("driver.py")
    )
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["secagg_driver"] = loaded
    spec.loader.exec_module(loaded)
    FILE.write_text(json.dumps(transcript(loaded, {}), indent=1) + "\n")
