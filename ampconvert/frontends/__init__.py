"""Models in and out: finding and capturing them, reading them as a Graph, applying a Plan."""
