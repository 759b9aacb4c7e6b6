"""How large the package is, and how long it takes until it does something; beside its peers."""
