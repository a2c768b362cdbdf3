"""Screens: every perturbation of a model in some contexts as one job, ranked by a goal, with p and q from control cells."""
