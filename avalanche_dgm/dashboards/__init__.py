"""Dashboards of runs, logged to W&B, TensorBoard or files.

Neither Avalanche nor Lightning is needed here; `avalanche_dgm.DashboardLogger`,
`avalanche_dgm.WandBLogger` and `avalanche_dgm.lightning.DashboardCallback` connect to them.
"""
