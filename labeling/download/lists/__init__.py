"""Lists of URLs: reading them, planning shards, and choosing among rows that repeat a URL."""
