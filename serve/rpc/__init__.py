"""The Open Inference Protocol over gRPC: other bytes, the same checks, data plane, keys and counts as over HTTP.

    *.proto         the published protocols, as far as they are served
    proto_files.py  reads them
    messages.py     the classes of their messages
    tensors.py      messages <-> requests and answers
    service.py      the calls
    http2.py        frames, windows, headers
    connection.py   a connection: its calls, their messages and limits
    server.py       the port: TLS, keys, errors

It is imported only where GRPC_PORT is set.
"""
