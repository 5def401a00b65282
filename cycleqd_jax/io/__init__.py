"""Run folders, checkpoints and exports."""
