"""relay.toml and the command line, read into one frozen `Config`."""

from proxyrelay.config.loader import OVERRIDES, Loaded, admin_listen, load
from proxyrelay.config.model import (
    AUTHENTICATION_MARGIN_SECONDS,
    PROXYSTORE_RELAY,
    Admin,
    Auth,
    AuthArguments,
    Config,
    Level,
    Limits,
    Logging,
    Offers,
    Secret,
    Timeouts,
    admin_place,
    settings,
)
from proxyrelay.config.spelling import ALIASES
from proxyrelay.config.values import application_id

__all__ = (
    "ALIASES",
    "AUTHENTICATION_MARGIN_SECONDS",
    "OVERRIDES",
    "PROXYSTORE_RELAY",
    "Admin",
    "Auth",
    "AuthArguments",
    "Config",
    "Level",
    "Limits",
    "Loaded",
    "Logging",
    "Offers",
    "Secret",
    "Timeouts",
    "admin_listen",
    "admin_place",
    "application_id",
    "load",
    "settings",
)
