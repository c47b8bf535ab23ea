"""Many runs: what a study compares, which of its runs are missing, how they are carried out, and their tables."""
