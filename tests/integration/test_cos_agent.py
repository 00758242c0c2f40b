"""What the library of observability agents reads from the data that a unit writes into the relation `cos-agent`.

The charm library itself, `charms.grafana_agent.v0.cos_agent`, is not in a package registry. It uses the package cosl for
everything that these tests check, except for the fields of the document.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cosl import DashboardPath40UID, JujuTopology, LZMABase64
from cosl.rules import AlertRules

ROOT = Path(__file__).parents[2]
# A test of the program checks that this is what it writes.
CONFIG: dict[str, Any] = json.loads((ROOT / "tests/data/cos-agent.json").read_text())
ALERTS = ROOT / "monitoring/alerts.yaml"
DASHBOARD = ROOT / "monitoring/dashboard.json"
TOPOLOGY = JujuTopology(
    model="prod-1",
    model_uuid="6f1b2c3d-0b6c-4a5e-8f5a-1d2e3f405162",
    application="etcd",
    unit="etcd/0",
    charm_name="etcd",
)


def test_the_document_has_the_fields_of_the_interface() -> None:
    """`CosAgentProviderUnitData`: these are required, and the types are those of the model."""
    required = {"metrics_alert_rules": dict, "log_alert_rules": dict, "dashboards": list}
    required |= {"metrics_scrape_jobs": list, "log_slots": list}
    for field, kind in required.items():
        assert isinstance(CONFIG[field], kind), field
    assert CONFIG["subordinate"] is None and CONFIG["tracing_protocols"] is None
    assert set(CONFIG) == set(required) | {"subordinate", "tracing_protocols"}


def test_the_alert_rules_are_those_that_the_library_makes_of_the_file() -> None:
    rules = AlertRules(query_type="promql", topology=TOPOLOGY)
    rules.add_path(ALERTS)
    assert CONFIG["metrics_alert_rules"] == rules.as_dict()


def test_the_alert_rules_survive_the_way_back() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    written = copy.deepcopy(CONFIG["metrics_alert_rules"]["groups"])
    assert len(written) == len(groups)
    for group, original in zip(written, groups, strict=True):
        for rule in group["rules"]:
            labels = rule["labels"]
            assert {name: labels.pop(name) for name in TOPOLOGY.label_matcher_dict} == TOPOLOGY.label_matcher_dict
        assert group["rules"] == original["rules"]


def test_the_dashboard_survives_the_way_back() -> None:
    [encoded] = CONFIG["dashboards"]
    dashboard = json.loads(LZMABase64.decompress(encoded))
    original = json.loads(DASHBOARD.read_text())
    assert dashboard.pop("uid") == DashboardPath40UID.generate("etcd", "monitoring/dashboard.json")
    assert dashboard.pop("tags") == [*original.pop("tags"), "charm: etcd"]
    del original["uid"]
    assert dashboard == original


@pytest.mark.parametrize("job", CONFIG["metrics_scrape_jobs"], ids=lambda job: str(job["job_name"]))
def test_a_scrape_job_is_one_of_prometheus_on_loopback(job: dict[str, Any]) -> None:
    # A job with `path` and `port` would have the older format.
    assert set(job) == {"job_name", "metrics_path", "static_configs"}
    [static] = job["static_configs"]
    [target] = static["targets"]
    assert target.startswith("127.0.0.1:") and static["labels"] == {"instance": "etcd/0"}


def test_jobs_have_names_of_their_own() -> None:
    names = [job["job_name"] for job in CONFIG["metrics_scrape_jobs"]]
    assert len(set(names)) == len(names) and all(name.startswith("etcd_") for name in names)
