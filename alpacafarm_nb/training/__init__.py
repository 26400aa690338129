"""The training loop that every method uses: batches, history, checkpoints."""
