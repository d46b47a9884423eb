"""Tests of what Autobahn, Twisted and treq do."""
