"""Several relays that act as one, through Redis or Valkey. Loaded only if set."""
