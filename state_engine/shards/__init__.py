"""Long verbs in shards: independent pieces, each computed once into a file of its own, then put together."""
