"""Parts of the page Attention."""
