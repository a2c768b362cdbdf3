"""Parts of the page Submit."""
