"""Measurements: the model zoo, the peers on the same files, and the results they gave."""
