"""Which subgroups there are is a fact of the table's columns, not of who has a label."""

import pandas as pd

from fedcohort.datasets.groups import find_groups


def test_a_group_that_nobody_has_a_label_of_is_there_all_the_same() -> None:
    """Under noise a missing group would be refused, and one patient with a label would tell."""
    nobody = pd.DataFrame({"sex": ["?", "?"], "age": ["", "x"]}, dtype="str")
    somebody = pd.DataFrame({"sex": ["?", "female"], "age": ["", "61"]}, dtype="str")
    assert set(find_groups(nobody, None)) == set(find_groups(somebody, None))
