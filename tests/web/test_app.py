"""Whatever is asked, the answer is one that we wrote."""

from pathlib import Path

from tests.servers.serve import served, served_here


def test_given_a_real_server_then_it_answers_and_ends_well(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        with server.client("viewer") as client:
            assert client.get("/healthz").json()["status"] == "ok"
            assert client.get("/v1/nodes").json() == {"items": [], "next": None}
        assert server.stop() == 0


def test_given_the_application_served_here_then_it_answers(tmp_path: Path) -> None:
    with served_here(tmp_path) as here:
        assert here.client("viewer").get("/v1/nodes").status_code == 200
        assert here.client().get("/v1/nodes").status_code == 401
        assert here.client("agent").get("/v1/nodes").status_code == 403
        assert here.client("wrong").get("/v1/nodes").status_code == 401
