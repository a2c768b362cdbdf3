"""Parts of the page Embed."""
