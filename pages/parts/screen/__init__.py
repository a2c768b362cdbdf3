"""Parts of the page Screen."""
