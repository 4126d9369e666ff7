"""Numbers and intervals from runs: pure functions of arrays, which neither read nor draw."""
