"""What the service costs on top of the models, beside other servers: requests/s, latency, memory, time to start.

    python -m bench.serving [--only json,binary] [--seconds 5] [--rounds 5]

    environments.py     a virtual environment for each opponent, and the load generators
    setting.py          the model, time and rounds of a run
    slow_model.py       a network of about 10 ms a picture, with random weights
    calls.py            the requests, and the check that a server answers as the model does
    load.py             wrk: requests/s, p50, p99, errors
    result.py           rows, the table, the JSON file
    throughput.py       one picture, or 1 MB, a request: against FastAPI by hand, MLServer, LitServe, BentoML, Ray
    rpc.py              the same over gRPC
    efficiency.py       32 pictures a request: the service's CPU time against the bare runtime's
    batching.py         a slower model under 64 connections, with and without batching
    isolation.py        brought models: a process apart, and the service itself
    memory.py           large bodies for half a minute: does memory stay flat?
    startup.py          memory, and time until ready
    restarts.py         workers reloaded and killed under load
    opponents/          the other servers, each as its documentation recommends

compare/servers.py starts and stops a server, and reads its memory and CPU time.

Figures differ between machines, and with whatever else runs: servers are measured in turns, and targets are ratios.
"""
