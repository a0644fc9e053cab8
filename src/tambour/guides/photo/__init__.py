"""The photo's own stitches, laid out on a design."""
