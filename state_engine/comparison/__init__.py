"""Two answers beside each other: runs, models, perturbations, contexts, seeds, a prediction and a measurement, or a file of another program."""
