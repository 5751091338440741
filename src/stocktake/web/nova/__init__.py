"""
Nova's API as its clients know it, at `/compute`: hypervisors, services, hosts. Invariant: Nova's words, the ledger's
figures.

For `openstack` and openstacksdk without Keystone. What is not Nova's own concern here (servers, flavors, zones) is not
there. See docs/howto/openstack-clients.md.
"""

from stocktake.web.nova import hypervisors, services, versions

# The last answers for every path that no other route is for.
ROUTES = (*versions.ROUTES, *hypervisors.ROUTES, *services.ROUTES, *versions.REST)
