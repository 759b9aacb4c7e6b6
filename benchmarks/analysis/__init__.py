"""What ampconvert says of a model before it runs, held against measurements."""
