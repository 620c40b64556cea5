"""The secure sum: fixed-point integers that wrap around, and how sites' integers are added.

`encoding` proves that no sum can overflow; `plain` adds without masks and says so in its
name. The masks of the secure-aggregation protocol go over these same integers.
"""
