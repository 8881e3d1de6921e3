"""What the service costs on top of the models, against what one would use instead: requests/s, latency, memory, starts.

    python -m bench.serving [--only json,binary] [--seconds 5] [--rounds 5]

    environments.py     a virtual environment for each opponent, and wrk
    servers.py          start a server, wait until it answers, read its memory and CPU time, stop it
    setting.py          what every measure is given
    slow_model.py       a network of about 10 ms a picture, with random weights
    calls.py            the requests, and the check that a server's answers are the model's
    load.py             wrk: requests/s, p50, p99, errors
    result.py           rows, the table, the JSON file
    throughput.py       one picture a request: against FastAPI by hand, MLServer, LitServe, BentoML, Ray Serve
    efficiency.py       32 pictures a request: the server's CPU time against the bare runtime's
    batching.py         a slower model under 64 connections, with and without batching
    memory.py           large bodies for a while: is memory flat?
    startup.py          memory and time to ready
    restarts.py         workers reloaded and killed under load

Figures move between machines, and with whatever else runs: servers are measured in turns, and only ratios are judged.
"""
