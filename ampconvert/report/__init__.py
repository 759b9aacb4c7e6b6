"""What ampconvert tells its user: terminal pages, JSON, progress."""
