"""Time and memory of a conversion against the model's size: ampconvert's and the peers'."""
