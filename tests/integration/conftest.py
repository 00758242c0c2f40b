"""Runs the integration tests in a model of a controller, or with --fake-juju on this machine without Juju."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jubilant
import pytest

FAKE_JUJU = Path(__file__).with_name("fake_juju.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--charm", default="target/etcd_amd64.charm", help="the packed charm")
    parser.addoption("--fake-juju", action="store_true", help="run the tests that need no controller, without Juju")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "controller: needs a controller that can add machines")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fake-juju"):
        for item in items:
            if item.get_closest_marker("controller"):
                item.add_marker(pytest.mark.skip(reason="needs a controller"))


@pytest.fixture(scope="session")
def is_fake(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--fake-juju"))


@pytest.fixture(scope="session")
def charm(request: pytest.FixtureRequest) -> Path:
    return Path(str(request.config.getoption("--charm"))).absolute()


@pytest.fixture(scope="session")
def juju(is_fake: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[jubilant.Juju]:
    """A temporary model, or the fake juju."""
    if not is_fake:
        with jubilant.temp_model() as model:
            model.wait_timeout = 20 * 60
            yield model
        return
    home = tmp_path_factory.mktemp("fake-juju")
    os.environ["FAKE_JUJU_DIR"] = str(home)
    os.environ["FAKE_JUJU_OWNER"] = str(os.getpid())
    yield jubilant.Juju(cli_binary=FAKE_JUJU)
    for pid in home.glob("*/supervisor/pid"):
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass
