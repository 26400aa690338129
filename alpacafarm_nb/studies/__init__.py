"""The whole loop as a pipeline, and the studies over seeds that are made of it."""
