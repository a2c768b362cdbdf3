"""Gene sets: read, written, matched to the genes of a data set, tested and scored."""
