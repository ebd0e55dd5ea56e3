"""Pure functions on one block of NumPy: no dask, no zarr, no paths."""
