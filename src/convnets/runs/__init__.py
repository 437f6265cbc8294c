"""Runs as folders: read, written, found and weighed without torch."""
