"""What the relay is measured with, beside the reference relay."""
