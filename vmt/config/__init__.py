"""Every key, its default, and how YAML files become a config."""
