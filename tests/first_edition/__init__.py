"""Files that the first edition wrote, and what it did with them; README.md says how they were made."""
