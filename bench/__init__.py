"""Benchmarks of the project itself: its service beside other servers, a zoo of real architectures, container images."""
