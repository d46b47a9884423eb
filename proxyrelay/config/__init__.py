"""relay.toml and the command line, read into one frozen `Config`. Pure."""

from proxyrelay.config.loader import OVERRIDES as OVERRIDES
from proxyrelay.config.loader import Loaded as Loaded
from proxyrelay.config.loader import admin_listen as admin_listen
from proxyrelay.config.loader import load as load
from proxyrelay.config.model import ALL_INTERFACES as ALL_INTERFACES
from proxyrelay.config.model import (
    AUTHENTICATION_MARGIN_SECONDS as AUTHENTICATION_MARGIN_SECONDS,
)
from proxyrelay.config.model import PROXYSTORE_RELAY as PROXYSTORE_RELAY
from proxyrelay.config.model import Admin as Admin
from proxyrelay.config.model import Auth as Auth
from proxyrelay.config.model import AuthArguments as AuthArguments
from proxyrelay.config.model import Config as Config
from proxyrelay.config.model import Level as Level
from proxyrelay.config.model import Limits as Limits
from proxyrelay.config.model import Logging as Logging
from proxyrelay.config.model import Offers as Offers
from proxyrelay.config.model import Secret as Secret
from proxyrelay.config.model import Survive as Survive
from proxyrelay.config.model import Timeouts as Timeouts
from proxyrelay.config.model import admin_place as admin_place
from proxyrelay.config.model import settings as settings
from proxyrelay.config.rules import CANONICAL_UUID as CANONICAL_UUID
from proxyrelay.config.rules import application_id as application_id
from proxyrelay.config.spelling import ALIASES as ALIASES
