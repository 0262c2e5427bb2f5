"""Helps authors of plugins: writes the beginning of one."""
