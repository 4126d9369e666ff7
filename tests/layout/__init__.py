"""Checkers of the house's laws. Each reads the source of a package, real or made for a test, and imports nothing of it."""
