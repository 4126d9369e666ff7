"""Runs: their settings, training, evaluation, and going on with them."""
