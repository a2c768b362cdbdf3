"""The metrics engine that challenge and evaluation share."""
