"""What is known of the values in a model: seen on data (`calibrate`)."""
