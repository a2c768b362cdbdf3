"""Search for similar cells by their embeddings."""
