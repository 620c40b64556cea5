"""The contract both sides read: the plan, the cohort, the analyses it may name, the models.

Nothing here opens a file or a socket, so that a hospital and a coordinator run the same pure
functions: a site half (cohort to bounded sum) and a coordinator half (sum to next state).
"""
