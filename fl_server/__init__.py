"""The coordinator: a Flower ServerApp that runs one plan, sum by sum.

It has no code path to records: it sees integers that sites release, adds them, and hands the
decoded sum to the coordinator half of the analysis.
"""
