"""How the data set and the models of the demo are made."""
