"""The mathematics: pure functions and small classes without state."""
