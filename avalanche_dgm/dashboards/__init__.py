"""What a run looks like, and the places that show it: W&B, TensorBoard, files, a page.

Neither Avalanche nor Lightning is needed here; see `avalanche_dgm.DashboardLogger`,
`avalanche_dgm.WandBLogger` and `avalanche_dgm.lightning.DashboardCallback` for these.
"""
