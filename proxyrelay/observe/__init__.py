"""Logs, audit log, counters and pseudonyms."""
