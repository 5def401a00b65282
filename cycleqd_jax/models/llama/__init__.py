"""Llama as Flax modules."""
