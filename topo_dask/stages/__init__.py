"""One module a pass over the blocks: read, kernel, write; `job`, `search` and `seeds` are what passes share."""
