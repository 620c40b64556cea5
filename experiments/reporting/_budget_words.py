"""The sentences of the budget report, in English and Chinese, made from a statement's numbers.

Claims are chosen here and nowhere else: what holds, for whom, against whom, and what is not
covered. No word here is a judgement in law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ._budget_figures import figures
from ._wording import Words

__all__ = [
    "REFUSAL",
    "SHARING",
    "STANDING",
    "STATUS",
    "adversary",
    "counted",
    "guarantee",
    "no_guarantee",
    "not_covered",
    "one_of",
    "sampled",
    "terms",
]

Told = Mapping[str, Any]

STANDING = Words(
    "Differential privacy limits how much any one patient's data can change what is released. It "
    "says nothing about facts that concern a whole group, is no judgement in law on these data or "
    "on what was made of them, and holds only for the unit, the releases and the adversary named "
    "here.",
    "差分隐私限制任何一名患者的数据对发布内容的影响。它不涉及关于整个群体的事实，"
    "不是对这些数据或其产物的法律判断，且仅对此处列出的单位、发布内容和对手成立。",
)

STATUS = {
    "open": Words("running", "进行中"),
    "finished": Words("ended", "已结束"),
    "ended_before_a_release": Words("ended before a release", "未发布即结束"),
}

SHARING = {
    "sum": Words(
        "noise shared out: {shares} of at least {sites} hospitals' shares make up all of it",
        "噪声由各院分担：至少 {sites} 家中的 {shares} 份即为全部噪声",
    ),
    "each": Words("all of the noise added at this hospital", "全部噪声在本院加入"),
    "local": Words(
        "all of the noise added here, inside each local step", "全部噪声在本院的每个本地步骤中加入"
    ),
}

FAMILY = {
    "discrete_gaussian": Words("discrete Gaussian on a sum", "对求和加离散高斯噪声"),
    "sampled_gaussian": Words("Gaussian on Poisson samples", "泊松抽样上的高斯噪声"),
}

REFUSAL = {
    "budget_exceeded": Words("costs more than is left", "费用超过剩余预算"),
    "unnoised_refused": Words("adds no noise", "未加噪声"),
    "not_reserved": Words("belongs to no reserved plan", "不属于任何已预留的方案"),
    "plan_closed": Words("its plan has ended", "其方案已结束"),
    "plan_differs": Words(
        "a plan of this hash was reserved on other terms", "同一哈希的方案曾以其他条款预留"
    ),
    "round_already_paid": Words("this round was paid before", "该轮此前已支付"),
    "mechanism_differs": Words("adds other noise than reserved", "噪声与预留的不同"),
    "round_not_paid": Words("this round was never paid", "该轮从未支付"),
    "sum_spent": Words("the sum of this round was opened before", "该轮的求和此前已解开"),
    "reservation_exceeded": Words("more than its plan has reserved", "超过其方案的预留"),
}


def adversary(told: Told) -> Words:
    """Return against whom the noise of the plans so far stands."""
    found = told["adversary"]
    count = found["colluders"]
    if not found["coordinator"]:
        return Words(
            "only who sees no more than the total: sums were not masked",
            "仅限只看到总和者：求和未加掩码",
        )
    if found["all_other_hospitals"]:
        return Words("the coordinator + all other hospitals", "协调方 + 所有其他医院")
    if count is None:
        return Words("as the plans to come will say", "由今后的方案确定")
    hospitals = "hospital" if count == 1 else "hospitals"
    return Words(
        f"the coordinator + any {count} other {hospitals}", f"协调方 + 任意 {count} 家其他医院"
    )


def _pooling(told: Told) -> Words:
    """Return who is assumed to put together what they see, as a part of a sentence."""
    found = told["adversary"]
    count = found["colluders"]
    if not found["coordinator"]:
        return Words("those pool who see the totals only", "只看到总和的人汇集其")
    if found["all_other_hospitals"]:
        return Words("the coordinator and all other hospitals pool", "协调方与所有其他医院汇集其")
    if count is None:
        return Words(
            "the coordinator and the other hospitals that its future plans name pool",
            "协调方与其今后方案所列的其他医院汇集其",
        )
    if count == 0:
        return Words("the coordinator uses", "协调方利用其")
    others = "other hospital" if count == 1 else "other hospitals"
    return Words(
        f"the coordinator and up to c = {count} {others} pool",
        f"协调方与至多 c = {count} 家其他医院汇集其",
    )


def terms(told: Told) -> Words:
    """Return what every epsilon of a statement goes with."""
    against = adversary(told)
    delta = f"{told['budget']['delta']:g}"
    void = told["unnoised_releases"] > 0
    gauge = Words(
        "No guarantee: a gauge of the noisy releases alone. ", "并非保证：仅为含噪发布的读数。"
    )
    before = gauge if void else Words("", "")
    return Words(
        f"{before.en}Every ε here: bound rdp (Rényi DP), δ = {delta}, unit: one patient with all "
        f"rows, relation: one patient added or removed, against: {against.en}.",
        f"{before.zh}此处每个 ε：上界 rdp（Rényi 差分隐私），δ = {delta}，单位：一名患者及其"
        f"全部记录，邻接关系：增加或移除一名患者，对手：{against.zh}。",
    )


def guarantee(told: Told, hospital: Words, detected: float) -> tuple[Words, Words]:
    """Return what holds for one patient, and what to mind about it.

    Args:
        told: A statement with a budget and no release without noise.
        hospital: Whose rows are meant, see `one_of`.
        detected: Most that a test with 1 % false alarms detects once the budget is used up.
    """
    budget, who = told["budget"], _pooling(told)
    epsilon, delta = f"{budget['epsilon']:g}", f"{budget['delta']:g}"
    factor = figures(math.exp(min(budget["epsilon"], 700.0)))
    sums = sum(plan["releases_executed"] for plan in told["plans"])
    plans = sum(plan["releases_executed"] > 0 for plan in told["plans"])
    percent = figures(100 * detected)
    holds = Words(
        f"For any one patient, whatever else is known, and even if {who.en} everything they see: "
        f"whether or not this patient's rows at {hospital.en} were used in ANY of the noisy "
        "releases in this ledger, made or still to come, changes the probability of any "
        f"conclusion by at most a factor e^{epsilon} = {factor}, plus δ = {delta}.",
        f"对任何一名患者，无论他人还知道什么，即使{who.zh}所见的一切："
        f"该患者在 {hospital.zh} 的记录是否被用于本台账已有或将有的任何一次含噪发布，"
        f"对任何结论的概率的改变至多为 e^{epsilon} = {factor} 倍再加 δ = {delta}。",
    )
    mind = Words(
        f"Unit: the patient, with all rows. Relation: one patient added or removed. Bound: Rényi "
        f"DP (rdp) of at most {figures(budget['limit'])} at order {budget['order']}, in whatever "
        "order and for whatever reason requests come. In particular, no test with 1 % false "
        f"alarms detects more than {percent} % of those who were there. So far: "
        f"{counted(sums, 'noisy sum')} of {counted(plans, 'plan')}.",
        "单位：患者及其全部记录。邻接关系：增加或移除一名患者。"
        f"上界：在 {budget['order']} 阶的 Rényi 差分隐私（rdp）至多 {figures(budget['limit'])}，"
        "无论请求以何种顺序、因何种原因提出。特别地，误报率为 1 % 的任何检验至多能发现"
        f"在场者的 {percent} %。至今：{plans} 个方案的 {sums} 次含噪求和。",
    )
    if told["adversary"]["colluders"] is None:
        return holds, mind
    return holds, Words(
        f"{mind.en} c is the fewest of all plans so far.", f"{mind.zh}c 取至今各方案中的最小值。"
    )


def no_guarantee(told: Told, hospital: Words) -> Words:
    """Return why nothing is claimed."""
    count = told["unnoised_releases"]
    studies = list(
        dict.fromkeys(
            plan["study"]
            for plan in told["plans"]
            if plan["mechanism"] is None and plan["rounds_executed"]
        )
    )
    return Words(
        f"No guarantee is claimed for {told['population']} at {hospital.en}: "
        f"{counted(count, 'vector')} left without noise ({', '.join(studies)}). An exact sum can "
        "say anything about a patient; no ε covers it, and none covers the noisy releases "
        "beside it. The numbers below count the noisy releases only.",
        f"对 {hospital.zh} 的“{told['population']}”不作任何保证：{count} 个向量未加噪声即被发出"
        f"（{'、'.join(studies)}）。精确的求和可能透露患者的任何情况；"
        "没有 ε 能涵盖它，也不再有 ε 能涵盖其旁的含噪发布。下列数字仅计含噪发布。",
    )


def not_covered(told: Told) -> list[Words]:
    """Return what the guarantee does not cover, with this ledger's numbers."""
    found = [
        Words(
            "That the hospital took part, when, in which plan, and how long its messages were.",
            "医院参与了、何时参与、参与了哪个方案，以及其消息的长度。",
        ),
        Words("How long the hospital took to answer.", "医院用了多长时间作答。"),
    ]
    several = {row["sites"]: row["epsilon_budget"] for row in told["sites_per_person"]}
    if told["budget"] is not None:
        two, three = (figures(several[sites]) for sites in (2, 3))
        found.append(
            Words(
                f"A person who is a patient of several hospitals of the same sums: with two, ε is "
                f"{two}, with three {three}, for the same δ, once the budget is used up. What "
                "those hospitals release besides is in their own ledgers.",
                f"同时在若干家参与同一求和的医院就诊的人：预算用尽时，两家时 ε 为 {two}，"
                f"三家时为 {three}（δ 相同）。那些医院另外发布的内容记在各自的台账中。",
            )
        )
    found += [
        *_beyond_the_adversary(told),
        Words(
            "The staff of the hospital, and whoever else sees the records themselves.",
            "本院工作人员，以及其他能看到记录本身的人。",
        ),
        Words(
            "Facts that are true of all patients or of a group: they are what a study is for.",
            "对全体或某一群体患者成立的事实：这正是研究的目的。",
        ),
        Words(
            "Relatives: a record that tells of two people counts as one patient's.",
            "亲属：涉及两个人的一条记录只计为一名患者的记录。",
        ),
        Words(
            "Anything released without noise: the ledger counts it, and then nothing is claimed.",
            "未加噪声的任何发布：台账会予以登记，此后不再作任何保证。",
        ),
        Words(
            "Models that the hospital personalises at home, as long as they stay there.",
            "医院在本地个性化并留在本地的模型。",
        ),
        Words(
            "Whatever did not pass this ledger: other software, tables handed over, another "
            "ledger that the same patients are in.",
            "未经本台账的一切：其他软件、另行交付的表格、同一批患者所在的另一本台账。",
        ),
    ]
    if told["kind"] == "simulation":
        found.append(
            Words(
                "What a simulation shows besides: exact numbers of patients and rows, test scores, "
                "verdicts, and models that were fitted on raw records.",
                "模拟另外展示的内容：患者与记录的精确数目、测试得分、结论，以及用原始记录拟合的模型。",
            )
        )
    return found


def _beyond_the_adversary(told: Told) -> list[Words]:
    """Return what is not covered because more collude, or break more, than was assumed."""
    found, count = [], told["adversary"]["colluders"]
    if count is not None:
        hospitals = "hospital that pools" if count == 1 else "hospitals that pool"
        found.append(
            Words(
                f"More than c = {count} other {hospitals} what they see with the coordinator.",
                f"多于 c = {count} 家其他医院与协调方汇集所见。",
            )
        )
    if any(plan["sharing"] == "sum" and plan["masked"] for plan in told["plans"]):
        found.append(
            Words(
                "Broken ciphers: where plans mask sums, what is said of the coordinator rests on "
                "the ciphers of the masks. Who sees only sums meets all of the noise without them.",
                "密码被攻破：凡方案对求和加掩码之处，关于协调方的部分依赖于掩码所用的密码。"
                "只看到总和者无论如何都面对全部噪声。",
            )
        )
    return found


def sampled(told: Told) -> Words | None:
    """Return how plans with samples are priced; None without any."""
    mechanisms = [plan["mechanism"] for plan in told["plans"]]
    if not any(noise and noise["family"] == "sampled_gaussian" for noise in mechanisms):
        return None
    return Words(
        "Plans with Poisson samples are priced for continuous noise, while the added noise is "
        "discrete on a fine grid: over T steps of length d their ε is larger by at most "
        "12 d T / σ², with σ in grid units; for z = 1, which is 2^13 units and more, by less than "
        "4e-4 with d = 20 and T = 100.",
        "含泊松抽样的方案按连续噪声计价，而所加噪声是细网格上的离散噪声：对长度为 d 的 T 步，"
        "其 ε 至多再大 12 d T / σ²（σ 以网格单位计）；z = 1 时 σ 至少为 2^13 个单位，"
        "d = 20、T = 100 时增量小于 4e-4。",
    )


def one_of(names: Sequence[str]) -> Words:
    """Return a hospital's name, or that any single one of several is meant.

    >>> one_of(["a", "b"]).en
    'any one of a, b'
    """
    if len(names) == 1:
        return Words(names[0], names[0])
    return Words(f"any one of {', '.join(names)}", f"{'、'.join(names)} 中任意一家")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun.

    >>> counted(1, "plan"), counted(0, "plan")
    ('1 plan', '0 plans')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
