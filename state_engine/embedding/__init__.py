"""The verbs of State Embedding models: embed, decode, gene attention."""
