"""Runs: from a config to a finished folder."""
