"""The keys of a configuration: what each means, what it accepts, and its default."""
