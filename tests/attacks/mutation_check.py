"""Take the protocol's checks out, one at a time: does a test, named beforehand, notice?

    python tests/attacks/mutation_check.py

Each row of MUTATIONS replaces one piece of the package's source in a copy of it (and of these
tests) and runs one named test there: it must fail. Unchanged, all of them must pass. Exits 1
if any check can be taken out unnoticed. `test_secagg_mutations.py` runs it too, marked slow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("privacy", "tests/attacks", "tests/unit/privacy")
FILES = ("__init__.py", "setup.cfg", "pyproject.toml", "tests/conftest.py")
ATTACKS = "tests/attacks/test_secagg_attacks.py::"
VECTORS = "tests/unit/privacy/secagg/test_secagg_vectors.py::"
ROSTER = "tests/unit/privacy/secagg/test_secagg_roster.py::"


@dataclass(frozen=True)
class Mutation:
    """One check taken out.

    Attributes:
        check: Its number in the protocol, or its name.
        what: What is taken out, for people.
        module: Under privacy/secagg.
        old: Source that stands there exactly once.
        new: What stands there instead.
        test: The test that must fail.
    """

    check: str
    what: str
    module: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation(
        "16",
        "cohort within the epoch, sorted, once each",
        "site",
        "if list(people) != sorted(set(people)) or not set(people) <= set(epoch.accepted):  # 16",
        "if False:",
        ATTACKS + "test_a8_a_cohort_too_small_or_not_of_this_epoch_is_refused",
    ),
    Mutation(
        "16",
        "cohort large enough, with this site",
        "site",
        "if self.position not in people or len(people) < max(MINIMUM_SITES, epoch.threshold):",
        "if False:",
        ATTACKS + "test_a8_a_cohort_too_small_or_not_of_this_epoch_is_refused",
    ),
    Mutation(
        "24",
        "every coordinate is finite",
        "encoding",
        "                raise _not_finite()\n",
        "                pass\n",
        ATTACKS + "test_a19_what_is_not_finite_is_refused",
    ),
    Mutation(
        "24",
        "every coordinate is finite, under noise",
        "encoding",
        "np.rint(np.nan_to_num(values) * self.scale)",
        "np.rint(values * self.scale)",
        ATTACKS + "test_a19_what_is_not_finite_is_held_under_noise_and_never_refused",
    ),
    Mutation(
        "25",
        "every coordinate is within B",
        "encoding",
        "        if not within:",
        "        if False:",
        ATTACKS + "test_a19_what_exceeds_the_plans_bound_is_refused_and_not_clipped",
    ),
    Mutation(
        "30",
        "own report unchanged",
        "site",
        "if message.sender == self.position and message.digest != current.reported:  # 30",
        "if False:",
        ATTACKS + "test_a7_a_site_signs_no_set_in_which_its_own_report_is_another",
    ),
    Mutation(
        "30",
        "own report listed",
        "site",
        "if self.position not in senders:  # 30",
        "if False:",
        ATTACKS + "test_a7_a_site_signs_no_set_that_leaves_it_out",
    ),
    Mutation(
        "34",
        "one survivor set an attempt",
        "site",
        "if current.committed and current.committed != digest:  # 34",
        "if False:",
        ATTACKS + "test_a6_survivors_that_differ_between_sites_open_nothing",
    ),
    Mutation(
        "35",
        "no more drop-outs than the threshold stands",
        "site",
        "if lost > len(plan.participants) - plan.threshold:  # 35",
        "if False:",
        ATTACKS + "test_a15_a_victim_left_alone_by_drop_outs_does_not_sign",
    ),
    Mutation(
        "36",
        "all signatures looked at",
        "site",
        "        self._check_commits(current, commits)  # 36\n",
        "",
        ATTACKS + "test_a6_survivors_that_differ_between_sites_open_nothing",
    ),
    Mutation(
        "36",
        "t signatures",
        "site",
        "if len(signers) < current.plan.threshold:  # 36",
        "if False:",
        ATTACKS + "test_a6_survivors_that_differ_between_sites_open_nothing",
    ),
    Mutation(
        "36",
        "of distinct members",
        "site",
        "if len(signers) < current.plan.threshold:  # 36",
        "if len(commits) < current.plan.threshold:",
        ATTACKS + "test_a6_survivors_that_differ_between_sites_open_nothing",
    ),
    Mutation(
        "36",
        "on the set that this site signed",
        "site",
        "if message.plan != current.digest or message.survivors != current.committed:",
        "if False:",
        ATTACKS + "test_a9_what_was_said_elsewhere_or_before_is_refused",
    ),
    Mutation(
        "38",
        "one kind of share for each",
        "site",
        "            shares.append(\n"
        "                ShareOf(owner=owner, survived=survived, "
        "value=held[owner][1 if survived else 0])\n"
        "            )\n",
        "            for kind in (0, 1):\n"
        "                share_ = ShareOf(owner=owner, survived=bool(kind), "
        "value=held[owner][kind])\n"
        "                shares.append(share_)\n",
        ATTACKS
        + "test_a5_a_site_hands_over_one_kind_of_share_for_each_and_no_list_can_ask_for_more",
    ),
    Mutation(
        "3",
        "signatures of the members' keys",
        "site",
        '            message.verify(self._suite, public, "e1_3_signature")  # 3\n',
        "",
        ATTACKS + "test_a1_substituted_keys_are_refused_before_anything_is_shared",
    ),
    Mutation(
        "17",
        "2t > n + c over all share-holders",
        "site",
        "if not stands(len(self._roster.members), asked.threshold, asked.colluders):",
        "if False:",
        ATTACKS + "test_a6_two_cohorts_on_one_key_with_more_colluders_than_the_epoch_stands",
    ),
    Mutation(
        "2t > n + c",
        "in the threshold itself",
        "roster",
        "return colluders >= 0 and 2 * threshold > sites + colluders and threshold",
        "return colluders >= 0 and threshold",
        ROSTER + "test_no_two_survivor_sets_can_both_be_opened",
    ),
    Mutation(
        "29",
        "the key is marked as used",
        "site",
        "        self._store.use(epoch.number, plan.key)  # 29\n",
        "",
        ATTACKS + "test_a21_a_restored_backup_cannot_mask_again",
    ),
    Mutation(
        "H",
        "the plan salts every pair's seed",
        "masking",
        "suite.derive(agree(public), salt=plan, info=info)",
        "suite.derive(agree(public), salt=bytes(32), info=info)",
        VECTORS + "test_the_epoch_of_the_file_is_reproduced_byte_for_byte",
    ),
)


def copy_to(folder: Path) -> Path:
    """Copy what the tests need of the package into `folder`/fedcohort."""
    package = folder / "fedcohort"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in COPIED:
        shutil.copytree(ROOT / name, package / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, package / name)
    return package


def outcome(package: Path, tests: list[str]) -> int:
    """Pytest's exit code for these tests of a copy: 0 passed, 1 failed, more: not run.

    A control that finds nothing to weaken in the mutated source is no failure of the test's.
    """
    environment = dict(os.environ) | {
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, check=False)
    return 5 if b"AssertionError: " + b"site.py holds" in done.stdout else done.returncode


def noticed(mutation: Mutation) -> bool:
    """Whether the named test fails once the check is taken out."""
    with tempfile.TemporaryDirectory() as folder:
        package = copy_to(Path(folder))
        path = package / "privacy/secagg" / f"{mutation.module}.py"
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise ValueError(f"{mutation.module}.py holds {mutation.old!r} not exactly once")
        path.write_text(text.replace(mutation.old, mutation.new))
        return outcome(package, [mutation.test]) == 1


def passes_unchanged() -> bool:
    """Whether all named tests pass on an unchanged copy."""
    with tempfile.TemporaryDirectory() as folder:
        tests = sorted({mutation.test for mutation in MUTATIONS})
        return outcome(copy_to(Path(folder)), tests) == 0


def table() -> tuple[str, bool]:
    """Return the table, and whether every removal was noticed."""
    rows = [("unchanged", "", "passes" if passes_unchanged() else "FAILS", "")]
    for mutation in MUTATIONS:
        result = "red" if noticed(mutation) else "NOT NOTICED"
        rows.append((mutation.check, mutation.what, result, mutation.test.rpartition("::")[2]))
    lines = [f"{check:<11} {what:<46} {result:<12} {test}" for check, what, result, test in rows]
    good = all(result in {"passes", "red"} for _, _, result, _ in rows)
    return "\n".join(lines), good


if __name__ == "__main__":
    printed, good = table()
    sys.stdout.write(printed + "\n")
    sys.exit(0 if good else 1)
