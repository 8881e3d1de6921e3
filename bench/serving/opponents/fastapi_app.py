"""FastAPI, uvicorn and orjson, as a person who cares for speed writes it by hand.

The body is taken from the request, so that no pydantic model is built from its numbers; orjson reads and writes them;
the model runs in the event loop, since a thread costs more than the call; uvicorn has uvloop and httptools.
It checks nothing that a caller sends.
"""

import os

import numpy as np
import orjson
import session
import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI(openapi_url=None)
model = session.create()
(spec,) = model.get_inputs()
NAME, INPUT, OUTPUTS = os.environ["NAME"], spec.name, [output.name for output in model.get_outputs()]
ROW = tuple(spec.shape[1:])


@app.get("/ready")
async def ready() -> Response:
    return Response()


@app.post(f"/v2/models/{NAME}/infer")
async def infer(request: Request) -> Response:
    tensor = orjson.loads(await request.body())["inputs"][0]
    array = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    (result,) = model.run(OUTPUTS, {INPUT: array})
    output = {"name": OUTPUTS[0], "datatype": "FP32", "shape": result.shape, "data": result.ravel()}
    answer = {"model_name": NAME, "model_version": "1", "outputs": [output]}
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.post("/raw")
async def raw(request: Request) -> Response:
    array = np.frombuffer(await request.body(), np.float32).reshape(-1, *ROW)
    (result,) = model.run(OUTPUTS, {INPUT: array})
    return Response(result.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_app:app",
        port=int(os.environ["PORT"]),
        workers=int(os.environ["WORKERS"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
