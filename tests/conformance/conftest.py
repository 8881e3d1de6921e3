"""Which server is tested, and what it serves. Nothing here knows how the server was made."""

import pytest

from .wire import HttpServer, Model, Server, read_model

SERVICES = {"http": "service_url", "grpc": "service_grpc_url"}
"""The fixtures that name a server where no --url does."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--url", help="the server to test, such as http://127.0.0.1:8000 or grpc://127.0.0.1:8001")
    group.addoption("--model", action="append", help="test these models, and ask for no index; may be repeated")


def pytest_configure(config: pytest.Config) -> None:
    for transport, name in (("http", "HTTP"), ("grpc", "gRPC")):
        config.addinivalue_line("markers", f"over_{transport}(reason): a test of what there is over {name} alone")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The server at --url. Without it, the one that a fixture starts, where there is one: see SERVICES."""
    url = request.config.getoption("--url", None)
    if url is None:
        try:
            url = request.getfixturevalue(SERVICES[request.param])
        except pytest.FixtureLookupError:
            if request.param == "grpc":
                pytest.skip("there is no fixture named service_grpc_url")
            pytest.fail("Say which server is to be tested: --url=http://127.0.0.1:8000", pytrace=False)
    if url.startswith("grpc"):
        from .grpc_wire import GrpcServer  # over HTTP the suite does without the package that this needs

        return GrpcServer(url)
    return HttpServer(url)


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest, server: Server) -> list[Model]:
    """The models to test: those of --model, or else those that the repository index calls ready."""
    names = request.config.getoption("--model", None)
    if not names:
        answer = server.post("/v2/repository/index", {"ready": True})
        if answer.status != 200:
            pytest.fail(f"The index answered {answer}. Name a model with --model=NAME.", pytrace=False)
        names = list(dict.fromkeys(entry["name"] for entry in answer.json))
    return [read_model(server, name) for name in names]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames and metafunc.config.getoption("--url", None) is None:
        metafunc.parametrize("server", list(SERVICES), indirect=True, scope="session")
    if "model" in metafunc.fixturenames:
        names = metafunc.config.getoption("--model", None) or ["first", "last"]
        metafunc.parametrize("model", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest, models: list[Model]) -> Model:
    """Each model of --model in turn, or else the first and the last one. They stand for all in rules that do not depend
    on the model."""
    if request.param == "last" and len(models) == 1:
        pytest.skip("there is one model only")
    named = {model.name: model for model in models}
    return named.get(request.param) or models[0 if request.param == "first" else -1]


@pytest.fixture(scope="session")
def extensions(server: Server) -> list[str]:
    """The extensions that the server lists in its metadata."""
    answer = server.get("/v2")
    listed = answer.json.get("extensions") if answer.status == 200 and isinstance(answer.json, dict) else None
    return listed if isinstance(listed, list) else []


@pytest.fixture(autouse=True)
def only_what_the_transport_has(request: pytest.FixtureRequest) -> None:
    """Skip a test of what there is over another transport alone, and say why it is."""
    for transport in SERVICES:
        mark = request.node.get_closest_marker(f"over_{transport}")
        if mark and request.getfixturevalue("server").transport != transport:
            pytest.skip(f"over {transport} only: {mark.args[0]}")


@pytest.fixture(autouse=True)
def only_listed_extensions(request: pytest.FixtureRequest) -> None:
    """Skip a test of an extension that the server does not list."""
    module = getattr(request.module, "EXTENSION", None)
    if module and module not in request.getfixturevalue("extensions"):
        pytest.skip(f"the server does not list {module}")
