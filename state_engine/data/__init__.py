"""Reading AnnData files safely and saying what is in them: HDF5, numpy and AnnData; no torch."""
