"""The researcher: compose a plan, run it federated, local and pooled, compare, plot, report.

The only room that wires everything. What it holds of patients it holds in simulation.
"""
