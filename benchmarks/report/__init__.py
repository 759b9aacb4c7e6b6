"""How large a report's page is, and how long it lets one wait."""
