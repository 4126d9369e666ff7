"""The doctor: reads the record of a training and names what is wrong with it, with evidence and remedy."""
