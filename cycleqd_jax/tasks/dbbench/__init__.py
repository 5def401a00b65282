"""DBBench: questions about tables, answered through SQL."""
