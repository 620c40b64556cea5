"""`fedcohort run`: Hydra's own main, with refusals as one clear line each."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from ..conf.schema import register
from ..privacy.errors import ConfigError, FedCohortError

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["main", "refuse"]

_FLAGS_WITHOUT_CHECK = {"-m", "--multirun", "-h", "--help", "--hydra-help", "--version", "-c"}
_MODULE = "fedcohort.conf"


def refuse(error: FedCohortError, console: Console) -> int:
    """Print a refusal for people and return its exit code for scripts."""
    console.print(f"[bold red]refused[/] ({error.code}): ", end="")
    console.print(str(error), markup=False, soft_wrap=True)
    if error.hint:
        console.print(error.hint, style="dim", markup=False, soft_wrap=True)
    return error.exit_code


@hydra.main(version_base="1.3", config_path="pkg://fedcohort.conf", config_name="config")
def _job(config: DictConfig) -> None:
    from .run import run
    from .settings import Settings

    console = Console(stderr=True, highlight=False)
    overrides = HydraConfig.get().overrides.task
    command = " ".join(["fedcohort run", *overrides])
    try:
        answer = run(_own_folder(Settings.of(config)), command=command, console=console)
    except FedCohortError as error:
        sys.exit(refuse(error, console))
    except OmegaConfBaseException as error:
        sys.exit(refuse(_as_refusal(error), console))
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")


def _own_folder(settings: Settings) -> Settings:
    """Give each job of a sweep a folder of its own inside the one that was asked for."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN or settings.out is None:
        return settings
    return replace(settings, out=settings.out / f"job{hydra_config.job.num}")


def main(arguments: list[str]) -> None:
    """Run `fedcohort run ARGUMENTS`.

    A single run is composed once beforehand, so that a misspelt key is one line and not
    Hydra's page; a sweep is checked job by job.
    """
    register()
    if not _FLAGS_WITHOUT_CHECK & set(arguments):
        try:
            with initialize_config_module(config_module=_MODULE, version_base="1.3"):
                compose(config_name="config", overrides=[a for a in arguments if a[:1] != "-"])
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(refuse(_as_refusal(error), Console(stderr=True, highlight=False)))
        finally:
            GlobalHydra.instance().clear()
    sys.argv = ["fedcohort run", *arguments]
    _job()


def _as_refusal(error: Exception) -> ConfigError:
    """Return the first telling line of Hydra's message, with the way to the keys."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__ or error.__context__
    if cause is not None and "Error" in type(cause).__name__:
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    for line in lines:
        if re.search(r"not in|Invalid type|could not be converted|Cannot convert", line):
            text = line if line == text else f"{text} {line}"
            break
    return ConfigError(
        "configuration", text, hint="See `fedcohort run --help` for the keys and their values."
    )
