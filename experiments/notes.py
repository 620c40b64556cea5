"""Sentences that every result carries, in both languages."""

from .results import Note

__all__ = ["NOTES", "NOT_COVERED"]

NOTES = (
    Note(
        code="epsilon_scope",
        en="Epsilon covers the model, not the test metrics, which exist only in simulation.",
        zh="ε 只涵盖模型,不涵盖测试指标;测试指标仅存在于模拟中。",
    ),
    Note(
        code="pooled_simulation_only",
        en="The arm `pooled` needs every record in one place: it exists only in simulation.",
        zh="“pooled”(集中训练)需要把所有记录放在一处,仅存在于模拟中。",
    ),
    Note(
        code="plain_sums",
        en="Sums are not masked in this release: the coordinator sees each site's integers, "
        "so the noise of dp_sum protects a patient from the coordinator only once they are.",
        zh="本版本的求和未加掩码:协调方能看到各院的整数;在加掩码之前,dp_sum 的噪声不能"
        "针对协调方保护患者。",
    ),
    Note(
        code="verdict_rate",
        en="Verdicts use the corrected resampled t interval; with 20 splits of 200 patients it "
        "claimed a difference in 7 % of simulated studies where there was none.",
        zh="判定采用校正重抽样 t 区间;在 200 名患者、20 次划分的模拟零假设下,约 7 % 的研究被"
        "误判为有差异。",
    ),
)

NOT_COVERED = (
    Note(
        code="participation",
        en="The fact that a hospital took part.",
        zh="某医院参与了研究这一事实。",
    ),
    Note(
        code="several_hospitals",
        en="A person treated at several participating hospitals is covered at each of them "
        "separately; together the cost is larger.",
        zh="在多家参与医院就诊的人,仅在每家医院分别受到保护;合计代价更大。",
    ),
    Note(
        code="test_metrics",
        en="Test metrics, counts and verdicts in this report: they exist only in simulation.",
        zh="本报告中的测试指标、计数与判定:仅存在于模拟中。",
    ),
    Note(
        code="repeats",
        en="Each repeat trains anew: epsilon is per trained model, not for all repeats together.",
        zh="每次重复都重新训练:ε 针对单个训练所得模型,而非全部重复之和。",
    ),
)
