"""
What people look at: the fleet, a node, where a machine fits, what is wrong. Invariant: pages read, and change nothing.

- The server writes the HTML (`templates/`); a page is whole without scripts. `static/stocktake.js` makes it live: it
  hears which nodes changed (`live.py`), asks for the page again and puts in what differs.
- Nothing comes from elsewhere and nothing is inline: see the policy in `frame.py`. Sizes in drawings are attributes.
- What a page shows is worked out by pure functions (`tiles`, `drawings`); what terminals and programs show too is
  in `stocktake.views`.
- A page whose routes are not in the list below is not there.
- A node's group is its rack, if it has a trait `CUSTOM_RACK_...` (provider.yaml gives it one), or else its host.
"""

from stocktake.web.calls import Route
from stocktake.web.pages import fit, fleet, frame, live, node, problems, signing

ROUTES: tuple[Route, ...] = (
    *fleet.ROUTES,
    *node.ROUTES,
    *fit.ROUTES,
    *problems.ROUTES,
    *live.ROUTES,
    *signing.ROUTES,
    *frame.ROUTES,
)
