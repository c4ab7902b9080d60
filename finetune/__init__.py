"""What consumes trained encoders."""
