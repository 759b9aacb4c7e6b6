"""How large a model may be: processor time and memory of each command on very deep models."""
