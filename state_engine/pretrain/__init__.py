"""Pretraining of State Embedding models: many data sets as one stream of cells, the objective, and what came out."""
