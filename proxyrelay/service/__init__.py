"""The relay as a service of twistd: options, wiring, reload, signals."""
