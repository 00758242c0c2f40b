"""Where the integration tests run: a controller's model, or, with --played, one machine without Juju."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jubilant
import pytest

PLAYED = Path(__file__).with_name("played_juju.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--charm", default="target/etcd_amd64.charm", help="the packed charm")
    parser.addoption("--played", action="store_true", help="without Juju: what needs no controller, on this machine")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "controller: needs a controller, and machines of its own")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--played"):
        for item in items:
            if item.get_closest_marker("controller"):
                item.add_marker(pytest.mark.skip(reason="needs a controller"))


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--played"))


@pytest.fixture(scope="session")
def charm(request: pytest.FixtureRequest) -> Path:
    return Path(str(request.config.getoption("--charm"))).absolute()


@pytest.fixture(scope="session")
def juju(played: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[jubilant.Juju]:
    """A model of its own, gone when the tests are done."""
    if not played:
        with jubilant.temp_model() as model:
            model.wait_timeout = 20 * 60
            yield model
        return
    home = tmp_path_factory.mktemp("played")
    os.environ["PLAYED_JUJU"] = str(home)
    os.environ["PLAYED_JUJU_OWNER"] = str(os.getpid())
    yield jubilant.Juju(cli_binary=PLAYED)
    for pid in home.glob("*/supervisor/pid"):
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass
