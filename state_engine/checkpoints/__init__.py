"""The only door for foreign files: everything that reads or writes model files lives here."""
