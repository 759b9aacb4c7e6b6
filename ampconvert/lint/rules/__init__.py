"""One lint rule, one class, one file; `all_rules` finds them."""
