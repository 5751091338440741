"""
Run in Nova's virtualenv: give the queries that its scheduler would send to Placement, made by its own code.

    python nova_asks.py '[{"vcpus": 1, "memory_mb": 512}]' --config-file nova.conf

A request may have `settings` ({"scheduler.max_placement_results": 5}), `project_id`, `availability_zone` and
`extra_specs`, as the flavor has them. The last line written is a JSON list with a query for each request.
"""

import json
import sys
from typing import Any

_REQUESTS, _OPTIONS = json.loads(sys.argv[1]), sys.argv[2:]

# eventlet comes first, as in Nova's own programs.
import nova.monkey_patch  # type: ignore[import-not-found]  # noqa: E402, F401
from nova.conf import CONF  # type: ignore[import-not-found]  # noqa: E402
from nova.scheduler import request_filter, utils  # type: ignore[import-not-found]  # noqa: E402

from nova import config, context, objects  # noqa: E402


def query_of(request: dict[str, Any]) -> str:
    """Do what the scheduler does before it asks Placement."""
    overrides = {name.rpartition(".")[::2]: value for name, value in request.get("settings", {}).items()}
    for (section, name), value in overrides.items():
        CONF.set_override(name, value, section or None)
    flavor = objects.Flavor(
        vcpus=request["vcpus"],
        memory_mb=request["memory_mb"],
        root_gb=0,
        ephemeral_gb=0,
        swap=0,
        extra_specs=request.get("extra_specs", {}),
    )
    spec = objects.RequestSpec(
        flavor=flavor,
        image=objects.ImageMeta(properties=objects.ImageMetaProps()),
        is_bfv=True,
        project_id=request.get("project_id", "p"),
        availability_zone=request.get("availability_zone"),
        requested_resources=[],
        pci_requests=None,
        numa_topology=None,
        requested_networks=objects.NetworkRequestList(objects=[]),
        request_level_params=objects.RequestLevelParams(),
    )
    admin = context.get_admin_context()
    request_filter.process_reqspec(admin, spec)
    query: str = utils.resources_from_request_spec(admin, spec, None).to_querystring()
    for section, name in overrides:
        CONF.clear_override(name, section or None)
    return query


if __name__ == "__main__":
    config.parse_args(["nova-scheduler", *_OPTIONS])
    objects.register_all()
    context.CELL_CACHE.clear()
    print(json.dumps([query_of(request) for request in _REQUESTS]))  # noqa: T201
