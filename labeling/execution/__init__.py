"""Execution of stages: worker processes and their restarts, journals, progress, reports and records of runs."""
