"""Runs programs that a model wrote, without network and without our rights."""
