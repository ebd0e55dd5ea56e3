"""One module a pass over the blocks: read, kernel, write."""
