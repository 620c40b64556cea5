"""The documentation is true: its links, commands, keys, codes and examples are the code's."""

import ast
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from hydra import compose, initialize_config_module
from omegaconf import MISSING, OmegaConf
from rich.console import Console

from fedcohort.conf.schema import RunConfig, register
from fedcohort.experiments import commands
from fedcohort.experiments.reporting.results import SecAggInfo
from fedcohort.experiments.run import run
from fedcohort.experiments.scores import metrics
from fedcohort.experiments.settings import Settings
from fedcohort.fl_client.app import PHASES
from fedcohort.fl_client.governance.approvals import State
from fedcohort.fl_client.governance.audit_log import EVENTS
from fedcohort.privacy.secagg.roster import stands, threshold_for
from fedcohort.study import analyses, models
from fedcohort.study.registry import names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
HELP = ROOT / "conf/config.yaml"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
PACKAGES = sorted(init.parent for init in ROOT.glob("*/__init__.py"))


def page(name: str) -> str:
    """Return the text of a page under docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of one language."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def table_rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of every row of every table, heads left out."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        is_head = number + 1 < len(lines) and re.match(r"\|( ?:?-+:? ?\|)+$", lines[number + 1])
        if line.startswith("| ") and not line.startswith("| -") and not is_head:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def quoted(text: str) -> set[str]:
    """Return what stands in backticks."""
    return set(re.findall(r"`([^`]+)`", text))


def identify(page: Path) -> str:
    """Return a page's name for pytest."""
    return str(page.relative_to(ROOT))


# ---- links and commands


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_the_links_of(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            dead.append(link)
    assert dead == []


def joined(block: str) -> list[str]:
    """Return a shell block's commands, continued lines put together."""
    return block.replace("\\\n", " ").splitlines()


def shell_commands() -> list[tuple[str, str]]:
    """Return (page, command) of every `fedcohort` line in a shell block, and of `run --help`."""
    footer = yaml.safe_load(HELP.read_text(encoding="utf-8"))["hydra"]["help"]["footer"]
    shown = [(HELP, footer.partition("Examples:")[2])]
    for path in PAGES:
        shown += [(path, block) for block in blocks(path.read_text(encoding="utf-8"), "sh")]
    return [
        (identify(path), re.sub(r" 2?> .*| &$", "", " ".join(line.split())))
        for path, block in shown
        for line in joined(block)
        if line.strip().startswith("fedcohort ")
    ]


@pytest.mark.parametrize(("where", "command"), shell_commands())
def test_the_command(where: str, command: str) -> None:
    """Its sub-command exists; a run is planned, in full on shipped data, else up to the data."""
    words = shlex.split(command, comments=True)[1:]
    if words[0] == "run":
        overrides = [word for word in words[1:] if not word.startswith("--")]
        if "--multirun" in words:
            overrides = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in overrides]
        settings = Settings.of(composed(overrides))
        if settings.path is None and settings.deployed is None:  # else up to the coordinator
            settings = dataclasses.replace(settings, dry_run=True)
            assert run(settings, command=command, console=Console(quiet=True))["plans"]
        return
    tool: Any = typer.main.get_command(commands.app)
    while words and hasattr(tool, "commands"):
        assert words[0] in tool.commands, f"{where}: {command}"
        tool = tool.commands[words.pop(0)]
    options = {name for parameter in tool.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, f"{where}: {command}"


def composed(overrides: list[str]) -> Any:
    """Return the configuration of `fedcohort run OVERRIDES`."""
    register()
    with initialize_config_module(config_module="fedcohort.conf", version_base="1.3"):
        return compose(config_name="config", overrides=overrides)


def test_no_page_claims_what_nobody_can() -> None:
    claims = re.compile(r"anonym|complian[tc]|certif(?!icate)|blockchain", flags=re.IGNORECASE)
    # "compliance reviewer" is a person.
    allowed = {"compliance reviewer"}
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for phrase in allowed:
            text = text.replace(phrase, "")
        found += [f"{identify(path)}: {claim.group()}" for claim in claims.finditer(text)]
    assert found == []


# ---- reference pages


def keys_of(cls: type, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every key of the schema with its default."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kinds = [hints[field.name], *typing.get_args(hints[field.name])]
        inner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if isinstance(inner, type):
            yield from keys_of(inner, f"{prefix}{field.name}.")
        else:
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            yield f"{prefix}{field.name}", default


def test_every_key_is_documented_with_its_default() -> None:
    documented = {
        cells[0].strip("`"): cells[1]
        for cells in table_rows(page("reference/configuration.md"))
        if len(cells) == 3
    }

    def shown(default: object) -> set[str]:
        if default == MISSING:
            return {"by the study", "by the group"}
        return {f"`{default if isinstance(default, str) else json.dumps(default)}`"}

    known = dict(keys_of(RunConfig))
    assert set(documented) == set(known)
    wrong = {key: documented[key] for key in known if documented[key] not in shown(known[key])}
    assert wrong == {}


def test_every_preset_is_documented() -> None:
    rows = [cells for cells in table_rows(page("reference/configuration.md")) if len(cells) == 6]
    families = ["logistic", "mlp", "hazard", "hazard_mlp", "cox"]
    for number, family in enumerate(families, start=1):
        text = (ROOT / f"conf/model/{family}.yaml").read_text(encoding="utf-8")
        preset = OmegaConf.create(yaml.safe_load(text))
        for cells in rows:
            value = OmegaConf.select(preset, cells[0].strip("`"))
            plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            assert cells[number] == ("-" if plain is None else str(plain)), (family, cells[0])
        listed = {cells[0].strip("`") for cells in rows if cells[number] != "-"}
        assert listed == {key for key, value in keys_in(preset) if value is not None} - {"name"}


def keys_in(node: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the keys of a preset's file."""
    for key in node:
        if OmegaConf.is_dict(node[key]):
            yield from keys_in(node[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node[key]


ERRORS = {"ConfigError", "DataError", "PolicyError", "ProtocolError"}
ERRORS |= {"BudgetExceededError", "DisclosureError"}
HELPERS = {"_refuse", "_refusal"}  # they take a code first, as the errors do
# Codes that are put together, and what the page lists for them.
PUT_TOGETHER = {
    "…_invalid": {"KEY_invalid"},
    "privacy_…_missing": {"privacy_epsilon_missing", "privacy_delta_missing"},
    "secagg_…": {"secagg_too_few_sites", "secagg_too_many_colluders"},  # of `threshold_for`
    "unknown_…": {"unknown_analysis", "unknown_model"},
}
# Codes that are looked up: in datasets/outcomes.py.
LOOKED_UP = {"negative_time", "time_not_number", "event_not_binary"}
# Codes that a reader of files is handed: in study/enrolment.py.
HANDED_ON = {"invitation_unreadable", "join_unreadable"}
# Codes that stand for others on the wire: in fl_client/app.py.
SENT_INSTEAD = {"data_refused"}
# Codes of the protocol's rules, wherever they are written: `r0_17_colluders` is rule 17, in R0.
RULE = re.compile(r"(e[012]|r[0-3]?)_\d+_[a-z_]+")


def calls(called: set[str]) -> Iterator[ast.Call]:
    """Yield every call to one of these names in the package."""
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in called:
                    yield node


def error_codes() -> set[str]:
    """Return every code that the package can refuse with."""
    codes: set[str] = set()
    for argument in (call.args[0] for call in calls(ERRORS | HELPERS) if call.args):
        if isinstance(argument, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "…" for p in argument.values)
            codes |= PUT_TOGETHER["".join(map(str, parts))]
        else:
            codes |= {
                str(part.value)
                for part in ast.walk(argument)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    outcomes = (ROOT / "datasets/outcomes.py").read_text(encoding="utf-8")
    codes |= {code for code in LOOKED_UP if f'"{code}"' in outcomes}
    enrolment = (ROOT / "study/enrolment.py").read_text(encoding="utf-8")
    codes |= {code for code in HANDED_ON if f'"{code}"' in enrolment}
    app = (ROOT / "fl_client/app.py").read_text(encoding="utf-8")
    codes |= {code for code in SENT_INSTEAD if f'"{code}"' in app}
    return codes | set(protocol_codes())


def protocol_codes() -> Iterator[str]:
    """Yield the codes that secure aggregation looks up or hands to `Message.verify`."""
    for path in (ROOT / "privacy/secagg").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and RULE.fullmatch(str(node.value)):
                yield str(node.value)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "verify":
                yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def test_what_is_put_together_of_the_threshold_is_what_it_can_refuse() -> None:
    """`secagg_…` wraps `threshold_for`: its codes are read from its own source."""
    path = ROOT / "privacy/secagg/roster.py"
    (rule,) = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "threshold_for"
    )
    refused = {
        f"secagg_{ast.literal_eval(node.args[0])}"
        for node in ast.walk(rule)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ProtocolError"
    }
    assert refused == PUT_TOGETHER["secagg_…"]


def test_every_code_of_a_refusal_is_listed_and_none_is_dead() -> None:
    listed = {
        code for cells in table_rows(page("reference/errors.md")) for code in quoted(cells[0])
    }
    assert listed == error_codes()


def test_every_rule_of_the_protocol_is_in_its_reference_and_none_is_dead() -> None:
    text = page("reference/secagg-messages.md").partition("## Error codes")[2]
    listed = {
        code
        for cells in table_rows(text.partition("\n## ")[0])
        for cell in cells[:2]
        for code in quoted(cell)
    }
    assert {code for code in protocol_codes() if RULE.fullmatch(code)} <= listed
    assert listed <= error_codes()


def test_the_table_of_thresholds_is_the_codes() -> None:
    text = page("explanation/secure-aggregation.md").partition("## Thresholds")[2]
    rows = list(table_rows(text.partition("\n## ")[0]))
    assert rows
    for sites, threshold, lost, colluders in ([int(c.strip("*")) for c in row] for row in rows):
        assert threshold_for(sites, 0) == threshold
        assert lost == sites - threshold
        most = max(c for c in range(sites) if stands(sites, threshold, c))
        assert colluders == most, sites


def warning_codes() -> set[str]:
    """Return every code that the package can warn with."""
    codes = [
        keyword.value.value
        for call in calls({"DataWarning", "Warned"})
        for keyword in call.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    ]
    return {str(code) for code in codes}


def test_every_warning_is_listed_and_none_is_dead() -> None:
    rows = table_rows(page("reference/warnings.md"))
    assert {code for cells in rows for code in quoted(cells[0])} == warning_codes()


def test_every_field_of_the_results_is_documented() -> None:
    path = ROOT / "experiments/reporting/templates/results.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    fields = set(schema["properties"])
    for definition in schema["$defs"].values():
        fields |= set(definition["properties"])
    assert fields <= quoted(page("reference/results.md"))


def test_the_example_of_the_secagg_block_is_one() -> None:
    text = page("reference/results.md").partition("## `secagg`")[2]
    (example,) = (json.loads(block) for block in blocks(text, "json"))
    info = SecAggInfo(**example)
    assert set(example) == {field.name for field in dataclasses.fields(SecAggInfo)}
    assert info.threshold == threshold_for(info.sites, info.colluders)
    listed = {code for cells in table_rows(text) for code in quoted(cells[0])}
    assert set(example) <= listed


def test_every_reason_is_documented() -> None:
    text = page("reference/results.md").partition("## Reasons")[2]
    listed = {code for cells in table_rows(text) for code in quoted(cells[0])}
    known = {*typing.get_args(metrics.Reason), *typing.get_args(metrics.Warned), "few_repeats"}
    assert listed == known


def test_every_analysis_and_model_is_documented() -> None:
    text = page("reference/analyses.md")
    listed = {code for cells in table_rows(text) for code in quoted(cells[0])}
    assert {*names(analyses), *names(models)} <= listed


MEASURED = {
    "accuracy": "accuracy",
    "development": "development",
    "federation-speed": "federation",
    "ledger-speed": "ledger",
    "secagg-speed": "secagg",
}


def test_every_file_of_results_has_its_page() -> None:
    kept = {path.stem for path in (ROOT / "benchmarks/results").glob("*.json")}
    assert kept == set(MEASURED.values())


@pytest.mark.parametrize("name", MEASURED)
def test_the_measured_page_is_generated_and_says_how(name: str) -> None:
    text = page(f"reference/{name}.md")
    source = MEASURED[name]
    made = json.loads((ROOT / f"benchmarks/results/{source}.json").read_text(encoding="utf-8"))
    assert text.startswith(f"<!-- Generated by `{made['command']}`: do not edit. -->\n")
    assert f"Made on {made['date']} by `{made['command']}`." in text
    for bar in made.get("bars", []):
        row = next(cells for cells in table_rows(text) if cells[0] == bar["what"])
        assert row[-1].strip("*").upper() == ("YES" if bar["reached"] else "NO")


# ---- a node and its coordinator


def section(text: str, head: str) -> str:
    """Return what stands under a heading of the second level."""
    found = text.partition(f"\n## {head}\n")[2]
    assert found, head
    return found.partition("\n## ")[0]


@pytest.mark.parametrize(
    ("group", "head"),
    [("site", "Commands of a hospital"), ("coordinator", "Commands of the coordinator")],
)
def test_every_command_of_a_node_is_listed_with_its_options(group: str, head: str) -> None:
    tool: Any = typer.main.get_command(commands.app)
    known = {
        name: {word for parameter in command.params for word in parameter.opts if "--" in word}
        - {"--folder"}
        for name, command in tool.commands[group].commands.items()
    }
    rows = table_rows(section(page("reference/node.md"), head))
    assert {cells[0].strip("`"): quoted(cells[1]) for cells in rows} == known


def listed_under(head: str) -> set[str]:
    """Return the codes in the first column of node.md's table under a heading."""
    rows = table_rows(section(page("reference/node.md"), head))
    return {code for cells in rows for code in quoted(cells[0])}


def test_every_action_state_and_event_of_a_node_is_listed() -> None:
    source = (ROOT / "fl_client/app.py").read_text(encoding="utf-8")
    actions = {".".join(found) for found in re.findall(r'@app\.(\w+)\("(\w+)"\)', source)}
    assert listed_under("Messages") == actions | {f"query.{phase}" for phase in PHASES}
    assert listed_under("States of a plan at a hospital") == set(typing.get_args(State))
    assert listed_under("Events of the audit log") == set(EVENTS)
    assert {
        code
        for cells in table_rows(section(page("how-to/approve-a-plan.md"), "States of a plan"))
        for code in quoted(cells[0])
    } == set(typing.get_args(State))


@pytest.mark.parametrize("name", ["tutorial/first-federation.md", "zh/first-federation.md"])
def test_the_blocks_of_the_federation_are_shell_and_the_same_in_both_languages(name: str) -> None:
    def lines(of: str) -> list[str]:
        return [line for block in blocks(page(of), "sh") for line in block.splitlines() if line]

    bash = shutil.which("bash")
    assert bash is not None
    script = "\n".join(lines(name))
    read = subprocess.run([bash, "-n"], input=script, text=True, check=False, capture_output=True)
    assert (read.returncode, read.stderr) == (0, "")
    assert lines(name) == lines("tutorial/first-federation.md")


# ---- examples that are run


def test_the_new_analysis_runs_with_and_without_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, *steps = blocks(page("how-to/add-an-analysis.md"), "python")
    (tmp_path / "feature_mean.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(analyses, "__path__", [*analyses.__path__, str(tmp_path)])
    found: dict[str, Any] = {}
    for step in steps:
        exec(compile(step, "add-an-analysis.md", "exec"), found)  # noqa: S102 - our own page
    assert np.abs(found["federated"] - found["pooled"]).max() < 1e-9
    spent = 1.0  # epsilon; 920 patients of at most 4, so a mean moves by a hundredth or two
    assert np.abs(found["noisy"].result.arrays["mean"] - found["pooled"]).max() < 0.2 / spent
    assert capsys.readouterr().out


def test_the_tutorials_own_table_goes_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page("tutorial/first-study.md")
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(text, "python")[0], "first-study.md", "exec"), {})  # noqa: S102
    (tmp_path / "codebook.yaml").write_text(blocks(text, "yaml")[0], encoding="utf-8")
    lines = [line.strip() for block in blocks(text, "sh") for line in joined(block)]
    study = next(line for line in lines if line.startswith("fedcohort run data=table"))
    scoring = next(line for line in lines if line.startswith("fedcohort predict"))
    overrides = [*shlex.split(study)[2:], "repeats=2"]
    run(Settings.of(composed(overrides)), command=study, console=Console(quiet=True))
    # The command line itself: what is shown is what is typed.
    typer.main.get_command(commands.app).main(shlex.split(scoring)[1:], standalone_mode=False)
    written = (tmp_path / "table.csv.predictions.csv").read_text(encoding="utf-8").splitlines()
    assert written[0] == "patient,risk"
    assert len(written) == 901


@pytest.mark.parametrize("book", blocks(page("how-to/complete-a-codebook.md"), "yaml"))
def test_the_codebook_of_the_page_is_one(book: str) -> None:
    from fedcohort.datasets import parse_codebook

    assert parse_codebook(book).by_name
