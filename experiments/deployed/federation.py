"""The federation of a deployed study: its coordinator's folder, its roster, the hospitals asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...fl_server.coordinator_setup import CoordinatorSetup, read_coordinator
from ...fl_server.deployed import enrolled
from ...hosting import read_private
from ...privacy.errors import ConfigError
from ...privacy.secagg.roster import Roster, threshold_for
from ...privacy.secagg.roster_file import signed_roster_from_json
from ...study.plan import Plan
from ..settings import Settings
from .asked import DeployedSettings

__all__ = ["Federation", "federation_of"]

_NO_ROSTER = "none"  # what a plan in plain names where nobody signed one yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Who runs a study.

    Attributes:
        setup: The coordinator.
        roster: The roster in force; None where there is none, for plans in plain.
        sites: The hospitals asked, sorted.
        settings: The study's, with the roster's number of colluders.
    """

    setup: CoordinatorSetup
    roster: Roster | None
    sites: tuple[str, ...]
    settings: Settings

    @property
    def roster_sha256(self) -> str:
        """Hash of the roster in force, hex."""
        return _NO_ROSTER if self.roster is None else self.roster.sha256.hex()

    def check(self, plan: Plan) -> None:
        """Refuse masks that could not be opened: their threshold counts every member.

        Raises:
            ConfigError: `roster_too_few_sites`.
        """
        if plan.secagg != "masked" or self.roster is None:
            return
        members = len(self.roster.members)
        fewest = threshold_for(members, self.roster.colluders)
        if plan.fewest_sites < fewest:
            raise ConfigError(
                "roster_too_few_sites",
                f"masks of a roster of {members} open with {fewest} sites or more; the plan opens "
                f"sums of {plan.fewest_sites} of {len(plan.sites)}",
                hint="Ask more of its members, raise secagg.min_survivors, or let the hospitals "
                "of the study sign a roster of their own.",
            )


def federation_of(settings: Settings, asked: DeployedSettings) -> Federation:
    """Read a coordinator's folder.

    Raises:
        ConfigError: `no_roster`, `site_not_in_roster`, or `roster_colluders`: a roster
            says it for its members.
        PolicyError: The folder's files are missing or open to others.
    """
    setup = read_coordinator(asked.coordinator)
    roster = None
    if setup.roster.exists():
        roster = signed_roster_from_json(read_private(setup.roster).decode()).roster
    masked = settings.secagg.mode == "masked"
    if masked and roster is None:
        raise ConfigError(
            "no_roster",
            "no roster is in force at this coordinator, and masks need one",
            hint="Sites sign one first: fedcohort coordinator enrol REQUEST.",
        )
    known = sorted(enrolled(setup))
    if roster is not None:
        known = [member.name for member in roster.members]
    sites = tuple(known) if asked.sites is None else asked.sites
    strangers = sorted(set(sites) - set(known))
    if strangers or not sites:
        raise ConfigError(
            "site_not_in_roster",
            f"not in the federation: {', '.join(strangers) or 'anybody'}; there is "
            f"{', '.join(known) or 'nobody'}",
            hint="Name members in runtime.sites=[...], or leave it out for all of them.",
        )
    if masked and roster is not None:
        settings = _under(settings, asked, roster)
    return Federation(setup=setup, roster=roster, sites=sites, settings=settings)


def _under(settings: Settings, asked: DeployedSettings, roster: Roster) -> Settings:
    """Return the settings with the roster's number of colluders, which its members signed."""
    if asked.colluders not in (None, roster.colluders):
        raise ConfigError(
            "roster_colluders",
            f"secagg.colluders: the roster in force says {roster.colluders}, not {asked.colluders}",
            hint="Leave it out; or let the members sign a roster with another number.",
        )
    return replace(settings, secagg=replace(settings.secagg, colluders=roster.colluders))
