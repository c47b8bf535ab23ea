"""Datasets: one HDF5 format, its readers, generators, and pictures and summaries of a file."""
