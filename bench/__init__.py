"""Benchmarks of the project itself: the service beside others, a zoo of real architectures, the container images."""
