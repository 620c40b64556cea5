"""`python -m fedcohort.fl_client.supernode ARGUMENTS`: Flower's SuperNode, as this release runs it.

Refused: what would weaken it. See `flower_compat.run_supernode` for the three changes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

from ..hosting import follow_parent
from ..privacy.errors import ConfigError

__all__ = ["main"]

_NEVER = ("--insecure", "--allow-runtime-dependency-installation")
_ALWAYS = (
    "--root-certificates",
    "--auth-supernode-private-key",
    "--superexec-auth-secret-file",
)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse a SuperNode without TLS, node key or secret, or one that runs code itself.

    Raises:
        ConfigError: `supernode_weakened`.
    """
    given = [argument.partition("=")[0] for argument in arguments]
    isolated = ("--isolation", "process") in pairwise(arguments)
    missing = [name for name in _ALWAYS if name not in given]
    unwanted = [name for name in _NEVER if name in given]
    if missing or unwanted or not isolated:
        raise ConfigError(
            "supernode_weakened",
            f"the node lacks {missing or 'nothing'} and may not have {unwanted or 'more'}; "
            "it runs with `--isolation process`",
            hint="Start it by `fedcohort site start`.",
        )


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then run the SuperNode."""
    check_arguments(arguments)
    follow_parent()
    from .flower_compat import run_supernode

    run_supernode(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
