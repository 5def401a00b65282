"""The suites of `python -m experiments.benchmark`, and the frame they share."""
