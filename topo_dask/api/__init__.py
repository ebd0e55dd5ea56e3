"""The public functions: NumPy in, NumPy out; dask or zarr arrays in, lazy dask arrays out."""
