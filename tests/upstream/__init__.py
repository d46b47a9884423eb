"""Assertions on the insides of Twisted and Autobahn. A new release may break them."""
