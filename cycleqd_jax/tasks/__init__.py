"""Skills: problems, episodes and verdicts."""
