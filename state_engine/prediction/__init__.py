"""Predictions of the perturbed cells: request, compatibility, draw, forward pass, result file."""
