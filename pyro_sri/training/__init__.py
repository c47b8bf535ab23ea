"""Training: the loop, the steps, and how networks are run."""
