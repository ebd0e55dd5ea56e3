"""All input and output: volumes, scratch, and the record of what is done."""
