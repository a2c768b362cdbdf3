"""Parts of the page Genes."""
