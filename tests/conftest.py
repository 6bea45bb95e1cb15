"""Fixtures and options that all tests share."""

import signal

import pytest
from hypothesis import settings
from layers import Library
from primitives import remembered

import fastconv1d
from fastconv1d.kernels import direct_engine

ALGORITHMS = ("auto", "blas")

settings.register_profile(
    "fastconv1d", deadline=None, derandomize=True, print_blob=True, database=None
)
settings.load_profile("fastconv1d")

# so that calls on up to 64 threads have them, whatever the machine
fastconv1d.config.set_max_workers(63)

# A shell's background job is started with SIGINT ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--soak", action="store_true", help="also run the full counts, which take hours"
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "promises: what a service relies on; runs with -m promises, or by its path"
    )
    config.addinivalue_line(
        "markers", "soak: the full count of a promise; runs with -m soak, or --soak and the rest"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    promises = [item for item in items if item.path.parent.name == "promises"]
    for item in promises:
        item.add_marker("promises")
    asked = [config.getoption("markexpr"), *config.args]
    if not config.getoption("--soak") and not any("promises" in a or "soak" in a for a in asked):
        config.hook.pytest_deselected(items=promises)
        items[:] = [item for item in items if "promises" not in item.keywords]
    items[:] = with_isas_in_turns(items)
    if not config.getoption("--soak") and "soak" not in config.getoption("markexpr"):
        skip = pytest.mark.skip(reason="full count: needs -m soak")
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(skip)


def but_for_the_isa(item):
    """What the runs of a test on every instruction set have in common."""
    isa = item.callspec.params["isa"]
    return item.nodeid.replace(f"[{isa}", "[").replace(f"-{isa}", "")


def with_isas_in_turns(items):
    """The items in order, but with those that differ in the instruction set alone side by side."""
    groups = {}
    for item in items:
        by_isa = "isa" in getattr(item, "fixturenames", ())
        groups.setdefault(but_for_the_isa(item) if by_isa else item, []).append(item)
    return [item for group in groups.values() for item in group]


@pytest.fixture(scope="session", params=ALGORITHMS)
def lib(request):
    """The functions under test, once for each algorithm."""
    return Library(request.param)


@pytest.fixture(scope="session", params=[0.1, pytest.param(1, marks=pytest.mark.soak)])
def share(request):
    """The part of a promise's full count that this run does."""
    return request.param


@pytest.fixture
def deterministic():
    before = fastconv1d.are_deterministic_algorithms_enabled()
    fastconv1d.use_deterministic_algorithms(True)
    yield
    fastconv1d.use_deterministic_algorithms(before)


@pytest.fixture(params=direct_engine.supported_isas())
def isa(request):
    """The instruction set in use, once for each that this CPU has."""
    before = direct_engine.isa()
    remembered.start(but_for_the_isa(request.node))
    direct_engine.set_isa(request.param)
    yield request.param
    direct_engine.set_isa(before)


@pytest.fixture
def small_gradients(monkeypatch):
    """Let small torch layers compute calls with gradients and in compiled graphs, too."""
    operators = pytest.importorskip("fastconv1d.torch.operators")
    monkeypatch.setattr(operators, "LEAST_WORK", 0)
    monkeypatch.setattr(operators, "LONG_KERNEL", 0)
