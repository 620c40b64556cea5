"""What we take from inside Flower is pinned: a new minor is a decision, not a surprise."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import serde
from flwr.serverapp import Grid
from flwr.supercore import run, task_identity

from fedcohort.experiments.cli import main
from fedcohort.experiments.simulation import flower_compat

SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def test_flower_is_the_minor_that_these_symbols_were_read_in() -> None:
    assert version("flwr").split(".")[:2] == ["1", "41"]


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        (serde, "message_to_proto", ["message"]),
        (serde, "message_from_proto", ["message_proto"]),
        (run.Run, "create_empty", ["run_id"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_internal_function_takes_what_we_give_it(
    module: ModuleType | type, name: str, parameters: list[str]
) -> None:
    assert list(inspect.signature(getattr(module, name)).parameters) == parameters


def test_flower_compat_takes_these_internal_symbols_and_no_other() -> None:
    tree = ast.parse(Path(flower_compat.__file__).read_text(encoding="utf-8"))
    taken = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("flwr")
        for alias in node.names
    }
    assert taken == {
        "flwr.app.Message",
        "flwr.common.serde.message_from_proto",
        "flwr.common.serde.message_to_proto",
        "flwr.supercore.run.Run",
        "flwr.supercore.task_identity.TaskIdentity",
    }


def test_a_new_run_makes_this_process_its_task() -> None:
    fresh = flower_compat.new_run()
    identity = task_identity.TaskIdentity
    assert (identity.run_id, identity.task_id, identity.node_id) == (fresh.run_id, 1, 1)
    assert 0 <= fresh.run_id < 2**63
    assert flower_compat.new_run().run_id != fresh.run_id


def question() -> Message:
    flower_compat.new_run()
    content = RecordDict(
        {
            "terms": ConfigRecord({"json": "{}"}),
            "state": ArrayRecord({"theta": Array(np.array([1.5, -0.0, np.inf]))}),
        }
    )
    return Message(content, 7, "train.report", group_id="3", ttl=60.0)


def test_a_message_gets_the_id_that_the_superlink_would_give_it() -> None:
    one, other = flower_compat.stamped(question()), flower_compat.stamped(question())
    assert one.metadata.message_id
    assert one.metadata.message_id != other.metadata.message_id


def test_an_error_of_the_superlinks_own_carries_its_id_as_source() -> None:
    asked = flower_compat.stamped(question())
    error = Message(Error(5, "node unavailable"), reply_to=asked)
    sent = flower_compat.sent_by(error, flower_compat.SUPERLINK_NODE_ID)
    assert sent.metadata.src_node_id == flower_compat.SUPERLINK_NODE_ID == 1
    assert sent.has_error()


def test_a_message_arrives_as_it_was_sent() -> None:
    sent = flower_compat.stamped(question())
    here = flower_compat.over_the_wire(sent)
    assert here is not sent
    for name in ("message_id", "dst_node_id", "src_node_id", "message_type", "group_id", "ttl"):
        assert getattr(here.metadata, name) == getattr(sent.metadata, name)
    assert here.content.config_records["terms"]["json"] == "{}"
    before = sent.content.array_records["state"]["theta"].numpy()
    after = here.content.array_records["state"]["theta"].numpy()
    assert after.tobytes() == before.tobytes()
    assert after.dtype == np.float64


def test_a_reply_names_the_question_it_answers() -> None:
    asked = flower_compat.over_the_wire(flower_compat.stamped(question()))
    vector = np.array([2**62, -(2**62), -1], dtype=np.int64)
    content = RecordDict({"vector": ArrayRecord({"sum": Array(vector)})})
    reply = flower_compat.over_the_wire(flower_compat.stamped(Message(content, reply_to=asked)))
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id
    assert reply.metadata.src_node_id == asked.metadata.dst_node_id
    found = reply.content.array_records["vector"]["sum"].numpy()
    assert found.dtype == np.int64
    assert found.tolist() == vector.tolist()


def test_the_grid_has_the_methods_that_ours_gives() -> None:
    abstract = {
        name for name in dir(Grid) if getattr(getattr(Grid, name), "__isabstractmethod__", 0)
    }
    assert abstract == {
        "create_message",
        "get_node_ids",
        "pull_messages",
        "push_messages",
        "run",
        "send_and_receive",
        "set_run",
    }


def test_a_client_app_takes_named_actions() -> None:
    app = ClientApp()

    @app.train("report")
    def report(message: Message, context: object) -> Message:
        return message

    @app.query("propose")
    def propose(message: Message, context: object) -> Message:
        return message

    with pytest.raises(ValueError, match="already registered"):
        app.train("report")(report)


# ---- Flower reads its switches once, at import; so they are set before it


def test_the_command_line_sets_every_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    for switch in (*SWITCHES, "FLWR_LOG_LEVEL"):
        monkeypatch.setenv(switch, "left over")
    monkeypatch.setattr(sys, "argv", ["fedcohort", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert {switch: os.environ[switch] for switch in SWITCHES} == SWITCHES


def test_the_command_line_sets_them_before_flower_is_imported() -> None:
    program = (
        "import os, sys\n"
        "from fedcohort.experiments import cli\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'flwr']\n"
        "sys.argv = ['fedcohort', '--version-that-is-none']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "from flwr.supercore import telemetry\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED)\n"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=bare,
        cwd=os.sep,
    )
    assert outcome.stdout.strip().splitlines()[-1] == "0"
