"""Small generated tasks for three skills."""
