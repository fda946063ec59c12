"""Studies that the papers left open: lists of short trainings, their measures and tables."""
