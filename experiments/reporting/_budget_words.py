"""The sentences of the budget report, in English and Chinese, made from a statement's numbers.

Claims are chosen here and nowhere else: what holds, for whom, against whom, and what is not
covered. No word here is a judgement in law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ._budget_figures import figures
from ._wording import Words

__all__ = [
    "REFUSAL",
    "SHARING",
    "STANDING",
    "STATUS",
    "adversary",
    "guarantee",
    "no_guarantee",
    "not_covered",
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
        return Words("those whom its plans will name pool", "其方案将列出的对手汇集其")
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


def guarantee(told: Told, hospital: str, detected: float) -> tuple[Words, Words]:
    """Return what holds for one patient, and what to mind about it.

    Args:
        told: A statement with a budget and no release without noise.
        hospital: Whose rows are meant.
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
        f"whether or not this patient's rows at {hospital} were used in ANY of the noisy releases "
        "in this ledger, made or still to come, changes the probability of any conclusion by at "
        f"most a factor e^{epsilon} = {factor}, but for a chance of {delta}.",
        f"对任何一名患者，无论他人还知道什么，即使{who.zh}所见的一切："
        f"该患者在 {hospital} 的记录是否被用于本台账已有或将有的任何一次含噪发布，"
        f"对任何结论的概率的改变至多为 e^{epsilon} = {factor} 倍，例外的概率至多为 {delta}。",
    )
    mind = Words(
        f"Unit: the patient, with all rows. Relation: one patient added or removed. Bound: Rényi "
        f"DP (rdp) of at most {figures(budget['limit'])} at order {budget['order']}, in whatever "
        "order and for whatever reason requests come. In particular, no test with 1 % false "
        f"alarms detects more than {percent} % of those who were there. So far: {sums} noisy "
        f"sums of {plans} {'plan' if plans == 1 else 'plans'}.",
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


def no_guarantee(told: Told, hospital: str) -> Words:
    """Return why nothing is claimed."""
    count = told["unnoised_releases"]
    studies = list(
        dict.fromkeys(
            plan["study"]
            for plan in told["plans"]
            if plan["mechanism"] is None and plan["rounds_executed"]
        )
    )
    vectors = "vector" if count == 1 else "vectors"
    return Words(
        f"No guarantee is claimed for {told['population']} at {hospital}: {count} {vectors} left "
        f"without noise ({', '.join(studies)}). An exact sum can say anything about a patient; "
        "no ε covers it, and none covers the noisy releases beside it. The numbers below count "
        "the noisy releases only.",
        f"对 {hospital} 的“{told['population']}”不作任何保证：{count} 个向量未加噪声即被发出"
        f"（{'、'.join(studies)}）。精确的求和可能透露患者的任何情况；"
        "没有 ε 能涵盖它，也不再有 ε 能涵盖其旁的含噪发布。下列数字仅计含噪发布。",
    )


def not_covered(told: Told) -> list[Words]:
    """Return what the guarantee does not cover, with this ledger's numbers."""
    found = [
        Words(
            "That the hospital took part, when, in which plan, and how long its messages were.",
            "医院参与了、何时参与、参与了哪个方案，以及其消息的长度。",
        )
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
