"""What several tests need: recording seams, certificates, a relay to talk to."""
