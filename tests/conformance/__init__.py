"""A black-box conformance suite for the Open Inference Protocol v2 over REST. README.md says how to run it."""
