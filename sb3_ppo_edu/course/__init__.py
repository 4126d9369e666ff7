"""The course: notebooks built from text sources, verified, and graded."""
