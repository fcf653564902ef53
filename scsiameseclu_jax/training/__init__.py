"""One fit on the host: stages, mini-batches, device arrays, memory, progress."""
