"""An OpenAI-compatible endpoint for the individuals of a run."""
