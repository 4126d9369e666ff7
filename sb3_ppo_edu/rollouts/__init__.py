"""Rollout buffers, filled, finished and shuffled to SB3's bits at less cost."""
