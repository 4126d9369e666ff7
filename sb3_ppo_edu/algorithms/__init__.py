"""The algorithms: when and how parameters move."""
