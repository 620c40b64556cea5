"""Sentences that every result carries, in both languages."""

from .results import Note

__all__ = ["NOTES", "NOT_COVERED", "PLAIN_SUMS", "masked_note"]

NOTES = (
    Note(
        code="epsilon_scope",
        en="Epsilon covers the model, not the test metrics, which exist only in simulation.",
        zh="ε 只涵盖模型,不涵盖测试指标;测试指标仅存在于模拟中。",
    ),
    Note(
        code="given_split",
        en="In the comparison epsilon holds given the split: who is drawn into training depends on "
        "all patients. The epsilon of a saved model holds from the extract on.",
        zh="比较中的 ε 以划分为条件:谁被抽入训练取决于全部患者。所保存模型的 ε 自数据提取起成立。",
    ),
    Note(
        code="saved_models",
        en="Saved models were fitted once more, on all patients of the participating hospitals and "
        "without a split. The scores are from repeated splits of the same procedure.",
        zh="保存的模型另在全部参与医院的所有患者上、不经划分地拟合一次;得分来自同一流程的重复划分。",
    ),
    Note(
        code="pooled_simulation_only",
        en="The arm `pooled` needs every record in one place: it exists only in simulation.",
        zh="“pooled”(集中训练)需要把所有记录放在一处,仅存在于模拟中。",
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
        code="personalised",
        en="A model that a site personalises: it is fitted on the site's own records without "
        "noise and must stay there. Epsilon covers the shared model it started from.",
        zh="由医院自行个性化的模型:它以本院记录无噪声拟合,必须留在院内;ε 只涵盖其出发的共享模型。",
    ),
    Note(
        code="repeats",
        en="Each repeat trains anew, and each saved model is one more training: epsilon is per "
        "trained model, not for all together. Whoever publishes scores of repeats and a model "
        "publishes more than one release.",
        zh="每次重复都重新训练,所保存的模型又是一次训练:ε 针对单个训练所得模型,而非全部之和。"
        "既公布各次重复的得分又公布模型,即发布了不止一次结果。",
    ),
)

PLAIN_SUMS = Note(
    code="plain_sums",
    en="Sums were not masked in this run: the coordinator sees each site's integers, so the noise "
    "of dp_sum protects a patient from whoever sees only the sums, not from the coordinator.",
    zh="本次运行的求和未加掩码:协调方能看到各院的整数;dp_sum 的噪声只针对仅能看到总和的人,"
    "不能针对协调方保护患者。",
)


def masked_note(repeats: str) -> Note:
    """Return what was really masked in a run."""
    if repeats == "all":
        return Note(
            code="masked_sums",
            en="Every sum of every repeat, and of the fit on all patients, was masked: the "
            "coordinator saw sums and nothing else.",
            zh="每次重复以及全部患者上的拟合的每个求和都加了掩码:协调方只看到总和。",
        )
    return Note(
        code="masked_sums",
        en="Every sum of the first repeat and of the fit on all patients was masked; the other "
        "repeats added the same integers without masks, to be quick. A deployed run masks every "
        "sum.",
        zh="第一次重复与全部患者上的拟合的每个求和都加了掩码;其余重复为求快,对相同的整数不加掩码求和。"
        "实际部署时每个求和都加掩码。",
    )
