"""Scores of individuals on tasks."""
