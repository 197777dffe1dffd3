"""What the worker tells people about itself."""
