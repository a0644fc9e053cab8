"""Words -> a flat design."""
