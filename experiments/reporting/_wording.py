"""The words of tables, pictures and reports, each in English and Chinese.

Claims are chosen here and nowhere else. What is never said of a model: that it is safe, that
it meets a law, or that its patients cannot be recognised in law; only numbers, and what they
do not cover.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "ARM",
    "METRIC",
    "PICTURE",
    "RELATION",
    "SAVED_MODELS",
    "SCOPE",
    "SCOPES",
    "VERDICT",
    "Words",
    "arm_name",
    "metric_name",
]


class Words(NamedTuple):
    """The same thing said twice."""

    en: str
    zh: str


ARM = {
    "local": (Words("Local", "本院单独"), Words("each hospital alone", "各院只用自己的数据")),
    "pooled": (
        Words("Pooled", "集中合并"),
        Words("all records in one place: simulation only", "所有记录集中一处：仅限模拟"),
    ),
    "federated": (
        Words("Federated", "联邦"),
        Words("sums over all hospitals, no noise", "对全部医院求和，不加噪声"),
    ),
    "personalised": (
        Words("Personalised", "个性化联邦"),
        Words("the federated model, fitted at home", "联邦模型再由各院用本院数据微调"),
    ),
    "consensus": (
        Words("Consensus", "共识"),
        Words("the local models, averaged once", "各院模型一次性平均"),
    ),
    "dp_sum": (
        Words("DP sum", "差分隐私·求和"),
        Words(
            "each hospital adds a share; the sum is noisy once",
            "各院各加一份噪声份额，总和只含一份噪声",
        ),
    ),
    "dp_each": (
        Words("DP each", "差分隐私·逐院"),
        Words("every hospital adds full noise", "每家医院各加一份完整噪声"),
    ),
    "dp_fedavg": (
        Words("DP-FedAvg", "差分隐私·FedAvg"),
        Words("noisy local steps, averaged weights", "本地加噪训练，再平均权重"),
    ),
    "observed": (Words("Observed", "实际观察"), Words("Kaplan-Meier", "Kaplan-Meier 估计")),
}

METRIC = {
    "auroc": Words("AUROC", "AUROC"),
    "auprc": Words("AUPRC", "AUPRC"),
    "brier": Words("Brier score", "Brier 分数"),
    "accuracy": Words("Accuracy", "准确率"),
    "log_loss": Words("Log loss", "对数损失"),
    "c_index": Words("C-index", "C 指数"),
    "ibs": Words("Integrated Brier score", "积分 Brier 分数"),
    "sensitivity_at_specificity": Words("Sensitivity at set specificity", "给定特异度下的灵敏度"),
    "calibration_slope": Words("Calibration slope", "校准斜率"),
    "calibration_intercept": Words("Calibration intercept", "校准截距"),
}

VERDICT = {
    "gains": Words("gains", "受益"),
    "no clear difference": Words("no clear difference", "无明显差异"),
    "loses": Words("loses", "受损"),
    "not measurable": Words("not measurable", "无法测量"),
}

RELATION = {
    "add_or_remove_one": Words("one patient added or removed", "增加或移除一名患者"),
}

ADVERSARY = {
    "masked": Words("coordinator + {sites}", "协调方 + {sites}"),
    "total": Words("whoever sees only the total", "仅看到总和者"),
    "each": Words("coordinator + all other sites", "协调方 + 所有其他医院"),
}

SCOPE = Words(
    "Epsilon covers the model, not the test metrics, which exist only in simulation.",
    "ε 覆盖的是模型，不覆盖测试指标；测试指标仅存在于模拟中。",
)

# Where an epsilon holds from, as `results.json` says it.
SCOPES = {
    "given_split": Words("given the split", "以划分为条件"),
    "from_the_extract_on": Words("from the extract on", "自数据提取起"),
}

SAVED_MODELS = Words(
    "Saved models are fitted once more, on all patients and without a split. Scores are from "
    "repeated splits of the same procedure.",
    "保存的模型另在全部患者上不经划分地拟合一次；得分来自同一流程的重复划分。",
)


def arm_name(arm: str) -> Words:
    """Return an arm's name; an unknown one is its own name."""
    return ARM[arm][0] if arm in ARM else Words(arm, arm)


def metric_name(metric: str) -> Words:
    """Return a metric's name; an unknown one is its own name.

    >>> metric_name("auc_5y").en
    'AUC at 5 years'
    """
    if found := re.fullmatch(r"auc_([\d.]+)y", metric):
        years = found[1]
        return Words(f"AUC at {years} year{'' if years == '1' else 's'}", f"{years} 年 AUC")
    return METRIC.get(metric, Words(metric, metric))


PICTURE = {
    "gain": Words("Who gains by joining", "参与联邦谁受益"),
    "gain_axis": Words(
        "{metric} against training alone, {level} interval",
        "{metric}：与单独训练之差，{level} 区间",
    ),
    "cost": Words("What privacy costs", "隐私的代价"),
    "cost_axis": Words("{metric}, all hospitals' test patients", "{metric}，全部医院的测试患者"),
    "epsilon_axis": Words("epsilon for each patient (log scale)", "每名患者的 ε（对数刻度）"),
    "arms": Words("How the arms compare", "各方案比较"),
    "calibration": Words("Are the risks honest?", "风险是否可信"),
    "calibration_axis": Words("observed fraction by predicted risk", "各预测风险下的实际发生比例"),
    "calibration_x": Words("predicted risk", "预测风险"),
    "survival": Words("Predicted and observed", "预测与实际"),
    "survival_axis": Words("fraction without the event", "未发生事件的比例"),
    "survival_x": Words("years", "年"),
    "survival_days": Words("days", "天"),
    "no_curves": Words("no curves in this run", "本次运行没有曲线"),
    "no_verdicts": Words("no hospital was compared", "没有可比较的医院"),
    "no_scores": Words("no arm could be scored", "没有可评分的方案"),
    "fewer": Words(
        "lowest and highest gains of {count} hospitals", "{count} 家医院中收益最低与最高者"
    ),
}
