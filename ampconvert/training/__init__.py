"""Training in mixed precision: graphs that torch.compile captures, and their loss scale."""
