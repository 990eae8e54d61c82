"""Plots: loss curves and contact sheets."""
