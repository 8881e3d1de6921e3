"""Whether each runtime is driven as its experts would: every other way that is known, beside the service's."""
