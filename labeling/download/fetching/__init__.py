"""Fetching of URLs: guarded connections, hosts that do not answer, and rounds of attempts."""
