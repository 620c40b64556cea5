"""Every refusal the toolkit can give, as one tree.

    FedCohortError            exit 1
    |- ConfigError            what the researcher asked for cannot be run
    |- DataError              a table, codebook or cohort breaks a rule
    |- PolicyError            exit 3: a rule refused; nothing was computed or sent
    |  |- BudgetExceededError the epsilon asked for cannot pay for the release
    |  `- DisclosureError     a rule refused what it saw in the records
    `- ProtocolError          exit 4: a message, a peer or a round broke the protocol

Each carries a stable `code` for scripts, the rule in its text and the remedy in `hint`.
No text may hold a patient's value: name the column, the rule and public bounds instead.
"""

from typing import ClassVar

__all__ = [
    "BudgetExceededError",
    "ConfigError",
    "DataError",
    "DisclosureError",
    "FedCohortError",
    "PolicyError",
    "ProtocolError",
]


class FedCohortError(Exception):
    """The root: a rule of ours was broken, and this says which and what to do.

    Args:
        code: Stable snake_case name of the rule; scripts may rely on it.
        text: The thing and the rule, in one sentence, free of patients' values.
        hint: The remedy, in one sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.hint = hint


class ConfigError(FedCohortError):
    """The request cannot be run: an unknown key, a wrong type or an impossible value."""


class DataError(FedCohortError):
    """A table, a codebook or a cohort breaks a rule."""


class PolicyError(FedCohortError):
    """A rule refused before anything was computed or sent."""

    exit_code: ClassVar[int] = 3


class BudgetExceededError(PolicyError):
    """The privacy asked for cannot pay for the release."""


class DisclosureError(PolicyError):
    """A rule refused what it saw in the records: which one it was stays at the site."""


class ProtocolError(FedCohortError):
    """A message, a peer or a round broke the protocol."""

    exit_code: ClassVar[int] = 4
