"""Conformance: every model of ONNX's own test suite, and trained ones, converted and judged."""
