"""The one sampling engine: conditions, sampler, windows, batches, scores."""
