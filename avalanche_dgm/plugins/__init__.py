"""Avalanche strategy plugins, ready strategies, metrics and checkpoints.

The only folder that imports Avalanche's strategy code.
"""
