"""Splits of a training: the plan file, its application to data sets, choices for the page."""
