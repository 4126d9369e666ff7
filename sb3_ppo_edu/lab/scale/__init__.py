"""Past one core: which backend steps environments fastest, what a second process brings, and what more would."""
