"""Model files of arc-state: reading, writing, names of weights. The one place where pickles are read."""
