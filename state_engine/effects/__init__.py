"""Effects of perturbations: mean by condition, effect, baseline, clipping, mixture."""
