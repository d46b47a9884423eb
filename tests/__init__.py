"""The tests mirror proxyrelay/; integration/ starts real processes."""
