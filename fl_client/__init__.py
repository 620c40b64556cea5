"""The hospital: a Flower ClientApp, the checks before any work, and the one door.

Everything is decided in `node`; `app` only translates messages; `door` is the only code from
which bytes of a cohort can leave.
"""
