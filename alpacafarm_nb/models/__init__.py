"""One frozen base in memory and many adapters on it: loading, reading, sampling, saving."""
