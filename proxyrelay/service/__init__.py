"""The relay as a service of twistd: options, wiring, signals, reload, drain."""
