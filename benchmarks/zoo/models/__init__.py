"""One module per domain; each function in them builds one model of the zoo."""
