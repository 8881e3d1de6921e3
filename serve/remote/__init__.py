"""Models that another service runs.

    http.py       the HTTP client: connections kept alive, for any number of requests under way
    runtime.py    a service in another container as a runtime

A gateway's calls are I/O, so its event loop awaits them.
"""
