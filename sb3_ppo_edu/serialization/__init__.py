"""Reading files that others made, and names in files."""
