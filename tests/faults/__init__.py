"""Fault campaigns: kills, damaged files, nonsense arguments, races, a full disk."""
