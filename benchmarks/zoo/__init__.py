"""A zoo of real architectures, trained where a package ships weights, and what they convert to.

`python -m benchmarks.zoo --help` says how to run it; benchmarks/README.md says what it measures.
"""
