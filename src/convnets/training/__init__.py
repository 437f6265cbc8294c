"""From a configuration and a folder to a result."""
