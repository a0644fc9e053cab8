"""The benchmark: frozen cases with a known truth, metrics, every method behind one signature, a report."""
