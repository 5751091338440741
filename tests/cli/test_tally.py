"""`tally`: documents in, books out, and nothing else touched."""

import json
from pathlib import Path

from tests.cli.program import run
from tests.cli.test_refresh import RESOURCES

DOCUMENT = {
    "id": "case-1",
    "host": "a",
    "node": "a.example.org",
    "node_uuid": "00000000-0000-4000-8000-000000000001",
    "resources": {**RESOURCES, "memory_mb_used": -3},
}
SHAPE = {"id", "compute_node", "entries", "problems", "migrations_set_to_error", "placement"}


def lines(*documents: object) -> str:
    return "".join(f"{json.dumps(document)}\n" for document in documents)


def test_given_documents_on_stdin_when_tallied_as_json_then_there_is_a_line_each() -> None:
    result = run(["tally", "-", "--json"], input_=lines(DOCUMENT, {**DOCUMENT, "id": "case-2"}))
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 0
    assert [answer["id"] for answer in answers] == ["case-1", "case-2"]
    assert all(set(answer) == SHAPE for answer in answers)
    assert answers[0]["compute_node"]["memory_mb_used"] == 512


def test_given_one_document_in_a_file_when_tallied_then_its_problems_are_told(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    path.write_text(lines(DOCUMENT))
    result = run(["tally", str(path)])
    assert result.code == 0
    assert "case-1  a.example.org    0/8  512/16,384    0/100    0         1" in result.out
    assert "used-negative" in result.out


def test_given_a_report_without_sense_when_tallied_then_every_reason_is_told_and_the_code_is_1() -> None:
    bad = {**DOCUMENT, "resources": {"vcpus": -1}}
    result = run(["tally", "-"], input_=lines(DOCUMENT, bad))
    assert result.code == 1
    assert "case-1: memory_mb is missing" in result.out
    assert "case-1: vcpus: " in result.out
    assert run(["tally", "-", "--json"], input_=lines(bad)).code == 1


def test_given_a_line_that_is_no_document_when_tallied_then_it_is_named_on_stderr_only() -> None:
    result = run(["tally", "-", "--json"], input_=lines(DOCUMENT) + "{\n")
    assert result.code == 2
    assert len(result.out.splitlines()) == 1
    assert "line 2" in result.err


def test_given_nothing_when_tallied_then_it_is_said() -> None:
    assert run(["tally", "-"], input_="").out == "No documents found.\n"
