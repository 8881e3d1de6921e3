"""The search over routes, driven with made-up results: no process is started and no file is written."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from bring import words
from bring.search import Attempt, Edge, Export, PutAside, Search, Verify, reachable
from contract.formats import is_installed
from contract.manifest import Manifest
from contract.parity_result import BatchParity, ParityResult

TOLERANCE = 1e-3

Results = Mapping[str, float | str]
"""A route -> the largest difference of its artifact's answers from the source's; "fails" where its converter fails,
"cannot run" where its runtime cannot run the artifact."""


def parity_of(difference: float) -> ParityResult:
    passed = difference <= TOLERANCE
    batch = BatchParity(1, difference, difference, 1.0, None, 1.0, ())
    reasons = () if passed else (f"{difference} is over {TOLERANCE}",)
    return ParityResult("net-x", "net-s", "", "", passed, reasons, TOLERANCE, 64, None, (batch,), 0.1, 0, (), "")


def edge(parent: str, format: str, *routes: str) -> Edge:
    return Edge(parent, format, routes or (f"{format} 1",))


def run(search: Search, results: Results) -> list[str]:
    """Carry every step out with these results; the steps, in words. Routes that are not named pass."""
    steps = []
    while step := search.next_step():
        match step:
            case Export(edge, route):
                name = edge.routes[route]
                steps.append(name)
                if results.get(name) == "fails":
                    edge.failed(f"{name} fails")
                else:
                    edge.converted()
            case Verify():
                steps.append("verify")
                made = [edge.artifact for edge in search.edges.values() if edge.format in search.unverified()]
                outcomes = [outcome(results.get(artifact.route, 0.0)) for artifact in made if artifact]
                search.verified(dict(zip(search.unverified(), outcomes, strict=True)))
            case PutAside(edge, is_best, below):
                steps.append(" ".join(["aside" if is_best else "drop", edge.format, *below]))
                search.put_aside(step)
        assert len(steps) < 50, f"the search does not end: {steps}"
    return steps


def outcome(result: float | str) -> ParityResult | str:
    return result if isinstance(result, str) else parity_of(result)


def kept(search: Search, format: str) -> str | None:
    """The route whose artifact is kept; None where there is none that can be run."""
    ending = search.ending(search.edges[format])
    return ending.route if ending and ending.parity else None


def test_routes_that_pass_are_exported_parents_first_and_verified_once() -> None:
    search = Search([edge("s", "a"), edge("s", "b", "b 1", "b 2"), edge("a", "c")])
    assert run(search, {}) == ["a 1", "b 1", "c 1", "verify"]
    assert [kept(search, format) for format in "abc"] == ["a 1", "b 1", "c 1"]


def test_the_second_route_is_tried_when_the_first_cannot_convert() -> None:
    search = Search([edge("s", "a", "a 1", "a 2", "a 3")])
    assert run(search, {"a 1": "fails"}) == ["a 1", "a 2", "verify"]
    assert kept(search, "a") == "a 2"


def test_the_second_route_is_tried_when_the_first_fails_parity() -> None:
    search = Search([edge("s", "a", "a 1", "a 2")])
    assert run(search, {"a 1": 0.5}) == ["a 1", "verify", "aside a", "a 2", "verify"]
    assert kept(search, "a") == "a 2"


def test_all_that_failed_parity_is_converted_again_and_compared_at_once() -> None:
    search = Search([edge("s", "a"), edge("s", "b", "b 1", "b 2"), edge("s", "c", "c 1", "c 2", "c 3")])
    steps = run(search, {"b 1": 0.5, "c 1": 0.5, "c 2": "fails"})
    assert steps == ["a 1", "b 1", "c 1", "verify", "aside b", "aside c", "b 2", "c 2", "c 3", "verify"]
    assert [kept(search, format) for format in "abc"] == ["a 1", "b 2", "c 3"]


def test_what_has_its_result_is_not_compared_again() -> None:
    search = Search([edge("s", "a"), edge("s", "b", "b 1", "b 2"), edge("s", "c")])
    for each in search.edges.values():
        each.converted()
    assert search.unverified() == ["a", "b", "c"]
    search.verified({"a": parity_of(0.0), "b": parity_of(0.5), "c": "ended with b"})
    assert search.unverified() == ["c"], "what could not be run may have been ended together with another one"


def test_what_is_made_after_a_comparison_is_compared_as_well() -> None:
    search = Search([edge("s", "a", "a 1", "a 2"), edge("s", "b")])
    search.edges["a"].failed("a 1 fails")
    search.edges["b"].converted()
    search.verified({"b": parity_of(0.0)})
    assert run(search, {}) == ["a 2", "verify"]
    assert [kept(search, format) for format in "ab"] == ["a 2", "b 1"]


def test_what_could_not_be_run_makes_room_one_by_one() -> None:
    search = Search([edge("s", "a", "a 1", "a 2"), edge("s", "b", "b 1", "b 2")])
    steps = run(search, {"a 1": "cannot run", "b 1": "cannot run"})
    assert steps == ["a 1", "b 1", "verify", "aside a", "a 2", "verify", "aside b", "b 2", "verify"]


@pytest.mark.parametrize(("differences", "best"), [((0.1, 0.5), "a 1"), ((0.5, 0.1), "a 2"), ((0.1, 0.1), "a 1")])
def test_the_best_is_kept_where_no_route_passes(differences: tuple[float, float], best: str) -> None:
    search = Search([edge("s", "a", "a 1", "a 2")])
    assert run(search, dict(zip(("a 1", "a 2"), differences, strict=True)))[2:4] == ["aside a", "a 2"]
    assert kept(search, "a") == best


def test_only_a_better_artifact_takes_the_place_of_the_one_aside() -> None:
    search = Search([edge("s", "a", "a 1", "a 2", "a 3", "a 4")])
    steps = run(search, {"a 1": 0.5, "a 2": 0.7, "a 3": 0.2, "a 4": "fails"})
    assert [step for step in steps if step.endswith(" a")] == ["aside a", "drop a", "aside a"]
    assert kept(search, "a") == "a 3"


def test_an_artifact_that_runs_is_better_than_any_that_cannot() -> None:
    search = Search([edge("s", "a", "a 1", "a 2", "a 3")])
    steps = run(search, {"a 1": "cannot run", "a 2": 0.9, "a 3": "fails"})
    assert steps == ["a 1", "verify", "aside a", "a 2", "verify", "aside a", "a 3", "verify"]
    assert kept(search, "a") == "a 2"


def test_children_are_made_again_with_their_first_routes_when_the_parent_is_put_aside() -> None:
    search = Search([edge("s", "a", "a 1", "a 2"), edge("a", "b", "b 1", "b 2"), edge("b", "c"), edge("s", "d")])
    steps = run(search, {"a 1": 0.5, "b 1": "fails"})
    assert steps[:5] == ["a 1", "b 1", "b 2", "c 1", "d 1"]
    assert steps[5:] == ["verify", "aside a b c", "a 2", "b 1", "b 2", "c 1", "verify"]
    assert [attempt.route for attempt in search.edges["b"].attempts] == ["b 1", "b 1", "b 2"], "what failed stays"
    assert [kept(search, format) for format in "abcd"] == ["a 2", "b 2", "c 1", "d 1"]


def test_a_parent_is_not_replaced_by_the_one_aside_which_its_children_do_not_come_from() -> None:
    search = Search([edge("s", "a", "a 1", "a 2"), edge("a", "b")])
    run(search, {"a 1": 0.1, "a 2": 0.5})
    assert kept(search, "a") == "a 2"


def test_what_was_converted_before_the_search_begins_is_not_converted_again() -> None:
    """The runner exports along all first routes in one process, and reports what came of it."""
    search = Search([edge("s", "a", "a 1", "a 2"), edge("s", "b", "b 1", "b 2"), edge("a", "c")])
    search.edges["a"].converted()
    search.edges["b"].failed("b 1 fails")
    assert run(search, {}) == ["b 2", "c 1", "verify"]


def test_a_source_that_no_exporter_starts_from_is_verified_alone() -> None:
    assert run(Search([]), {}) == ["verify"]


def test_asking_for_the_next_step_changes_nothing() -> None:
    search = Search([edge("s", "a")])
    assert search.next_step() == search.next_step() == Export(search.edges["a"], 0)


# What is recorded of an edge that failed

FOLDER = Path("/cell")


def reasons(search: Search, format: str) -> tuple[str, list[str]]:
    """The reason of the failed edge, and what is recorded of each of its routes."""
    failed_edge = search.edges[format]
    failed = words.failed_edge(
        Manifest("net", "s", None, (), (), None, ("a",)), failed_edge, search.ending(failed_edge), "", FOLDER
    )
    return failed.reason, [f"{route.route}: {route.error}" for route in failed.routes]


def test_what_a_parent_that_cannot_be_made_leads_to_is_not_tried() -> None:
    search = Search([edge("s", "a", "a 1", "a 2"), edge("a", "b"), edge("s", "c")])
    assert run(search, {"a 1": "fails", "a 2": "fails"}) == ["a 1", "a 2", "c 1", "verify"]
    assert (kept(search, "a"), kept(search, "b"), kept(search, "c")) == (None, None, "c 1")
    assert reasons(search, "a") == ("s -> a: a 2 fails.", ["a 1: a 1 fails", "a 2: a 2 fails"])
    assert reasons(search, "b") == ("It is made from a, which could not be made.", [])


@pytest.mark.parametrize("last", ["fails", "cannot run"])
def test_the_runtimes_error_is_the_reason_where_no_artifact_can_be_run(last: str) -> None:
    search = Search([edge("s", "a", "a 1", "a 2")])
    run(search, {"a 1": "cannot run", "a 2": last})
    assert kept(search, "a") is None
    reason, routes = reasons(search, "a")
    assert reason == "s -> a: it was converted, and its runtime cannot run it: cannot run."
    assert routes == [
        "a 1: its runtime cannot run it: cannot run",
        f"a 2: {'a 2 fails' if last == 'fails' else 'its runtime cannot run it: cannot run'}",
    ]


def test_what_is_kept_without_passing_tells_what_the_other_routes_did() -> None:
    tried = edge("s", "a", "a 1", "a 2", "a 3")
    tried.failed("no such operator")
    tried.converted()
    tried.attempts[-1].runtime_error = "It took more than 6 GiB of memory and was ended."
    tried.converted()
    ending = tried.attempts[-1]
    ending.parity = parity_of(0.5)
    line = words.kept("net-a", tried, ending, False)
    assert line.startswith("net-a: largest difference 5.0e-01, 64 questions: ")
    assert line.endswith(
        ". Tried as well, by a 1: no such operator; "
        "by a 2: its runtime cannot run it: It took more than 6 GiB of memory and was ended."
    )
    ending.parity = parity_of(1e-7)
    assert words.kept("net-a", tried, ending, False).endswith(", verified")


def test_a_reason_does_not_name_a_folder_that_is_gone_when_it_is_read() -> None:
    message = "net-a could not be loaded: /cell/net/x is odd. Remove /cell/net/a and export it again."
    failed = edge("s", "a")
    failed.failed(message)
    expected = "net-a could not be loaded: net/x is odd."
    assert reasons(Search([failed]), "a") == (f"s -> a: {expected}", [f"a 1: {expected}"])


def test_an_attempt_is_described_by_how_far_it_is_off() -> None:
    attempt = Attempt("a 1", parity=parity_of(0.5))
    assert words.of_attempt(attempt, True) == "largest difference 5.0e-01, same class 100.00% of 64: 0.5 is over 0.001"
    assert words.of_attempt(attempt, False) == "largest difference 5.0e-01, 64 questions: 0.5 is over 0.001"
    assert words.of_parity(parity_of(0.0), True).endswith(" of 64, verified")


def test_the_last_line_about_an_artifact_is_its_runtimes_error() -> None:
    log = "error: net-b is odd\nnet-a: starting\nerror: net-a is odd\nTraceback"
    assert words.runtime_error(log, "net-a") == "net-a is odd"
    assert words.runtime_error("Traceback", "net-a") == "see the log"
    assert words.runtime_error("Traceback", "net-a", "It took too long.") == "It took too long."


def test_each_step_of_a_log_is_read_alone() -> None:
    """What one edge's converter says is never the cause of another edge's failure."""
    log = (
        "--- savedmodel -> tflite\nTF Select ops: Erf\n--- keras -> onnx\nno translation of Foo\nerror: onnx: no Foo\n"
        "--- savedmodel -> tfjs\n"
    )
    assert words.section(log, "keras -> onnx") == "no translation of Foo\n"
    assert words.section(log, "savedmodel -> tflite") == "TF Select ops: Erf\n"
    assert words.section(log, "savedmodel -> tfjs") == ""
    assert words.section(log, "onnx -> openvino") == ""


# The edges


def test_each_format_is_reached_along_the_fewest_edges() -> None:
    assert [(edge.parent, edge.format) for edge in reachable("savedmodel")] == [
        ("savedmodel", "tfjs"),
        ("savedmodel", "tflite"),
        ("savedmodel", "onnx"),
        *([("onnx", "openvino")] if is_installed("openvino") else []),
    ]
    # The slowest to answer comes first, after what it is made from.
    of_keras = [(edge.parent, edge.format) for edge in reachable("keras")]
    assert of_keras[:3] == [("keras", "savedmodel"), ("savedmodel", "tfjs"), ("keras", "onnx")]
    of_tflite = [edge.format for edge in reachable("tflite")]
    assert [format for format in of_tflite if format != "openvino"] == ["onnx", "savedmodel", "tfjs"]
    assert ("openvino" in of_tflite) == is_installed("openvino")
    assert list(reachable("tfjs")) == []


def test_what_another_system_alone_runs_is_kept_and_no_other_route_is_tried() -> None:
    search = Search([edge("torch", "coreml", "first", "second")])
    search.edges["coreml"].converted()
    assert isinstance(search.next_step(), Verify) and search.unverified() == ["coreml"]
    search.verified({"coreml": None})
    assert (search.next_step(), search.unverified()) == (None, [])
    ending = search.ending(search.edges["coreml"])
    assert ending is not None and ending.is_unknown and not ending.passed
    assert (
        words.kept("net-coreml", search.edges["coreml"], ending, True)
        == "net-coreml: it is converted, and not run: it needs macOS"
    )


def test_what_another_system_alone_runs_makes_room_where_its_file_is_something_else() -> None:
    search = Search([edge("torch", "coreml", "first", "second")])
    search.edges["coreml"].converted()
    search.verified({"coreml": "net-coreml is not what its manifest says"})
    assert isinstance(search.next_step(), PutAside)
