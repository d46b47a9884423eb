"""Tests of the private listener."""
