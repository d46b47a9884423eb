"""The insides of Twisted, Autobahn and treq, which a new release may change."""
