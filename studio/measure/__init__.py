"""`winnow measure NAME`: what filters and bounds are worth where the truth is known exactly, on Tabletop."""
