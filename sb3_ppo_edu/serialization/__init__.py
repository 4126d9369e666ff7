"""Untrusted files, the one gate for names in files, and import paths that moved."""
