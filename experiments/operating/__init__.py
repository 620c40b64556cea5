"""Commands of those who run nodes: the hospital's `fedcohort site`, the `fedcohort coordinator`."""
