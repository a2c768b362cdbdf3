"""Scores beside baselines."""
