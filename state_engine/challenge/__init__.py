"""Virtual Cell Challenge submissions."""
