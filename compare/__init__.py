"""Which format should I ship? Answers, time and footprint of every artifact, measured."""
