"""Building environments to train and to judge on."""
