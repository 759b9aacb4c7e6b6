"""Finds mixed-precision mistakes in Python sources, explains them, and mends what is safe to mend.

`source.Source` answers what rules ask of a file; `rule.Rule` is one mistake; `engine` runs them.
Nothing here runs or imports the code that it reads, nor torch.
"""
