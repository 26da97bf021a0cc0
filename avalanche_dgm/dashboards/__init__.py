"""Dashboards of runs, logged to W&B, TensorBoard or files.

This folder needs neither Avalanche nor Lightning; `avalanche_dgm.DashboardLogger`,
`avalanche_dgm.WandBLogger` and `avalanche_dgm.lightning.DashboardCallback` connect to them.
"""
