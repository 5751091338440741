"""The alert rules: Prometheus' own tool reads them, and each fires when it must and only then."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.packaging.queries import RULES, rules, unknown

TESTS = Path(__file__).with_name("stocktake.rules.test.yml")


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_given_the_rules_when_promtool_checks_them_then_all_are_fine() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_given_the_rules_when_promtool_runs_them_then_each_fires_when_it_must_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


def test_given_a_rule_then_it_is_tested_where_it_fires() -> None:
    asked = [one for test in yaml.safe_load(TESTS.read_text())["tests"] for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in asked if one["exp_alerts"]} == rules().keys()


@pytest.mark.parametrize("name", rules())
def test_given_a_rule_then_the_metrics_it_asks_for_are_there_and_it_says_what_to_do(name: str) -> None:
    rule = rules()[name]
    assert unknown(rule["expr"]) == set()
    assert name.startswith("Stocktake")
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}
