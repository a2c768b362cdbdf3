"""Bytes on disk: kinds of file, safety, HDF5, matrices, columns, writers. No meaning."""
