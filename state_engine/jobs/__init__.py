"""Jobs: a SQLite store, a worker process, and what starts it."""
