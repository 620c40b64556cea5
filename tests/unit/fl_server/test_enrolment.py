"""Who joins: one invitation, one use; who is in a sum: only a roster that its members signed."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fedcohort.fl_client.joining import join, sign_roster
from fedcohort.fl_client.site import pin_roster
from fedcohort.fl_client.site_folder import SiteFolder, init
from fedcohort.fl_server import enrolment
from fedcohort.fl_server.coordinator_folder import init_coordinator
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup, read_coordinator
from fedcohort.fl_server.deployed import enrolled
from fedcohort.fl_server.enrolment import add_signature, draft_roster, enrol, invite, revoke
from fedcohort.fl_server.flower_compat import LinkGoneError
from fedcohort.privacy.errors import ConfigError, FedCohortError, PolicyError, ProtocolError
from fedcohort.privacy.secagg.roster_file import signed_roster_to_json
from fedcohort.study.enrolment import Invitation, JoinRequest, check_site_name

TODAY = dt.date(2030, 1, 15)
SITES = ("east", "north", "west")


class FakeControl:
    """The SuperLink's Control API, without a SuperLink."""

    registered: list[str] = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, address: str, ca: bytes, password: str) -> None:
        assert address.startswith("127.0.0.1:")
        assert b"CERTIFICATE" in ca
        assert len(password) == 64

    def register(self, public_pem: bytes, name: str) -> int:
        assert public_pem.startswith(b"-----BEGIN PUBLIC KEY-----")
        self.registered.append(name)
        return 2**63 + len(self.registered)

    def unregister(self, node_id: int) -> None:
        assert node_id > 2**63

    def close(self) -> None:
        pass


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CoordinatorSetup:
    FakeControl.registered = []
    monkeypatch.setattr(enrolment, "Control", FakeControl)
    setup = CoordinatorSetup(
        folder=tmp_path / "coordinator",
        federation="heart",
        names=("coordinator.example",),
        public_host="127.0.0.1",
        public_port=8443,
        loopback_port=8444,
        jurisdiction="DE",
    )
    init_coordinator(setup)
    return setup


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], SiteFolder]:
    def made(name: str) -> SiteFolder:
        root = tmp_path / name
        return SiteFolder(root) if root.exists() else init(root, name).folder

    return made


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as refused:
        call()
    return refused.value.code


def joined(
    coordinator: CoordinatorSetup, site: Callable[[str], SiteFolder], name: str
) -> JoinRequest:
    invitation = Invitation.from_json(invite(coordinator, name, today=TODAY).to_json())
    return JoinRequest.from_json(join(invitation, site(name), today=TODAY).to_json())


def test_a_coordinators_folder_is_read_back(coordinator: CoordinatorSetup) -> None:
    assert read_coordinator(coordinator.folder) == coordinator
    modes = {p.stat().st_mode & 0o077 for p in coordinator.folder.rglob("*")}
    assert modes == {0}
    assert code_of(lambda: init_coordinator(coordinator)) == "file_exists"


def test_an_invitation_works_once(
    coordinator: CoordinatorSetup, site: Callable[[str], SiteFolder]
) -> None:
    request = joined(coordinator, site, "north")
    number = enrol(coordinator, request, today=TODAY)
    assert enrolled(coordinator) == {"north": number}
    assert code_of(lambda: enrol(coordinator, request, today=TODAY)) == "invitation_unknown"
    assert FakeControl.registered == ["north"]


def test_enrolling_goes_on_where_a_superlink_was_away(
    coordinator: CoordinatorSetup,
    site: Callable[[str], SiteFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = joined(coordinator, site, "north")

    def away(self: FakeControl, public_pem: bytes, name: str) -> int:
        raise LinkGoneError("ConnectError")

    with monkeypatch.context() as patch:
        patch.setattr(FakeControl, "register", away)
        assert code_of(lambda: enrol(coordinator, request, today=TODAY)) == "superlink_gone"
    assert enrol(coordinator, request, today=TODAY) in enrolled(coordinator).values()


def test_its_token_is_kept_nowhere_at_the_coordinator(coordinator: CoordinatorSetup) -> None:
    invitation = invite(coordinator, "north", today=TODAY)
    kept = [p.read_bytes() for p in coordinator.folder.rglob("*") if p.is_file()]
    assert not any(invitation.token.encode() in content for content in kept)


def test_it_says_where_the_coordinator_is(coordinator: CoordinatorSetup) -> None:
    assert invite(coordinator, "north", today=TODAY).jurisdiction == "DE"
    other = invite(coordinator, "north", superlink="[::1]:8443", today=TODAY)
    assert Invitation.from_json(other.to_json()) == other


def test_it_ends(coordinator: CoordinatorSetup, site: Callable[[str], SiteFolder]) -> None:
    invitation = invite(coordinator, "north", today=TODAY)
    late = TODAY + dt.timedelta(days=15)
    assert code_of(lambda: join(invitation, site("north"), today=late)) == "invitation_expired"
    request = join(invitation, site("north"), today=TODAY)
    assert code_of(lambda: enrol(coordinator, request, today=late)) == "invitation_expired"
    assert not enrolled(coordinator)


def test_a_request_serves_nobody_else(
    coordinator: CoordinatorSetup, site: Callable[[str], SiteFolder]
) -> None:
    north, west = (joined(coordinator, site, name) for name in ("north", "west"))
    stolen = replace(west, token=north.token)
    assert code_of(lambda: enrol(coordinator, stolen, today=TODAY)) == "join_signature"
    renamed = replace(north, site="west")
    assert code_of(lambda: enrol(coordinator, renamed, today=TODAY)) == "join_signature"
    other_key = replace(north, identity=west.identity)
    assert code_of(lambda: enrol(coordinator, other_key, today=TODAY)) == "join_signature"
    assert FakeControl.registered == []


def test_a_site_of_another_release_does_not_join(
    coordinator: CoordinatorSetup, site: Callable[[str], SiteFolder]
) -> None:
    invitation = replace(invite(coordinator, "north", today=TODAY), bundle="0" * 64)
    assert code_of(lambda: join(invitation, site("north"), today=TODAY)) == "release_differs"
    assert not site("north").ca.exists()


def test_a_site_that_is_revoked_is_out_and_may_be_invited_again(
    coordinator: CoordinatorSetup, site: Callable[[str], SiteFolder]
) -> None:
    enrol(coordinator, joined(coordinator, site, "north"), today=TODAY)
    assert code_of(lambda: invite(coordinator, "north", today=TODAY)) == "site_enrolled"
    revoke(coordinator, "north")
    assert enrolled(coordinator) == {}
    invite(coordinator, "north", today=TODAY)
    assert code_of(lambda: revoke(coordinator, "north")) == "site_not_enrolled"


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "-a", "a-", "n\u043erth", "a\u202eb", "a b", "x" * 65, "北"]
)
def test_a_name_that_fools_people_or_files_is_refused(name: str) -> None:
    with pytest.raises(PolicyError) as refused:
        check_site_name(name)
    assert refused.value.code == "site_name"


def test_a_file_that_is_none_of_ours_is_refused(coordinator: CoordinatorSetup) -> None:
    good = json.loads(invite(coordinator, "north", today=TODAY).to_json())
    for bad in (
        "",
        "[]",
        "{}",
        "[" * 9999,
        json.dumps(good | {"x": ""}),
        json.dumps(good | {"token": 1}),
        json.dumps(good | {"format": "other"}),
        json.dumps(good | {"token": "ab"}),
        json.dumps(good | {"bundle": "A" * 64}),
        json.dumps(good | {"expires": "soon"}),
        json.dumps(good | {"superlink": "https://coordinator.example/x"}),
        json.dumps(good | {"jurisdiction": "Germany"}),
        json.dumps(good | {"federation": "heart\u202e"}),
        json.dumps(good | {"ca": "x"}),
        json.dumps(good)[:-1] + f', "site": "{good["site"]}"}}',
    ):
        assert code_of(partial(Invitation.from_json, bad)) == "invitation_unreadable"
    assert code_of(lambda: JoinRequest.from_json(json.dumps(good))) == "join_unreadable"


class TestARoster:
    """Drafted by the coordinator, signed by its members, checked by each of them."""

    @pytest.fixture
    def sites(
        self, coordinator: CoordinatorSetup, site: Callable[[str], SiteFolder]
    ) -> dict[str, SiteFolder]:
        for name in SITES:
            enrol(coordinator, joined(coordinator, site, name), today=TODAY)
        return {name: site(name) for name in SITES}

    def test_it_is_in_force_when_every_member_signed_it(
        self, coordinator: CoordinatorSetup, sites: dict[str, SiteFolder]
    ) -> None:
        draft = signed_roster_to_json(draft_roster(coordinator, today=TODAY))
        done = [
            add_signature(coordinator, sign_roster(folder, name, draft), today=TODAY)
            for name, folder in sites.items()
        ]
        assert done == [False, False, True]
        text = coordinator.roster.read_text(encoding="utf-8")
        pinned = {
            pin_roster(folder, name, text, today=TODAY).sha256 for name, folder in sites.items()
        }
        assert len(pinned) == 1

    def test_a_site_pins_none_that_a_member_did_not_sign(
        self, coordinator: CoordinatorSetup, sites: dict[str, SiteFolder]
    ) -> None:
        draft = signed_roster_to_json(draft_roster(coordinator, today=TODAY))
        signed = sign_roster(sites["north"], "north", draft)
        assert (
            code_of(lambda: pin_roster(sites["north"], "north", signed, today=TODAY))
            == "r_1_quorum"
        )
        assert not sites["north"].roster.exists()

    def test_a_site_signs_none_with_another_key_or_coordinator(
        self, coordinator: CoordinatorSetup, sites: dict[str, SiteFolder]
    ) -> None:
        draft = draft_roster(coordinator, today=TODAY)
        members = [
            replace(m, public=bytes([9]) * 32) if m.name == "north" else m
            for m in draft.roster.members
        ]
        for roster, code in (
            (replace(draft.roster, members=tuple(members)), "r_3_own_key"),
            (replace(draft.roster, coordinator=bytes([8]) * 32), "r_3_coordinator"),
        ):
            text = signed_roster_to_json(replace(draft, roster=roster))
            assert code_of(partial(sign_roster, sites["north"], "north", text)) == code

    def test_what_people_read_is_what_was_signed(
        self, coordinator: CoordinatorSetup, sites: dict[str, SiteFolder]
    ) -> None:
        shown = json.loads(signed_roster_to_json(draft_roster(coordinator, today=TODAY)))
        shown["roster"]["colluders"] = 0
        text = json.dumps(shown)
        assert code_of(lambda: sign_roster(sites["north"], "north", text)) == "roster_unreadable"

    def test_a_signature_under_another_roster_does_not_count(
        self, coordinator: CoordinatorSetup, sites: dict[str, SiteFolder]
    ) -> None:
        old = signed_roster_to_json(draft_roster(coordinator, today=TODAY, days=10))
        signed = sign_roster(sites["north"], "north", old)
        draft_roster(coordinator, today=TODAY)
        with pytest.raises(ProtocolError) as refused:
            add_signature(coordinator, signed, today=TODAY)
        assert refused.value.code == "roster_other"

    def test_there_is_none_to_sign_before_it_is_drafted(
        self, coordinator: CoordinatorSetup
    ) -> None:
        with pytest.raises(ConfigError) as refused:
            add_signature(coordinator, "{}", today=TODAY)
        assert refused.value.code == "no_roster"
