"""The book: nothing is released that was not set aside, nothing set aside beyond a budget."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import pytest
from dp_accounting import rdp
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy.budget import Budget, epsilon_at
from fedcohort.privacy.errors import BudgetExceededError, PolicyError
from fedcohort.privacy.ledger.book import Book, MemoryLedger
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation, Unmasking
from fedcohort.privacy.mechanism import Mechanism

Openings = Callable[..., Opening]
Requests = Callable[..., Reservation]
Charges = Callable[..., Charge]

EPSILONS = st.sampled_from([0.1, 0.5, 1.0, 3.0, 8.0, 20.0])
DELTAS = st.sampled_from([1e-3, 1e-5, 1e-8])
MECHANISMS = st.builds(
    Mechanism,
    noise_multiplier=st.floats(0.3, 200.0),
    sampling_probability=st.sampled_from([1.0, 1.0, 0.02, 0.3]),
)


def noise_for(budget: Budget, share: float) -> Mechanism:
    """A Gaussian sum that costs this share of a budget."""
    return Mechanism(noise_multiplier=math.sqrt(budget.order / (2 * share * budget.limit)))


def code_of(ask: Callable[..., object], *request: Any) -> str:
    with pytest.raises(PolicyError) as refused:
        ask(*request)
    return refused.value.code


def independent(mechanism: Mechanism, releases: int, order: int) -> float:
    """What dp-accounting's own Renyi accountant says at one order."""
    event: Any = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    if mechanism.sampling_probability < 1:
        event = dp_accounting.PoissonSampledDpEvent(mechanism.sampling_probability, event)
    accountant = rdp.RdpAccountant([order])
    accountant.compose(event, releases)
    (cost,) = accountant._rdp
    return float(cost)


# ---- what is set aside


@given(
    epsilon=EPSILONS,
    delta=DELTAS,
    requests=st.lists(st.tuples(MECHANISMS, st.integers(1, 400)), min_size=1, max_size=8),
)
def test_what_is_accepted_and_refused_is_what_dp_accounting_adds_up(
    opening_of: Openings,
    asked_of: Requests,
    epsilon: float,
    delta: float,
    requests: list[tuple[Mechanism, int]],
) -> None:
    """Gaussian and sampled plans in one ledger, against an accountant that is not ours.

    Source of the limit: the conversion of Canonne, Kamath, Steinke 2020.
    """
    budget = Budget(epsilon=epsilon, delta=delta)
    alpha = budget.order
    limit = (
        epsilon + (math.log(delta) + math.log(alpha)) / (alpha - 1) - math.log((alpha - 1) / alpha)
    )
    book, held = Book(opening_of(budget=budget)), 0.0
    for number, (mechanism, releases) in enumerate(requests):
        cost = independent(mechanism, releases, alpha)
        try:
            book.reserve(asked_of(number, mechanism=mechanism, releases=releases, rounds=releases))
        except BudgetExceededError:
            assert held + cost > limit * (1 - 1e-8)
        else:
            assert held + cost <= limit * (1 + 1e-12)  # the slack is paid for: never above
            held += cost
        assert book.reserved == pytest.approx(held, rel=1e-8, abs=1e-12)
        assert book.left == pytest.approx(max(0.0, limit - held), rel=1e-6, abs=1e-8 * limit)
        assert book.spent == 0.0


@pytest.mark.parametrize(
    ("epsilon", "order", "limit", "mu"),
    # Measured beforehand, delta 1e-5; mu of a Gaussian that uses the budget up. The first row's
    # order there is 20, of a coarser grid.
    [(1.0, 18, None, 0.24556), (3.0, 8, 1.78589, 0.66819), (8.0, 4, 4.91214, 1.56719)],
)
def test_the_budget_is_the_one_of_the_table(
    epsilon: float, order: int, limit: float | None, mu: float
) -> None:
    budget = Budget(epsilon=epsilon, delta=1e-5)
    assert budget.order == order
    assert limit is None or budget.limit == pytest.approx(limit, abs=1e-5)
    found = math.sqrt(2 * budget.limit / budget.order)
    assert mu - 1e-5 <= found <= mu * 1.01


@given(epsilon=EPSILONS, delta=DELTAS, shares=st.lists(st.floats(0.01, 0.7), max_size=12))
def test_it_never_overspends_and_a_refusal_changes_nothing(
    opening_of: Openings,
    asked_of: Requests,
    epsilon: float,
    delta: float,
    shares: list[float],
) -> None:
    budget = Budget(epsilon=epsilon, delta=delta)
    book = Book(opening_of(budget=budget))
    for number, share in enumerate(shares):
        before = dict(book.accounts), book.left, book.reserved, book.spent
        mechanism = noise_for(budget, share)
        try:
            book.reserve(asked_of(number, mechanism=mechanism, releases=1, rounds=1))
        except BudgetExceededError:
            assert (dict(book.accounts), book.left, book.reserved, book.spent) == before
            assert book.cost(mechanism, 1) > book.left
        assert book.left >= 0
        assert book.reserved + book.spent <= budget.limit * (1 + 1e-9)


@given(epsilon=EPSILONS, delta=DELTAS, plans=st.integers(1, 60), releases=st.integers(1, 50))
def test_exactly_the_budget_is_accepted_in_any_pieces_and_nothing_more(
    opening_of: Openings,
    asked_of: Requests,
    epsilon: float,
    delta: float,
    plans: int,
    releases: int,
) -> None:
    budget = Budget(epsilon=epsilon, delta=delta)
    book = Book(opening_of(budget=budget))
    each = noise_for(budget, 1 / (plans * releases))
    for number in range(plans):
        book.reserve(asked_of(number, mechanism=each, releases=releases, rounds=releases))
    assert book.left == pytest.approx(0.0, abs=1e-9 * budget.limit)
    crumb = asked_of(plans, mechanism=noise_for(budget, 1e-6), releases=1, rounds=1)
    assert code_of(lambda: book.reserve(crumb)) == "budget_exceeded"


@given(epsilon=EPSILONS, delta=DELTAS)
def test_equality_is_accepted_and_a_millionth_more_refused(
    opening_of: Openings, asked_of: Requests, epsilon: float, delta: float
) -> None:
    budget = Budget(epsilon=epsilon, delta=delta)
    one = {"releases": 1, "rounds": 1}
    exactly = asked_of(mechanism=noise_for(budget, 1.0), **one)
    assert Book(opening_of(budget=budget)).reserve(exactly)
    more = asked_of(mechanism=noise_for(budget, 1.0 + 1e-6), **one)
    with pytest.raises(BudgetExceededError):
        Book(opening_of(budget=budget)).reserve(more)


@given(epsilon=EPSILONS, delta=DELTAS)
def test_the_most_that_is_ever_admitted_is_no_more_than_the_budgets_epsilon(
    epsilon: float, delta: float
) -> None:
    # The slack that float addition needs is taken off the limit first.
    budget = Budget(epsilon=epsilon, delta=delta)
    most = budget.limit * (1 + 1e-9)
    assert budget.holds(most)
    assert not budget.holds(budget.limit * (1 + 1.1e-9))
    assert epsilon_at(most, budget.order, delta) <= epsilon


def test_crumbs_below_the_slack_do_not_add_up_to_a_free_release(
    opening_of: Openings, asked_of: Requests
) -> None:
    budget = Budget(epsilon=1.0, delta=1e-5)
    book = Book(opening_of(budget=budget))
    book.reserve(asked_of(0, mechanism=noise_for(budget, 1.0), releases=1, rounds=1))
    crumb = noise_for(budget, 4e-10)
    accepted = 0
    for number in range(1, 100):
        try:
            book.reserve(asked_of(number, mechanism=crumb, releases=1, rounds=1))
        except BudgetExceededError:
            continue
        accepted += 1
    assert accepted <= 2  # the slack is there once, not for each


def test_the_order_of_plans_and_the_way_they_are_cut_are_irrelevant(
    opening_of: Openings, asked_of: Requests
) -> None:
    mechanisms = [
        Mechanism(noise_multiplier=30.0),
        Mechanism(noise_multiplier=2.0, sampling_probability=0.02),
        Mechanism(noise_multiplier=0.1 + 77),
    ]
    reserved = set()
    for ordered in itertools.permutations(mechanisms):
        book = Book(opening_of())
        for number, mechanism in enumerate(ordered):
            book.reserve(asked_of(number, mechanism=mechanism, releases=100, rounds=100))
        reserved.add(book.reserved)
    assert len(reserved) == 1
    whole, parts = Book(opening_of()), Book(opening_of())
    whole.reserve(asked_of(0, releases=100, rounds=100))
    parts.reserve(asked_of(0, releases=60, rounds=60))
    parts.reserve(asked_of(1, releases=40, rounds=40))
    assert parts.reserved == pytest.approx(whole.reserved, rel=1e-14)


@pytest.mark.parametrize("price", [math.nan, math.inf, -1.0, -math.inf])
def test_a_price_that_is_none_is_never_paid(
    opening_of: Openings, asked_of: Requests, price: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NaN would admit everything from then on: nothing is larger than it.
    book = Book(opening_of())
    with monkeypatch.context() as patched:
        patched.setattr(Mechanism, "rdp", lambda self, order: price)
        with pytest.raises(BudgetExceededError):
            book.reserve(asked_of())
    assert not book.accounts
    assert book.left == book.limit


def test_more_releases_than_a_float_can_count_are_never_paid(
    opening_of: Openings, asked_of: Requests
) -> None:
    with pytest.raises(BudgetExceededError):
        Book(opening_of()).reserve(asked_of(releases=10**400))


@pytest.mark.parametrize("noise_multiplier", [1e-7, 1e-154, 1e-160, 1e-200, 5e-324, 1e10, 1e200])
@pytest.mark.parametrize("sampling_probability", [1.0, 0.5])
def test_noise_that_no_float_can_price_is_no_mechanism(
    noise_multiplier: float, sampling_probability: float
) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        Mechanism(noise_multiplier=noise_multiplier, sampling_probability=sampling_probability)


@pytest.mark.parametrize("noise_multiplier", [1e-3, 1e-2])
@pytest.mark.parametrize("sampling_probability", [1.0, 0.999, 1e-3])
def test_almost_no_noise_is_never_paid(
    opening_of: Openings,
    asked_of: Requests,
    noise_multiplier: float,
    sampling_probability: float,
) -> None:
    mechanism = Mechanism(
        noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
    )
    book = Book(opening_of(budget=Budget(epsilon=1000.0, delta=0.5)))
    with pytest.raises(BudgetExceededError):
        book.reserve(asked_of(mechanism=mechanism, releases=1, rounds=1))


def test_without_a_budget_no_noisy_plan_is_taken_and_without_leave_no_other(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    none = Book(opening_of(budget=None, unnoised=True))
    assert code_of(lambda: none.reserve(asked_of())) == "budget_exceeded"
    plain = asked_of(1, noisy=False)
    none.reserve(plain)
    for number in range(3):
        none.charge(charge_of(plain, number))
    assert (none.unnoised, none.spent, none.reserved, none.left) == (3, 0.0, 0.0, 0.0)
    strict = Book(opening_of(unnoised=False))
    assert code_of(lambda: strict.reserve(plain)) == "unnoised_refused"


def test_the_same_plan_again_is_free_and_other_terms_under_its_name_are_refused(
    opening_of: Openings, asked_of: Requests
) -> None:
    book, asked = Book(opening_of()), asked_of()
    assert book.reserve(asked)
    held = book.reserved
    assert not book.reserve(asked)
    assert book.reserved == held
    bent: tuple[dict[str, Any], ...] = (
        {"releases": 3},
        {"rounds": 5},
        {"mechanism": Mechanism(noise_multiplier=21.0)},
        {"clip": 2.0},
        {"study": "another"},
    )
    for changes in bent:
        assert code_of(book.reserve, dataclasses.replace(asked, **changes)) == "plan_differs"
    assert book.reserved == held


def test_another_plan_of_the_same_study_costs_again(
    opening_of: Openings, asked_of: Requests
) -> None:
    # Renaming changes nothing either: names are never looked at.
    book = Book(opening_of())
    book.reserve(asked_of(1, study="s"))
    once = book.reserved
    book.reserve(asked_of(2, study="s"))
    book.reserve(asked_of(3, study="renamed", purpose="renamed"))
    assert book.reserved == pytest.approx(3 * once)


@pytest.mark.parametrize("kind", ["site", "simulation"])
def test_a_hospital_shares_its_noise_out_under_masks_only(
    opening_of: Openings, asked_of: Requests, kind: str
) -> None:
    # A coordinator that sees each hospital's vector sees it with a share of the noise.
    book = Book(opening_of(kind=kind))
    for number, sharing in enumerate(("each", "local")):
        assert book.reserve(asked_of(number, sharing=sharing, masked=False))
    assert book.reserve(asked_of(2, sharing="sum", masked=True))
    if kind == "simulation":
        assert book.reserve(asked_of(3, sharing="sum", masked=False))
    else:
        assert code_of(book.reserve, asked_of(3, sharing="sum", masked=False)) == (
            "noise_needs_masks"
        )
    with pytest.raises(ValueError, match="true or false"):
        asked_of(masked=0)


# ---- what is charged


def test_every_charge_needs_a_plan_that_is_open_and_each_round_is_paid_once(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    book, asked = Book(opening_of()), asked_of(rounds=6, releases=6)
    assert code_of(lambda: book.charge(charge_of(asked))) == "not_reserved"
    book.reserve(asked)
    for number in (0, 2, 3):  # a site that was away skips a round
        book.charge(charge_of(asked, number))
    for number in (0, 1, 2, 3):
        assert code_of(book.charge, charge_of(asked, number)) == "round_already_paid"
    book.close(asked.plan_sha256)
    assert code_of(lambda: book.charge(charge_of(asked, 4))) == "plan_closed"
    assert code_of(lambda: book.reserve(asked)) == "plan_closed"
    assert [c.round for c in book.accounts[asked.plan_sha256].charges] == [0, 2, 3]


def test_a_charge_is_of_the_noise_and_within_the_numbers_that_were_set_aside(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    book, asked = Book(opening_of()), asked_of(rounds=3, releases=5)
    plain = asked_of(1, noisy=False)
    book = Book(opening_of(unnoised=True))
    book.reserve(asked)
    book.reserve(plain)
    quieter = Mechanism(noise_multiplier=19.999999999999996)
    sampled = Mechanism(noise_multiplier=20.0, sampling_probability=0.5)
    for mechanism in (quieter, sampled):
        bent = charge_of(asked, mechanism=mechanism)
        assert code_of(book.charge, bent) == "mechanism_differs"
    without = charge_of(asked, mechanism=None, releases=0)
    assert code_of(lambda: book.charge(without)) == "mechanism_differs"
    noisy = charge_of(plain, mechanism=quieter, releases=1)
    assert code_of(lambda: book.charge(noisy)) == "mechanism_differs"
    assert code_of(lambda: book.charge(charge_of(asked, 3))) == "reservation_exceeded"
    assert code_of(lambda: book.charge(charge_of(asked, releases=6))) == "reservation_exceeded"
    assert book.spent == 0.0
    book.charge(charge_of(asked, 0, releases=4))
    assert code_of(lambda: book.charge(charge_of(asked, 1, releases=2))) == "reservation_exceeded"
    book.charge(charge_of(asked, 1, releases=1))
    assert code_of(lambda: book.charge(charge_of(asked, 2))) == "reservation_exceeded"


@given(
    planned=st.integers(1, 20),
    charged=st.lists(st.integers(0, 19), unique=True),
    share=st.floats(0.01, 1.0),
)
def test_closing_gives_back_what_was_not_charged_and_nothing_else(
    opening_of: Openings,
    asked_of: Requests,
    charge_of: Charges,
    planned: int,
    charged: list[int],
    share: float,
) -> None:
    # Failed and aborted plans too: the rounds that were charged stay spent.
    budget = Budget(epsilon=3.0, delta=1e-5)
    each = noise_for(budget, share / planned)
    book = Book(opening_of(budget=budget))
    asked = asked_of(rounds=planned, releases=planned, mechanism=each)
    book.reserve(asked)
    rounds = sorted(number for number in charged if number < planned)
    for number in rounds:
        book.charge(charge_of(asked, number))
    spent = len(rounds) * book.cost(each, 1)
    assert book.spent == pytest.approx(spent)
    assert book.reserved == pytest.approx((planned - len(rounds)) * book.cost(each, 1), abs=1e-12)
    assert book.close(asked.plan_sha256)
    assert not book.close(asked.plan_sha256)  # twice is once
    assert not book.close("f" * 64)  # nobody's plan
    assert book.spent == pytest.approx(spent)
    assert book.reserved == 0.0
    assert book.left == pytest.approx(budget.limit - spent, abs=1e-9)


def test_hyper_parameter_runs_and_those_that_failed_are_in_the_sum(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    book = Book(opening_of())
    for number in range(3):
        asked = asked_of(number, purpose="To tune the step.", rounds=4, releases=4)
        book.reserve(asked)
        for round_ in range(number + 1):
            book.charge(charge_of(asked, round_))
        book.close(asked.plan_sha256)
    assert book.spent == pytest.approx(6 * book.cost(Mechanism(noise_multiplier=20.0), 1))


# ---- facts


NOT_A_NUMBER = [math.nan, math.inf, -math.inf, -1.0, 0.0]


@pytest.mark.parametrize("value", NOT_A_NUMBER)
def test_noise_budgets_and_clips_that_are_no_positive_number_are_refused(
    asked_of: Requests, value: float
) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        Mechanism(noise_multiplier=value)
    with pytest.raises(ValueError, match="sampling_probability"):
        Mechanism(noise_multiplier=1.0, sampling_probability=value)
    with pytest.raises(ValueError, match="epsilon"):
        Budget(epsilon=value, delta=1e-5)
    with pytest.raises(ValueError, match="delta"):
        Budget(epsilon=1.0, delta=value)
    with pytest.raises(ValueError, match="clip"):
        asked_of(clip=value)


@pytest.mark.parametrize("count", [-1, 1.0, math.nan, True, "1", None])
@pytest.mark.parametrize("field", ["rounds", "releases", "min_survivors", "colluders"])
def test_counts_that_are_none_are_refused(asked_of: Requests, field: str, count: object) -> None:
    with pytest.raises(ValueError, match=r"counts|releases"):
        asked_of(**{field: count})


@pytest.mark.parametrize("count", [-1, 1.5, math.nan, True, "1", None])
@pytest.mark.parametrize("field", ["round", "releases"])
def test_charges_that_are_no_counts_are_refused(
    asked_of: Requests, charge_of: Charges, field: str, count: object
) -> None:
    with pytest.raises(ValueError, match=r"counts|releases"):
        charge_of(asked_of(), **{field: count})


@pytest.mark.parametrize(
    "changes",
    [
        {"releases": 0},
        {"mechanism": None},
        {"clip": None},
        {"sharing": "everybody"},
        {"rounds": 0},
        {"plan_sha256": b"0"},
        {"study": None},
        {"purpose": 1},
    ],
)
def test_a_request_that_contradicts_itself_is_refused(
    asked_of: Requests, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        asked_of(**changes)


def test_a_noisy_charge_without_releases_and_a_quiet_one_with_them_are_refused(
    asked_of: Requests, charge_of: Charges
) -> None:
    with pytest.raises(ValueError, match="go together"):
        charge_of(asked_of(), releases=0)
    with pytest.raises(ValueError, match="go together"):
        charge_of(asked_of(noisy=False), releases=1)
    with pytest.raises(ValueError, match="named"):
        charge_of(asked_of(), plan_sha256=None)


def test_facts_cannot_be_changed(asked_of: Requests, charge_of: Charges) -> None:
    asked = asked_of()
    facts: list[Any] = [asked, charge_of(asked), Budget(epsilon=1.0, delta=1e-5), asked.mechanism]
    for fact in facts:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(fact, dataclasses.fields(fact)[0].name, 0)
    book = Book(Opening(hospital="h", population="p", kind="site", budget=None, unnoised=True))
    with pytest.raises(TypeError):
        book.accounts["x"] = None  # type: ignore[index]


@pytest.mark.parametrize(
    "changes", [{"hospital": ""}, {"population": ""}, {"kind": "test"}, {"kind": None}]
)
def test_an_opening_names_its_hospital_its_population_and_its_kind(
    opening_of: Openings, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        opening_of(**changes)


@pytest.mark.parametrize(
    "bent",
    [
        {"order": 9},
        {"limit": 2.0},
        {"limit": 1.7858926},  # a millionth more
        {"epsilon": 3.1},
        {"delta": 1e-4},
        {"epsilon": "3"},
        {"renewed": True},
    ],
)
def test_an_opening_whose_numbers_do_not_give_its_limit_is_not_believed(
    opening_of: Openings, bent: dict[str, Any]
) -> None:
    document = opening_of().to_json()
    assert Opening.from_json(document) == opening_of()
    document["budget"] |= bent
    with pytest.raises(ValueError):
        Opening.from_json(document)


def test_an_opening_is_read_back_on_a_machine_whose_logarithm_has_another_last_bit(
    opening_of: Openings,
) -> None:
    document = opening_of().to_json()
    document["budget"]["limit"] = math.nextafter(document["budget"]["limit"], 0.0)
    assert Opening.from_json(document) == opening_of()


# ---- what was unmasked


def unmasking_of(asked: Reservation, number: int = 0) -> Unmasking:
    return Unmasking(plan_sha256=asked.plan_sha256, round=number)


@pytest.mark.parametrize("noisy", [True, False])
def test_the_round_that_was_paid_last_is_unmasked_once_and_costs_nothing(
    opening_of: Openings, asked_of: Requests, charge_of: Charges, *, noisy: bool
) -> None:
    book, asked = Book(opening_of(unnoised=not noisy)), asked_of(noisy=noisy)
    assert code_of(book.unmask, unmasking_of(asked)) == "not_reserved"
    book.reserve(asked)
    assert code_of(book.unmask, unmasking_of(asked)) == "round_not_paid"
    for number in (0, 2, 3):
        book.charge(charge_of(asked, number))
        before = book.spent, book.reserved, book.left, book.unnoised
        for other in {1, 9, number + 1}:
            assert code_of(book.unmask, unmasking_of(asked, other)) == "round_not_paid"
        book.check_unspent(unmasking_of(asked, number))
        book.check_unspent(unmasking_of(asked, number))  # asking changes nothing
        book.unmask(unmasking_of(asked, number))
        for ask in (book.unmask, book.check_unspent):
            assert code_of(ask, unmasking_of(asked, number)) == "sum_spent"
            assert code_of(ask, unmasking_of(asked, 0)) == "sum_spent"
        assert (book.spent, book.reserved, book.left, book.unnoised) == before
    assert book.accounts[asked.plan_sha256].unmasked == [0, 2, 3]


def test_a_round_behind_the_one_that_was_paid_last_is_spent_though_nobody_unmasked_it(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    book, asked = Book(opening_of()), asked_of()
    book.reserve(asked)
    book.charge(charge_of(asked, 0))
    book.check_unspent(unmasking_of(asked, 0))
    book.charge(charge_of(asked, 1))
    for ask in (book.unmask, book.check_unspent):
        assert code_of(ask, unmasking_of(asked, 0)) == "sum_spent"
    book.check_unspent(unmasking_of(asked, 1))


def test_nothing_is_unmasked_after_the_end_of_its_plan(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    book, asked = Book(opening_of()), asked_of()
    book.reserve(asked)
    book.charge(charge_of(asked, 0))
    book.close(asked.plan_sha256)
    for ask in (book.unmask, book.check_unspent):
        assert code_of(ask, unmasking_of(asked, 0)) == "plan_closed"


@pytest.mark.parametrize("number", [-1, 1.0, math.nan, True, "1", None])
def test_a_round_that_is_no_count_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="count"):
        Unmasking(plan_sha256="0" * 64, round=number)
    with pytest.raises(ValueError, match="named"):
        Unmasking(plan_sha256=None, round=0)  # type: ignore[arg-type]


# ---- the ledger in memory


def test_a_ledger_in_memory_is_for_simulations_only(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    with pytest.raises(ValueError, match="site"):
        MemoryLedger(opening_of(kind="site"))
    ledger, asked = MemoryLedger(opening_of(kind="simulation")), asked_of()
    ids = {ledger.reserve(asked)} | {ledger.charge(charge_of(asked, n)) for n in range(4)}
    assert len(ids | {ledger.unmask(unmasking_of(asked, 3))}) == 6
    assert code_of(ledger.check_unspent, unmasking_of(asked, 3)) == "sum_spent"
    ledger.close(asked.plan_sha256)
    ledger.close(asked.plan_sha256)
    assert ledger.book.reserved == 0.0


def test_a_refusal_tells_scripts_and_people_what_to_do(
    opening_of: Openings, asked_of: Requests
) -> None:
    budget = Budget(epsilon=3.0, delta=1e-5)
    book = Book(opening_of(budget=budget))
    with pytest.raises(BudgetExceededError) as refused:
        book.reserve(asked_of(mechanism=noise_for(budget, 2.0), releases=1, rounds=1))
    assert refused.value.exit_code == 3
    assert refused.value.code == "budget_exceeded"
    assert "costs 3.572" in str(refused.value)
    assert "1.786 is left" in str(refused.value)
    assert "order 8" in str(refused.value)
    assert "more noise" in refused.value.hint
