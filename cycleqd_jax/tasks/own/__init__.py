"""A user's own problems without code: a JSONL or CSV file and a scorer."""
