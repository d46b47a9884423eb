"""A client as an Autobahn protocol, from its upgrade to its end."""
