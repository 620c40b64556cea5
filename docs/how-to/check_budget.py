"""Check a budget report without fedcohort: python3 -I check_budget.py EXPORT.json REPORT.json."""

import hashlib
import json
import math
import sys
from pathlib import Path

ORDERS = (*range(2, 65), *(int(64 * 1.04**step) for step in range(1, 89)))


def cost(mechanism: dict, order: int) -> float:
    """Renyi DP of one noisy sum: discrete Gaussian, or Gaussian on Poisson samples."""
    half, q = 1 / (2 * mechanism["noise_multiplier"] ** 2), mechanism["sampling_probability"]
    if q == 1:
        return order * half
    terms = [
        math.log(math.comb(order, k))
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + (k * k - k) * half
        for k in range(order + 1)
    ]
    top = max(terms)
    return (top + math.log(math.fsum(math.exp(t - top) for t in terms))) / (order - 1)


def recomputed(texts: list) -> dict:
    """Check the chain of an export; return its head and what it adds up to."""
    previous, plans, unnoised, number = "0" * 64, {}, 0, 0
    for number, text in enumerate(texts, start=1):
        entry = json.loads(text)
        if (entry["number"], entry["previous"]) != (number, previous):
            sys.exit(f"WRONG: entry {number} does not follow the one before")
        previous, body = hashlib.sha256(text.encode()).hexdigest(), entry["body"]
        if number == 1:
            opening, budget = body, body["budget"]
        elif entry["kind"] == "reserve":
            plans[body["plan_sha256"]] = {**body, "made": 0, "closed": False}
        elif entry["kind"] == "charge":
            plan = plans[body["plan_sha256"]]
            plan["made"] += body["releases"]
            if body["mechanism"] != plan["mechanism"] or plan["made"] > plan["releases"]:
                sys.exit(f"WRONG: entry {number} releases what its plan did not reserve")
            unnoised += body["mechanism"] is None
        elif entry["kind"] == "close":
            plans[body["plan_sha256"]]["closed"] = True
    found = {"head": f"{number}:{previous}", "entries": number, "unnoised_releases": unnoised}
    found |= {name: opening[name] for name in ("hospital", "population", "kind")}
    if budget is None:
        return found
    log, epsilon = math.log(budget["delta"]), budget["epsilon"]
    room = {a: epsilon + (log + math.log(a)) / (a - 1) - math.log1p(-1 / a) for a in ORDERS}
    order = max(ORDERS, key=lambda a: room[a] / a)
    limit, noisy = room[order] / (1 + 2e-9), [p for p in plans.values() if p["mechanism"]]
    spent = math.fsum(p["made"] * cost(p["mechanism"], order) for p in noisy)
    held = math.fsum(
        (p["releases"] - p["made"]) * cost(p["mechanism"], order) for p in noisy if not p["closed"]
    )
    left = max(0.0, limit - spent - held)
    return found | {
        "epsilon": epsilon,
        "delta": budget["delta"],
        "order": order,
        "limit": limit,
        "spent": spent,
        "reserved": held,
        "left": left,
    }


def reported(told: dict) -> dict:
    """Return the same numbers as the report states them."""
    found = {"head": told["chain"]["head"], "entries": told["chain"]["entries"]}
    found |= {name: told[name] for name in ("hospital", "population", "kind", "unnoised_releases")}
    if told["budget"] is None:
        return found
    return found | told["budget"] | {n: told[n]["rdp"] for n in ("spent", "reserved", "left")}


def main(export: str, report: str) -> None:
    """Print every number that was computed anew; exit with 1 where the report says another."""
    ours = recomputed(json.loads(Path(export).read_text(encoding="utf-8"))["entries"])
    hospitals = json.loads(Path(report).read_text(encoding="utf-8"))["hospitals"]
    stated = [reported(one["statement"]) for one in hospitals]
    theirs = next((one for one in stated if one["head"] == ours["head"]), None)
    if theirs is None:
        sys.exit(f"WRONG: the report knows no ledger whose head is {ours['head']}")
    wrong = set()
    for name in {**ours, **theirs}:
        one, other = ours.get(name), theirs.get(name)
        same = one == other
        if isinstance(one, float) and isinstance(other, float):
            same = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
        wrong |= set() if same else {name}
        sys.stdout.write(f"{'same ' if same else 'WRONG'} {name}: {one} (report: {other})\n")
    if wrong:
        sys.exit(f"WRONG: {', '.join(sorted(wrong))}")
    sys.stdout.write("The chain is whole, and the report says what it says.\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
