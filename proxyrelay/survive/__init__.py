"""Connections that outlive the process: kept by the supervisor, resumed by the next."""
