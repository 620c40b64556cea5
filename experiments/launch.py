"""`fedcohort run`: Hydra's own main, with refusals as one clear line each."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from ..conf.schema import RunConfig, register
from ..privacy.errors import ConfigError, FedCohortError
from .refusals import file_refusal, refuse

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["main"]

_SWEEP = {"-m", "--multirun"}
_MODULE = "fedcohort.conf"
_SEE_HELP = "See `fedcohort run --help` for the keys and their values."


@hydra.main(version_base="1.3", config_path="pkg://fedcohort.conf", config_name="config")
def _job(config: DictConfig) -> None:
    from .run import run
    from .settings import Settings

    console = Console(stderr=True, highlight=False)
    try:
        given = HydraConfig.get().overrides.task
        command = " ".join(["fedcohort run", *given])
        settings = Settings.of(config, stated={text.partition("=")[0] for text in given})
        answer = run(_own_folder(settings), command=command, console=console)
    except FedCohortError as error:
        sys.exit(refuse(error, console))
    except OmegaConfBaseException as error:
        sys.exit(refuse(_as_refusal(error), console))
    except OSError as error:
        sys.exit(refuse(file_refusal(error), console))
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")


def _own_folder(settings: Settings) -> Settings:
    """Give each job of a sweep a folder of its own inside the one that was asked for."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN or settings.out is None:
        return settings
    return replace(settings, out=settings.out / f"job{hydra_config.job.num}")


def main(arguments: list[str]) -> None:
    """Run `fedcohort run ARGUMENTS`.

    What was asked for is composed once beforehand, so that a misspelt key is one line and not
    Hydra's page; of a sweep, its first job.
    """
    register()
    if all(argument[:1] != "-" or argument in _SWEEP for argument in arguments):
        try:
            _compose([argument for argument in arguments if argument not in _SWEEP], arguments)
        except FedCohortError as error:
            sys.exit(refuse(error, Console(stderr=True, highlight=False)))
    sys.argv = ["fedcohort run", *arguments, *_sweep_folder(arguments)]
    _job()


def _sweep_folder(arguments: Sequence[str]) -> list[str]:
    """Keep Hydra's own note of a sweep in the folder that was asked for, beside its jobs."""
    asked = [argument for argument in arguments if argument.startswith("out=")]
    if not _SWEEP & set(arguments) or len(asked) != 1 or "," in asked[0]:
        return []
    return [f"hydra.sweep.dir={asked[0].removeprefix('out=')}"]


def _compose(overrides: Sequence[str], arguments: Sequence[str]) -> None:
    """Compose a run's configuration and drop it.

    Raises:
        ConfigError: In our words.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            _refuse_new_keys(override)
        if _SWEEP & set(arguments):
            overrides = [_first_of(override) for override in parsed]
        with initialize_config_module(config_module=_MODULE, version_base="1.3"):
            compose(config_name="config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _as_refusal(error) from error
    finally:
        GlobalHydra.instance().clear()


def _refuse_new_keys(override: Override) -> None:
    """Hydra's `+key`, `++key` and `~key` go past the schema: a new key would do nothing."""
    if override.type is not OverrideType.CHANGE:
        raise ConfigError(
            "override_kind",
            f"{override.input_line}: keys are neither added nor deleted",
            hint=f"Write KEY=VALUE. {_SEE_HELP}",
        )


def _first_of(override: Override) -> str:
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, config):
        yield f"{prefix}{name}"
        if not OmegaConf.is_missing(config, name) and OmegaConf.is_dict(config[name]):
            yield from _keys(config[name], f"{prefix}{name}.")


def _unknown_key(key: str) -> ConfigError:
    """Name a key that does not exist, and the one that was probably meant."""
    known = list(_keys(OmegaConf.structured(RunConfig)))
    last = key.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == last]
    near += difflib.get_close_matches(key, known, n=1)
    near += [n for n in known if difflib.get_close_matches(last, [n.rpartition(".")[2]], n=1)]
    meant = f"Did you mean {near[0]}? " if near else ""
    return ConfigError("unknown_key", f"there is no key {key!r}", hint=f"{meant}{_SEE_HELP}")


def _as_refusal(error: Exception) -> ConfigError:
    """Put Hydra's or OmegaConf's message into one line, with the remedy."""
    text = str(error)
    cause = "" if error.__cause__ is None else str(error.__cause__)
    because = (cause or text).strip().splitlines()[0] if (cause or text).strip() else ""
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found[1])
    if found := re.search(r"Could not find '([^']+)/([^']+)'", text):
        group, choice = found.groups()
        options = re.findall(r"^\t([\w-]+)$", text, flags=re.MULTILINE)
        hint = f"Choose from: {', '.join(options)}." if options else _SEE_HELP
        return ConfigError("unknown_choice", f"there is no {group}={choice}", hint=hint)
    if found := re.search(r"Ambiguous value for argument '(.+)'", text):
        key, _, value = found[1].partition("=")
        hint = f"A list takes brackets: '{key}=[{value}]'; one run for each takes --multirun."
        return ConfigError("ambiguous_value", f"{found[1]} has several values", hint=hint)
    if found := re.search(r"Error merging override (.+)", text):
        hint = _SEE_HELP
        if "not a ListConfig" in cause:
            key, _, value = found[1].partition("=")
            because, hint = "it needs a list", f"A list takes brackets: '{key}=[{value}]'."
        return ConfigError("wrong_type", f"{found[1]}: {because}", hint=hint)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            "not_key_value",
            f"{error.override} is not KEY=VALUE" + ("" if "EQUAL" in text else f": {because}"),
            hint=f"Quote brackets and spaces: 'arms=[local,pooled]'. {_SEE_HELP}",
        )
    return ConfigError("configuration", because or type(error).__name__, hint=_SEE_HELP)
