"""How fast the linter is, what it finds of real mistakes, and how much of what it finds is true."""
