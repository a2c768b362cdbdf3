"""Parts of the page Pretrain."""
