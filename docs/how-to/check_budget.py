"""Check a budget report without fedcohort: python3 -I check_budget.py EXPORT.json REPORT.json."""

import hashlib
import json
import math
import sys
from pathlib import Path

ORDERS = (*range(2, 65), *(int(64 * 1.04**step) for step in range(1, 89)))
SLACK = 1e-9  # relative, of adding floats
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def rule(holds: object, broken: str) -> None:
    """Stop with exit code 1 where a rule of the ledger does not hold."""
    if not holds:
        sys.exit(f"WRONG: {broken}")


def cost(mechanism: dict, order: int) -> float:
    """Renyi DP of one noisy sum: discrete Gaussian, or Gaussian on Poisson samples."""
    z, q = mechanism["noise_multiplier"], mechanism["sampling_probability"]
    family = "discrete_gaussian" if q == 1 else "sampled_gaussian"
    rule(mechanism["family"] == family and 0 < q <= 1 and 0 < z < math.inf, "an unknown mechanism")
    half = 1 / (2 * z**2)
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
    return max(0.0, top + math.log(math.fsum(math.exp(t - top) for t in terms))) / (order - 1)


def opened(budget: dict) -> tuple:
    """Return order and limit as epsilon and delta give them; the ledger must state the same."""
    epsilon, delta = budget["epsilon"], budget["delta"]
    log = math.log(delta)
    room = {a: epsilon + (log + math.log(a)) / (a - 1) - math.log1p(-1 / a) for a in ORDERS}
    order = max(ORDERS, key=lambda a: room[a] / a)
    limit = room[order] / (1 + 2 * SLACK)
    rule(delta < 1 and 0 < limit < math.inf, "entry 1 sets a budget that cannot be")
    same = budget["order"] == order and math.isclose(budget["limit"], limit, rel_tol=SLACK)
    rule(same, "entry 1 states another order or limit than its epsilon and delta give")
    return order, limit


def amounts(plans: dict) -> tuple:
    """Return what is spent, and what is set aside for plans that have not ended."""
    spent = math.fsum(p["made"] * p["price"] for p in plans.values())
    waiting = [p for p in plans.values() if not p["closed"]]
    return spent, math.fsum((p["releases"] - p["made"]) * p["price"] for p in waiting)


def reserve(entry: str, body: dict, opening: dict, plans: dict, order: int, limit: float) -> None:
    """Set a plan's whole price aside."""
    noise, releases = body["mechanism"], body["releases"]
    known = plans.get(body["plan_sha256"])
    unused = known is None or (known["closed"] and known["last"] < 0)  # ended before a charge
    rule(unused, f"{entry} reserves a plan a second time")
    counts = type(body["rounds"]) is type(releases) is int and body["rounds"] > 0
    rule(counts and (releases > 0 if noise else releases == 0), f"{entry} reserves no number")
    allowed = opening["budget"] if noise else opening["unnoised"] is True
    rule(allowed, f"{entry} reserves what the ledger was not opened for")
    bare = opening["kind"] == "site" and body["sharing"] == "sum" and not body["masked"]
    rule(not bare, f"{entry} shares noise out and does not mask the sums")
    price = cost(noise, order) if noise else 0.0
    state = {"price": price, "made": 0, "last": -1, "unmasked": False, "closed": False}
    plans[body["plan_sha256"]] = {**body, **state}
    rule(sum(amounts(plans)) <= limit * (1 + SLACK), f"{entry} brings the ledger above its limit")


def charge(entry: str, body: dict, plan: dict) -> None:
    """Pay for one round of a plan that is open."""
    number, releases, noise = body["round"], body["releases"], body["mechanism"]
    rule(type(number) is type(releases) is int, f"{entry} charges no number")
    rule(number > plan["last"], f"{entry} charges a round that was paid before")
    rule(number < plan["rounds"], f"{entry} charges a round that its plan does not have")
    rule(noise == plan["mechanism"], f"{entry} charges other noise than its plan reserved")
    rule(releases > 0 if noise else releases == 0, f"{entry} charges no number")
    plan["last"], plan["made"], plan["unmasked"] = number, plan["made"] + releases, False
    rule(plan["made"] <= plan["releases"], f"{entry} charges more than its plan reserved")


def unmask(entry: str, body: dict, plan: dict) -> None:
    """Help to open the sum of the round that was paid last, once; it costs nothing."""
    number = body["round"]
    rule(type(number) is int, f"{entry} unmasks no number")
    rule(number == plan["last"] >= 0, f"{entry} unmasks another round than was paid last")
    rule(not plan["unmasked"], f"{entry} unmasks a round a second time")
    plan["unmasked"] = True


def recomputed(texts: list) -> dict:
    """Check the chain of an export and every decision in it; return what it adds up to."""
    previous, opening, plans, unnoised, order, limit = "0" * 64, {}, {}, 0, 0, 0.0
    rule(texts, "the export holds no entry")
    for number, text in enumerate(texts, start=1):
        known, name = json.loads(text), f"entry {number}"
        follows = (known["number"], known["previous"]) == (number, previous)
        rule(follows, f"{name} does not follow the one before")
        plain = json.dumps(known, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        rule(plain == text, f"{name} is not in its canonical form")
        previous, kind = hashlib.sha256(text.encode()).hexdigest(), known["kind"]
        body = known["body"]
        rule((kind == "open") == (number == 1), f"{name}: a ledger is opened once, first of all")
        if kind == "open":
            opening = body
            order, limit = opened(body["budget"]) if body["budget"] else (0, 0.0)
        elif kind == "reserve":
            reserve(name, body, opening, plans, order, limit)
        elif kind in ("charge", "unmask", "close"):
            plan = plans.get(body["plan_sha256"])
            rule(plan and not plan["closed"], f"{name}: its plan is unknown or has ended")
            if kind == "close":
                plan["closed"] = True
            elif kind == "unmask":
                unmask(name, body, plan)
            else:
                charge(name, body, plan)
                unnoised += body["mechanism"] is None
        else:
            rule(kind == "refuse", f"{name} is of the unknown kind {kind!r}")
    found = {"head": f"{len(texts)}:{previous}", "entries": len(texts)}
    found |= {name: opening[name] for name in ("hospital", "population", "kind")}
    found["unnoised_releases"] = unnoised
    if opening["budget"] is None:
        return found
    spent, held = amounts(plans)
    found |= {name: opening["budget"][name] for name in ("epsilon", "delta")}
    found |= {"order": order, "limit": limit, "spent": spent, "reserved": held}
    return found | {"left": max(0.0, limit - spent - held)}


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
    found = [one for one in stated if one["head"] == ours["head"]]
    rule(found, f"the report knows no ledger whose head is {ours['head']}")
    rule(len(found) == 1, "the report tells of this ledger more than once")
    wrong = []
    for name in {**ours, **found[0]}:
        one, other = ours.get(name), found[0].get(name)
        same = one == other
        if isinstance(one, float) and isinstance(other, float):
            same = math.isclose(one, other, rel_tol=SLACK, abs_tol=SLACK)
        wrong += [] if same else [name]
        sys.stdout.write(f"{'same ' if same else 'WRONG'} {name}: {one!a} (report: {other!a})\n")
    rule(not wrong, ", ".join(map(ascii, wrong)))
    sys.stdout.write("The chain is whole, no entry breaks a rule, and the report says the same.\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3 -I check_budget.py EXPORT.json REPORT.json")
    try:
        main(*sys.argv[1:])
    except (*UNREADABLE, RecursionError) as error:
        sys.exit(f"WRONG: {type(error).__name__}: {error}")
