"""Training: the loop, a step, and how steps are carried out."""
