"""What every test stands on: the right import path, a quiet Flower, no network, no luck.

`tests/` has no `__init__.py`: under pytest's importlib mode test modules cannot import each
other, so what they share is a fixture, here or in the `conftest.py` of a folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything imports Flower, which reads them once.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
# Drawn to files, never to a screen.
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER_MARKERS = {"attacks": "attack", "pages": "browser"}

# `python -m pytest` puts the root on the path, where our `datasets` and `privacy` would pass
# for top-level packages and hide those of others.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# The same examples on every run; how long one takes says nothing on a shared machine.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci")


def _stay_on_this_machine(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse a connection of this process to any other machine."""
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and not str(address[0]).startswith(
        ("127.", "::1", "::ffff:127.", "localhost")
    ):
        raise RuntimeError(f"a test tried to reach {address[0]}: tests stay on this machine")


sys.addaudithook(_stay_on_this_machine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of tests/attacks `attack` and those of tests/pages `browser`."""
    for item in items:
        folders = item.path.relative_to(ROOT).parts
        for folder, marker in FOLDER_MARKERS.items():
            if folder in folders:
                item.add_marker(marker)


@pytest.fixture(scope="session")
def calls_in() -> Callable[[Callable[[], object]], int]:
    """Count the calls that an act makes: a measure of its work that no other process changes.

    One long call of C counts as one: what is handed to it is for the test to bound.
    """

    def count(act: Callable[[], object]) -> int:
        calls = 0

        def seen(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(seen)
        try:
            act()
        finally:
            sys.setprofile(before)
        return calls

    return count


class MadeLedger:
    """A ledger's chain, made in memory by its own rules; its clock moves a second an entry."""

    def __init__(self, hospital: str = "St. Mary's", **changes: Any) -> None:
        from fedcohort.privacy.budget import Budget
        from fedcohort.privacy.ledger.chain import Chain
        from fedcohort.privacy.ledger.charges import Opening

        facts: dict[str, Any] = {
            "population": "admissions 2019-2025",
            "kind": "site",
            "budget": Budget(epsilon=3.0, delta=1e-5),
            "unnoised": False,
        }
        self.chain = Chain()
        self.entries: list[Any] = []
        self._add("open", Opening(hospital=hospital, **(facts | changes)).to_json())

    def plan(
        self,
        study: str,
        z: float | None = 25.0,
        *,
        planned: int = 10,
        made: int = 10,
        closed: bool = True,
        unmasked: bool = False,
        q: float = 1.0,
        **changes: Any,
    ) -> MadeLedger:
        """Reserve a plan of so many noisy sums (without noise: vectors), and make some of them.

        Args:
            study: Its name.
            z: Noise multiplier; None: no noise.
            planned: Sums that are set aside.
            made: Sums that are paid.
            closed: Whether it has ended.
            unmasked: Whether each sum was opened with this hospital's help.
            q: Sampling probability.
            changes: Other fields of the reservation.
        """
        from fedcohort.privacy.ledger.charges import Charge, Reservation
        from fedcohort.privacy.mechanism import Mechanism

        noise = None if z is None else Mechanism(noise_multiplier=z, sampling_probability=q)
        facts: dict[str, Any] = {
            "plan_sha256": hashlib.sha256(f"{study}{len(self.entries)}".encode()).hexdigest(),
            "study": study,
            "purpose": f"why {study}",
            "analysis": "descent",
            "rounds": planned,
            "releases": 0 if noise is None else planned,
            "mechanism": noise,
            "clip": None if noise is None else 1.5,
            "sharing": None if noise is None else "sum" if q == 1 else "local",
            "min_survivors": 4,
            "colluders": 1,
        }
        asked = Reservation(**(facts | changes))
        if not self._ask("reserve", asked.to_json()):
            return self
        for number in range(made):
            charge = Charge(
                plan_sha256=asked.plan_sha256,
                round=number,
                releases=0 if noise is None else 1,
                mechanism=noise,
            )
            self._ask("charge", charge.to_json())
            if unmasked:
                self._ask("unmask", {"plan_sha256": asked.plan_sha256, "round": number})
        if closed:
            self._add("close", {"plan_sha256": asked.plan_sha256})
        return self

    def _ask(self, kind: str, body: dict[str, Any]) -> bool:
        from fedcohort.privacy.errors import PolicyError

        try:
            self._add(kind, body)
        except PolicyError as refusal:
            self._add("refuse", {"asked": kind, "code": refusal.code, "request": body})
            return False
        return True

    def _add(self, kind: str, body: dict[str, Any]) -> None:
        time = f"2026-03-01T08:{len(self.entries) // 60:02}:{len(self.entries) % 60:02}.000+00:00"
        entry = self.chain.add(kind, body, time)
        if entry is not None:
            self.entries.append(entry)


@pytest.fixture(scope="session")
def made_ledger() -> type[MadeLedger]:
    """Make ledgers: `made_ledger("a hospital").plan("a study", 25.0, made=3).entries`."""
    return MadeLedger


class MadeHospital:
    """A hospital as its two people leave it: a signed policy, an extract, an open ledger.

    Args:
        root: Its folder; must not exist.
        invitation: From a coordinator.
        changes: (old, new) in the text of the policy, before it is signed.
    """

    PEOPLE = ("zhang.w", "li.m")

    def __init__(self, root: Path, invitation: Any, *changes: tuple[str, str]) -> None:
        import datetime as dt

        from fedcohort.datasets.one_hospital import write_extract
        from fedcohort.fl_client.joining import join
        from fedcohort.fl_client.site_folder import create_approver_key, init
        from fedcohort.privacy.budget import Budget
        from fedcohort.privacy.ledger.charges import Opening
        from fedcohort.privacy.ledger.store import SqliteLedger

        self.site = invitation.site
        self.keys = {name: root.with_name(f"{root.name}-{name}.pem") for name in self.PEOPLE}
        owner, officer = ((name, create_approver_key(path)) for name, path in self.keys.items())
        made = init(root, self.site, approvers=(owner, officer), invitation=invitation)
        self.folder = made.folder
        self.request = join(invitation, self.folder, today=dt.datetime.now(dt.UTC).date())
        write_extract("heart-disease", self.site, root / "data")
        self.folder.mapping.write_text(self.MAPPING, encoding="utf-8")
        self.edit_policy(*self.POLICY, *changes)
        self.sign()
        opening = Opening(
            hospital=self.site,
            population=self.site,
            kind="site",
            budget=Budget(epsilon=8.0, delta=1e-3),
            unnoised=True,
        )
        SqliteLedger.create(root / "ledger.sqlite", opening).dispose()

    MAPPING = """\
schema: fedcohort.mapping/1
table: data/extract.csv
codebook: data/codebook.yaml
patient: patient_id
outcome: disease
features: [age, sex, trestbps, chol, thalach, oldpeak, fbs, exang, cp, restecg]
"""
    POLICY = (
        ("mode: dry_run  ", "mode: enforce  "),
        ("columns: {}  ", "columns: {age: 2, sex: 2, trestbps: 3, chol: 3, thalach: 3, "
         "oldpeak: 3, fbs: 3, exang: 3, cp: 3, restecg: 3, disease: 3}  "),
        ('expires: "2000-01-01"', 'expires: "2099-12-31"'),
        ("purposes: []  ", "purposes: any  "),
        ("allow: []  ", "allow: [gradient, newton, newton_gram, whitened, counts]  "),
        ("unnoised: []  ", "unnoised: [gradient, newton]  "),
        ("delta_max: 1e-6  ", "delta_max: 1e-3  "),
        ("min_cohort: 50  ", "min_cohort: 20  "),
        ("min_cohort_training: 200  ", "min_cohort_training: 20  "),
        ("min_class_count: 10  ", "min_class_count: 3  "),
        ("max_params_ratio: 0.10  ", "max_params_ratio: 0.33  "),
        ("max_requests_per_day: 200  ", "max_requests_per_day: 5000  "),
    )  # fmt: skip

    def edit_policy(self, *changes: tuple[str, str]) -> None:
        text = self.folder.policy.read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the policy"
            text = text.replace(old, new)
        self.folder.policy.write_text(text, encoding="utf-8")

    def sign(self, *names: str) -> None:
        from fedcohort.fl_client.governance.policy import Policy
        from fedcohort.fl_client.governance.signatures import pin, sign_policy
        from fedcohort.privacy.secagg.identity import load_identity

        policy = Policy.read(self.folder.policy)
        for name in names or self.PEOPLE:
            sign_policy(policy, name, load_identity(self.keys[name]), self.folder.signatures)
        if not names:
            pin(policy, self.folder.signatures, self.folder.approvers)

    def approve(self, plan: Any, *names: str) -> None:
        import datetime as dt

        from fedcohort.fl_client.governance.approvals import Approvals
        from fedcohort.fl_client.governance.audit_log import AuditLog
        from fedcohort.fl_client.site_data import SiteData
        from fedcohort.fl_client.site_gate import in_force
        from fedcohort.privacy.secagg.identity import load_identity

        policy, audit = in_force(self.folder), AuditLog(self.folder.audit)
        approvals = Approvals(self.folder.approvals, policy, audit=audit)
        fingerprint = SiteData.read(self.folder.root, self.site).fingerprint
        today = dt.datetime.now(dt.UTC).date()
        for name in names or self.PEOPLE:
            key = load_identity(self.keys[name])
            approvals.approve(plan, fingerprint, name, key, today=today)


@pytest.fixture(scope="session")
def made_hospital() -> type[MadeHospital]:
    """Make hospitals: `made_hospital(tmp_path / "h", invitation)`."""
    return MadeHospital


@pytest.fixture(scope="session")
def a_coordinator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a coordinator that nothing runs from."""
    from fedcohort.fl_server.coordinator_folder import init_coordinator
    from fedcohort.fl_server.coordinator_setup import CoordinatorSetup

    setup = CoordinatorSetup(
        folder=tmp_path_factory.mktemp("coordinator") / "c",
        federation="test",
        names=("127.0.0.1",),
        jurisdiction="CN",
        public_host="127.0.0.1",
        public_port=9092,
        loopback_port=9093,
    )
    init_coordinator(setup)
    return setup


@pytest.fixture(scope="session")
def made_once(a_coordinator: Any, tmp_path_factory: pytest.TempPathFactory) -> MadeHospital:
    """A hospital that also sums two sites in plain; each test works on a copy of its folder."""
    import datetime as dt

    from fedcohort.fl_server.enrolment import invite

    root = tmp_path_factory.mktemp("made") / "cleveland"
    loose = (("secagg: required", "secagg: optional"), ("min_sites: 3", "min_sites: 2"))
    today = dt.datetime.now(dt.UTC).date()
    return MadeHospital(root, invite(a_coordinator, "cleveland", today=today), *loose)


class Disk:
    """A folder of which a power cut leaves what was synced, and drops everything else.

    A file's content is on disk when the file was synced; that it came, went or has another name,
    when its folder was. SQLite syncs by itself and unseen: its files are named in `trusts`.

    Args:
        root: What is in it now is on disk.
        trusts: Names of files that are taken as they are.
    """

    def __init__(self, root: Path, trusts: tuple[str, ...] = ()) -> None:
        self._root = root
        self._trusts = trusts
        self._names: dict[int, dict[str, int]] = {}  # by folder; names and inodes by number
        self._contents: dict[int, bytes] = {}
        self._held: list[int] = []  # as long as a file is open, no other gets its number
        self._sync = os.fsync
        for path in (root, *root.rglob("*")):
            handle = os.open(path, os.O_RDONLY)
            self._note(handle)
            os.close(handle)

    def fsync(self, handle: int) -> None:
        """Stands for `os.fsync`."""
        self._sync(handle)
        self._note(handle)

    def cut(self, into: Path, *, lucky: bool = False) -> Path:
        """Return a copy of the folder as it is found after the power is back.

        Args:
            into: Where to make it; must not exist.
            lucky: New names are found although their folder was not synced, as often happens.
                Content that was not synced is gone in any case.
        """
        self._restore(self._root, into, lucky=lucky)
        return into

    def cuts(self, into: Path) -> list[Path]:
        """Return the folder after either kind of power cut."""
        return [self.cut(into / name, lucky=name == "lucky") for name in ("strict", "lucky")]

    def release(self) -> None:
        for handle in self._held:
            os.close(handle)

    def _note(self, handle: int) -> None:
        found = os.fstat(handle)
        self._held.append(os.dup(handle))
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(handle) as entries:
                self._names[found.st_ino] = {entry.name: entry.inode() for entry in entries}
        else:
            self._contents[found.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()

    def _restore(self, live: Path, into: Path, *, lucky: bool) -> None:
        into.mkdir(mode=0o700, parents=True)
        names = self._names.get(live.stat().st_ino, {}) if live.is_dir() else {}
        if lucky and live.is_dir():
            names = {path.name: path.lstat().st_ino for path in live.iterdir()}
        for name, inode in names.items():
            here = live / name
            if inode in self._names or here.is_dir():
                self._restore(here, into / name, lucky=lucky)
                continue
            content = self._contents.get(inode, b"")
            if name.startswith(self._trusts) and here.exists():
                content = here.read_bytes()
            (into / name).write_bytes(content)
            (into / name).chmod(0o600)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Disk]]:
    """Watch a folder from now on: `disk(tmp_path / "site").cut(tmp_path / "after")`."""
    made: list[Disk] = []

    def watch(root: Path, trusts: tuple[str, ...] = ()) -> Disk:
        assert not made, "one folder a test"
        made.append(Disk(root, trusts))
        monkeypatch.setattr(os, "fsync", made[0].fsync)
        return made[0]

    yield watch
    for watched in made:
        watched.release()
