"""Supervised fine-tuning of experts."""
