"""How work survives: worker processes, restarts, journals, locks, progress and the record of a run."""
