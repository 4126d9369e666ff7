"""The laboratory: what draws, and what compares many runs."""
